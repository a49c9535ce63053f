"""A situation from files, at a desk: a bundle or draft, weights, and rows as CSV or npz.

As `journeyman bundle test` made the weights: the same files in any order, its split by the bundle's
rule with seed 0, so that the rows which judge here were held out there.  The present row is the
newest one of this site's file.  Signatures are not verified here, as in `bundle test`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from agent.bundle.examples import Examples, make_examples, make_site
from agent.bundle.tables import Table, read_table
from agent.model import Model, prepare, with_local
from agent.recommend.situation import Situation, UnusableError, Values, surrogate_of
from agent.signals.features import Moments, measure
from agent.signals.labels import in_unit
from wire.bundle import Bundle, read_draft
from wire.codec import MAX_BYTES
from wire.errors import MalformedError, SettingsError, WireError
from wire.files import read_small
from wire.manifest import Manifest
from wire.standards import Standard
from wire.tensors import Params, read_params

_SEED = 0
"""Of the split; the default of `bundle test`."""


@dataclass(frozen=True)
class Files:
    """What was given.

    Attributes:
      bundle: signed or a draft.
      weights: of its versions; those that count first, none for the bundle's own.
      rows: this site's, oldest first.
      others: further files that the weights were learned from.
      group, time: columns of the files that are no channels; empty where there are none.
    """

    bundle: Path
    weights: Sequence[Path]
    rows: Path
    others: Sequence[Path] = ()
    group: str = ""
    time: str = ""


def manifest_of(path: Path) -> Manifest:
    """The manifest of a bundle's file, unverified.

    Raises:
      SettingsError: it is no bundle.
    """
    return _bundle(path).manifest


def read_files(files: Files) -> Situation:
    """Read everything.

    Raises:
      SettingsError: a bundle or weights can not be used.
      TableError: a file of rows can not be used.
      UnusableError: there is no row.
    """
    bundle = _bundle(files.bundle)
    manifest = bundle.manifest
    try:
        model = prepare(bundle)
    except WireError as error:
        raise SettingsError(str(files.bundle), None, None, str(error)) from None
    versions = [_weights(path, bundle) for path in files.weights] or [bundle.weights]
    table = read_table(files.rows, manifest, files.group, files.time)
    examples = make_examples(manifest, table)
    site = make_site(manifest, files.rows.name, examples, _SEED)
    if manifest.label is None or not len(site.held_out):
        raise UnusableError(f"{files.rows}: no labelled rows are held out")
    moments = [measure(manifest.features, site.train.x)]
    moments += [_moments(path, manifest, files) for path in files.others]
    standard = _standard(manifest, moments)
    values = _values(manifest, table)
    judges = set(_keys(site.held_out))
    held_out = np.array([key in judges for key in _keys(examples)])
    labels = in_unit(manifest.label, examples.y)
    return Situation(
        manifest=manifest,
        surrogate=surrogate_of(model, standard, versions),
        values=values[held_out],
        labels=labels[held_out],
        now=values[table.times.argmax()],
        model=_named(model, files),
        at=f"the newest row of {files.rows}",
    )


def _named(model: Model, files: Files) -> str:
    weights = ", ".join(str(path) for path in files.weights) or "its own weights"
    return f"{model.manifest.name}: {weights} (signature not verified here)"


def _keys(examples: Examples) -> Iterator[tuple[str, float]]:
    """Group and time of each example, which no two rows of a file share."""
    return zip(examples.groups.tolist(), examples.first.tolist(), strict=True)


def _values(manifest: Manifest, table: Table) -> Values:
    """Rows in the table's order, float64 (N, C)."""
    columns = [table.channels[channel.name] for channel in manifest.channels]
    return np.column_stack(columns).astype(np.float64)


def _moments(path: Path, manifest: Manifest, files: Files) -> Moments:
    """Of the rows that a file's site learned from."""
    examples = make_examples(manifest, read_table(path, manifest, files.group, files.time))
    return measure(manifest.features, make_site(manifest, path.name, examples, _SEED).train.x)


def _standard(manifest: Manifest, moments: list[Moments]) -> Standard | None:
    if manifest.standardise == "given":
        return None
    if manifest.standardise == "local":
        return moments[0].standard
    return reduce(add, moments).standard


def _bundle(path: Path) -> Bundle:
    data = read_small(path, MAX_BYTES["bundle"], "a bundle")
    try:
        return read_draft(data)[0]
    except WireError as error:
        raise SettingsError(str(path), None, None, str(error)) from None


def _weights(path: Path, bundle: Bundle) -> Params:
    """All tensors of the model; of a published version, the local ones are the bundle's own."""
    data, manifest = read_small(path, MAX_BYTES["bundle"], "weights"), bundle.manifest
    try:
        return read_params(data, manifest.shapes)
    except MalformedError as error:
        if manifest.shapes == manifest.shared_shapes:
            raise SettingsError(str(path), None, None, str(error)) from None
    try:
        shared = read_params(data, manifest.shared_shapes)
    except MalformedError as error:
        raise SettingsError(str(path), None, None, str(error)) from None
    return with_local(manifest, shared, bundle.weights)

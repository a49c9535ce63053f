"""The first weights, and who trains first.

`bundle`   the author's weights, drawn by the seed of `journeyman bundle build` or brought along
`random`   drawn anew: each tensor normal with its own mean and deviation in the bundle, so that
           what the author meant is kept and constant tensors stay constant
`file`     a safetensors file, such as another federation's weights
`site`     the bundle's weights, then `versions` versions by one site alone, at the coordinator's
           request: it alone is granted, each of its updates is a version, then all join.  A model
           of one site is published, so the charter's k_min must be 1
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from coordinator.aggregate import Buffer
from coordinator.aggregation import Rules
from coordinator.strategies.strategy import Offer, Rejected
from wire.audit_entries import InitialSource
from wire.errors import MalformedError
from wire.manifest import Manifest
from wire.settings import Settings
from wire.tensors import MAX_PARAMETERS, Params, read_params

_MOST_BYTES = 4 * MAX_PARAMETERS + (1 << 21)


class InitialSettings(Settings, frozen=True, kw_only=True):
    """The `[initial]` table.

    Attributes:
      source: the first weights are the `bundle`'s, `random`, of a `file` (safetensors), or those
        of one `site` that trains alone first.
      seed: of `random`.
      file: of `file`; its tensors are the bundle's shared ones, or all.
      site: of `site`.
      versions: of `site`, how many it trains alone.
    """

    source: InitialSource = "bundle"
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    file: str = ""
    site: str = ""
    versions: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10


def first_weights(
    settings: InitialSettings, manifest: Manifest, bundle_weights: Params, file: Path
) -> Params:
    """Weights of version 0: the shared tensors.

    Args:
      settings: where they come from.
      manifest: names and shapes.
      bundle_weights: the author's.
      file: path of `settings.file`.

    Raises:
      OSError: the file can not be read.
      WireError: it does not hold the model's tensors.
    """
    shared = {name: bundle_weights[name] for name, _ in manifest.shared_shapes}
    if settings.source == "random":
        random = np.random.default_rng(settings.seed)
        return {
            name: random.normal(tensor.mean(), tensor.std(), tensor.shape).astype(np.float32)
            for name, tensor in shared.items()
        }
    if settings.source != "file":
        return shared
    with file.open("rb") as opened:
        data = opened.read(_MOST_BYTES + 1)
    try:
        return read_params(data, manifest.shared_shapes)
    except MalformedError:
        whole = read_params(data, manifest.shapes)
        return {name: whole[name] for name in shared}


def contributor_of(settings: InitialSettings, manifest: Manifest) -> tuple[InitialSource, str]:
    """Whose the first weights are, for the audit log: (source, in words)."""
    bundle = f"bundle {manifest.name} revision {manifest.revision}"
    words: dict[InitialSource, str] = {
        "bundle": f"the author of {bundle}",
        "random": f"drawn by the coordinator, seed {settings.seed}, like those of {bundle}",
        "file": f"whoever made the file {Path(settings.file).name}, chosen by the coordinator",
        "site": f"the author of {bundle}, then site {settings.site}, {settings.versions} versions",
    }
    return settings.source, words[settings.source]


def site_alone(rules: Rules, settings: InitialSettings) -> Rules:
    """The rules while one site trains the first versions."""

    def admit(offer: Offer, _buffer: Buffer, current: int) -> int | Rejected:
        if offer.site != settings.site:
            reason = f"site {settings.site} trains alone until version {settings.versions}, now "
            return Rejected(f"{reason}at {current}")
        return offer.weight

    def is_ready(buffer: Buffer, _age_s: float) -> bool:
        return bool(buffer.members)

    return replace(rules, strategy=replace(rules.strategy, admit=admit, is_ready=is_ready))

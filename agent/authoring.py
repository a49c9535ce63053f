"""Building a model bundle from a description in TOML: `journeyman bundle build`.

It lives with the agent because the golden vectors are made by the very runtime that will check
them, from the graph that a gateway will derive.  Refuses here, at the author's desk, whatever a
gateway would refuse: `docs/bundle.md` lists every key.
"""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.declared import FamilySettings, family_graph
from agent.learning.choice import open_backend
from agent.learning.golden import golden_tensors, make_golden
from agent.learning.graph import Graph, GraphError, initial_params, read_graph, write_graph
from agent.learning.losses import Loss
from agent.learning.runtime import BackendError
from agent.learning.simplify import AUTHORING_LIMITS, read_exported
from agent.model import check_graph_fits
from wire.bundle import GOLDEN, MODEL, WEIGHTS, write_bundle, write_draft
from wire.errors import BundleError, SettingsError
from wire.manifest import (
    Alarm,
    Channel,
    Feature,
    Label,
    LossName,
    Manifest,
    Recipe,
    Split,
    Standardise,
    Symmetry,
    Tensor,
    Window,
    check_manifest,
    input_shape,
)
from wire.messages import Name, NonNegative, Positive, Text
from wire.settings import Settings, read_settings, settings_error
from wire.signing import PrivateKey
from wire.tensors import Params, write_params, write_safetensors

_GOLDEN_ROWS = 16
_GOLDEN_NUMBERS = 1 << 16
"""Numbers in the golden rows at most, 256 KiB; a model of images gets fewer rows."""


Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
"""A tensor's name, or a pattern such as `head.*` (`fnmatch`)."""


class BundleSettings(Settings, frozen=True, kw_only=True):
    """The whole description file (`configs/jobs/` has examples)."""

    name: Name
    revision: Positive = 1
    description: Text = ""
    loss: LossName = "binary_cross_entropy"
    threshold: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.5
    alarm: Alarm | None = None
    tolerance: NonNegative = 1e-3
    standardise: Standardise = "given"
    channel: Annotated[tuple[Channel, ...], msgspec.Meta(min_length=1, max_length=256)]
    label: Label | None = None
    window: Window | None = None
    feature: Annotated[tuple[Feature, ...], msgspec.Meta(min_length=1, max_length=1024)]
    symmetry: Symmetry = "none"
    recipe: Recipe = Recipe()
    split: Split = Split()
    family: FamilySettings | None = None
    model: str = ""
    local_tensors: Annotated[tuple[Pattern, ...], msgspec.Meta(max_length=1024)] = ()


def read_bundle_settings(path: Path) -> BundleSettings:
    """Read a description; it names a model by `family` or by `model`, not both."""
    settings = read_settings(path, BundleSettings)
    if (settings.family is None) == (not settings.model):
        raise SettingsError(
            str(path), None, "family", 'give either a table [family] or model = "file.onnx"'
        )
    return settings


def build_bundle(
    path: Path,
    settings: BundleSettings,
    federation: str,
    author: PrivateKey,
    agreement: bytes = bytes(32),
) -> bytes:
    """Build and sign a bundle.

    Args:
      path: of the description; a model file is relative to it.
      settings: its content.
      federation: for which federation it is signed.
      author: one of the charter's author keys.
      agreement: SHA-256 of the agreement text, as in the charter.

    Raises:
      SettingsError: the model can not be read or trained, with file and reason.
    """
    manifest, files = _build(path, settings)
    manifest = msgspec.structs.replace(manifest, agreement=agreement)
    return write_bundle(manifest, files, federation, author)


def build_draft(path: Path, settings: BundleSettings) -> bytes:
    """Build a bundle without a signature, which agents and coordinators refuse.

    Raises:
      SettingsError: as `build_bundle`.
    """
    return write_draft(*_build(path, settings))


def _build(path: Path, settings: BundleSettings) -> tuple[Manifest, dict[str, bytes]]:
    manifest = _manifest(path, settings)
    model = write_graph(_graph(path, settings, manifest))
    source = str(path.parent / settings.model) if settings.model else str(path)
    try:
        graph = read_graph(model)  # under the caps of gateways, which are below those of exporters
        params = initial_params(graph)
        tensors = _tensors(path, settings, params)
        manifest = msgspec.structs.replace(manifest, tensors=tensors)
        check_graph_fits(manifest, graph)
        backend = open_backend(graph, Loss(settings.loss))
        golden = make_golden(backend, params, *golden_rows(manifest))
    except (GraphError, BackendError, BundleError, ValueError) as error:
        key = "model" if settings.model else "family"
        raise SettingsError(source, None, key, str(error)) from None
    files = {
        MODEL: model,
        WEIGHTS: write_params(params),
        GOLDEN: write_safetensors(golden_tensors(golden)),
    }
    return manifest, files


def _tensors(path: Path, settings: BundleSettings, params: Params) -> tuple[Tensor, ...]:
    """The model's tensors, in order, each shared or local.

    Raises:
      SettingsError: a name or pattern of `local_tensors` fits no tensor, or they leave none.
    """
    local: set[str] = set()
    for pattern in settings.local_tensors:
        found = {name for name in params if name == pattern or fnmatchcase(name, pattern)}
        if not found:
            names = ", ".join(list(params)[:20])
            reason = f"{pattern!r} is no tensor of the model, which has {names}"
            raise settings_error(path, "local_tensors", reason)
        local |= found
    if len(local) == len(params):
        reason = "all tensors are local, so there is nothing to learn together"
        raise settings_error(path, "local_tensors", reason)
    return tuple(
        Tensor(name=name, shape=value.shape, local=name in local) for name, value in params.items()
    )


def _manifest(path: Path, settings: BundleSettings) -> Manifest:
    """The manifest but for tensors and files, checked."""
    manifest = Manifest(
        name=settings.name,
        revision=settings.revision,
        description=settings.description,
        channels=settings.channel,
        label=settings.label,
        window=settings.window,
        features=settings.feature,
        standardise=settings.standardise,
        loss=settings.loss,
        symmetry=settings.symmetry,
        recipe=settings.recipe,
        split=settings.split,
        tensors=(),
        threshold=settings.threshold,
        alarm=settings.alarm,
        tolerance=settings.tolerance,
        files={},
    )
    try:
        check_manifest(manifest)
    except BundleError as error:
        reason = str(error).removeprefix(f"bundle {settings.name}: ")
        raise SettingsError(str(path), None, None, reason) from None
    return manifest


def golden_rows(manifest: Manifest) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Make rows and labels for golden vectors; the same manifest gives the same rows.

    Returns:
      x, float32 (N, *input shape), standard normal, as standardised inputs are; and y as the loss
      needs it. Reconstruction has no labels; a column of zeros stands in their place, because a
      safetensors file holds no empty tensors.
    """
    shape = input_shape(manifest)
    numbers = int(np.prod(shape, dtype=np.int64))
    rows = max(1, min(_GOLDEN_ROWS, _GOLDEN_NUMBERS // numbers))
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, *shape)).astype(np.float32)
    if manifest.loss == "binary_cross_entropy":
        return x, (random.random((rows, 1)) < 0.5).astype(np.float32)
    if manifest.loss == "cross_entropy" and manifest.label is not None:
        return x, random.integers(0, len(manifest.label.classes), rows, np.int64)
    if manifest.loss == "reconstruction":
        return x, np.zeros((rows, 1), np.float32)
    return x, random.standard_normal((rows, 1)).astype(np.float32)


def _graph(path: Path, settings: BundleSettings, manifest: Manifest) -> Graph:
    if settings.family is not None:
        try:
            return family_graph(settings.family, manifest)
        except ValueError as error:  # a GraphError too
            raise SettingsError(str(path), None, "family", str(error)) from None
    file = path.parent / settings.model
    try:
        with file.open("rb") as opened:
            data = opened.read(AUTHORING_LIMITS.total_bytes + 1)  # one more, so it is refused
        return read_exported(data)
    except OSError as error:
        reason = f"can not read: {error.strerror}"
        raise SettingsError(str(file), None, "model", reason) from None
    except GraphError as error:
        raise SettingsError(str(file), None, "model", str(error)) from None

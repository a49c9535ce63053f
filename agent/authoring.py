"""Building a model bundle from a description in TOML: `journeyman bundle build`.

It lives with the agent because the golden vectors are made by the very runtime that will check
them, from the graph that a gateway will derive.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from agent.learning.backend import OnnxRuntimeBackend
from agent.learning.families import mlp
from agent.learning.golden import golden_tensors, make_golden
from agent.learning.graph import Graph, GraphError, initial_params, read_graph, write_graph
from agent.learning.losses import Loss
from wire.bundle import (
    GOLDEN,
    MODEL,
    WEIGHTS,
    Channel,
    Feature,
    Label,
    Manifest,
    Tensor,
    write_bundle,
)
from wire.errors import SettingsError
from wire.settings import Settings, read_settings
from wire.signing import PrivateKey
from wire.tensors import write_params, write_safetensors

_GOLDEN_ROWS = 16


class FamilySettings(Settings, frozen=True, kw_only=True):
    """`[family]`: a declared kind of model instead of an ONNX file."""

    name: Literal["mlp"]
    hidden: Annotated[tuple[int, ...], msgspec.Meta(max_length=16)]
    seed: int = 0


class BundleSettings(Settings, frozen=True, kw_only=True):
    """The whole description file (`configs/jobs/` has examples)."""

    name: str
    revision: int = 1
    description: str = ""
    loss: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    threshold: float = 0.5
    channel: tuple[Channel, ...]
    label: Label
    feature: tuple[Feature, ...]
    family: FamilySettings | None = None
    model: str = ""


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
    graph = _graph(path, settings)
    params = initial_params(graph)
    loss = Loss(settings.loss)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((_GOLDEN_ROWS, len(settings.feature))).astype(np.float32)
    y = (rng.random((_GOLDEN_ROWS, 1)) < 0.5).astype(np.float32)
    try:
        golden = make_golden(OnnxRuntimeBackend(graph, loss), params, x, y)
    except (GraphError, ValueError) as error:
        raise SettingsError(str(path), None, "model", str(error)) from None
    manifest = Manifest(
        name=settings.name,
        revision=settings.revision,
        description=settings.description,
        channels=settings.channel,
        label=settings.label,
        features=settings.feature,
        loss=settings.loss,
        tensors=tuple(Tensor(name=name, shape=value.shape) for name, value in params.items()),
        threshold=settings.threshold,
        agreement=agreement,
        files={},
    )
    files = {
        MODEL: write_graph(graph),
        WEIGHTS: write_params(params),
        GOLDEN: write_safetensors(golden_tensors(golden)),
    }
    return write_bundle(manifest, files, federation, author)


def _graph(path: Path, settings: BundleSettings) -> Graph:
    if settings.family is not None:
        family = settings.family
        return mlp(len(settings.feature), family.hidden, 1, family.seed)
    file = path.parent / settings.model
    try:
        return read_graph(file.read_bytes())
    except (OSError, GraphError) as error:
        raise SettingsError(str(file), None, "model", str(error)) from None

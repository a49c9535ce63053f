"""Declared families: models that a description names by a few numbers instead of an ONNX file.

Responsible for the table `[family]` of a description, and for fitting a family's input and output
to the manifest's features and loss.  The graphs are made by `agent.learning.families`.
"""

from typing import Annotated

import msgspec

from agent.learning.families import Pooling, autoencoder, cnn1d, cnn2d, mlp
from agent.learning.ir import Graph
from wire.manifest import Manifest, input_shape
from wire.settings import Settings

Width = Annotated[int, msgspec.Meta(ge=1, le=65536)]
Widths = Annotated[tuple[Width, ...], msgspec.Meta(min_length=1, max_length=16)]
Kernel = Annotated[int, msgspec.Meta(ge=1, le=1023)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class Mlp(Settings, tag_field="name", tag="mlp", frozen=True, kw_only=True):
    """Dense layers with Relu between them; series and arrays are flattened first."""

    hidden: Annotated[tuple[Width, ...], msgspec.Meta(max_length=16)]
    seed: Seed = 0


class Cnn1d(Settings, tag_field="name", tag="cnn1d", frozen=True, kw_only=True):
    """Convolutions along series with pools between them, then dense layers."""

    widths: Widths = (32, 64, 64)
    kernel: Kernel | Annotated[tuple[Kernel, ...], msgspec.Meta(min_length=1, max_length=16)] = 5
    pool: Width = 2
    pooling: Pooling = "max"
    hidden: Annotated[tuple[Width, ...], msgspec.Meta(max_length=16)] = ()
    seed: Seed = 0


class Cnn2d(Settings, tag_field="name", tag="cnn2d", frozen=True, kw_only=True):
    """Convolutions over images, each with a pool, then one dense layer."""

    widths: Widths = (16, 32, 32, 64)
    kernel: Kernel = 3
    seed: Seed = 0


class Autoencoder(Settings, tag_field="name", tag="autoencoder", frozen=True, kw_only=True):
    """Narrower and narrower and back again; for loss reconstruction."""

    widths: Widths = (32, 32, 16)
    kernel: Kernel = 5
    seed: Seed = 0


FamilySettings = Mlp | Cnn1d | Cnn2d | Autoencoder


def family_graph(family: FamilySettings, manifest: Manifest) -> Graph:
    """Make the forward graph of a family for a manifest's features and loss.

    Raises:
      ValueError: the family does not fit the features or the loss; says how.
    """
    shape = input_shape(manifest)
    if isinstance(family, Autoencoder):
        if manifest.loss != "reconstruction":
            raise ValueError(f"autoencoder is for loss reconstruction, not {manifest.loss}")
        return autoencoder(shape, family.seed, widths=family.widths, kernel=family.kernel)
    width = _outputs(manifest, shape)
    if isinstance(family, Mlp):
        return mlp(shape, family.hidden, width, family.seed)
    if isinstance(family, Cnn1d):
        channels, length = _sizes(shape, 2, "cnn1d takes series (channels, length)")
        return cnn1d(
            channels,
            length,
            width,
            family.seed,
            widths=family.widths,
            kernel=family.kernel,
            pool=family.pool,
            pooling=family.pooling,
            hidden=family.hidden,
        )
    channels, height, across = _sizes(shape, 3, "cnn2d takes images (channels, height, width)")
    return cnn2d(
        channels, height, across, width, family.seed, widths=family.widths, kernel=family.kernel
    )


def _outputs(manifest: Manifest, shape: tuple[int, ...]) -> int:
    """How many numbers the model gives for one row."""
    if manifest.loss == "cross_entropy" and manifest.label is not None:
        return len(manifest.label.classes)
    if manifest.loss != "reconstruction":
        return 1
    (numbers,) = _sizes(
        shape, 1, "only an autoencoder gives back series and images; mlp takes rows"
    )
    return numbers


def _sizes(shape: tuple[int, ...], rank: int, what: str) -> tuple[int, ...]:
    if len(shape) != rank:
        raise ValueError(f"{what}; the features make inputs of shape {shape}")
    return shape

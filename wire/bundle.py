"""The model bundle: one signed file that holds a model as data.

File format: an envelope of kind `bundle` (`wire/codec.py`) signed by one of the charter's authors,
whose body is the MessagePack map {manifest, files}.  `files` are `model.onnx` (the forward graph),
`weights.safetensors` (initial weights) and `golden.safetensors` (input, output, loss, gradient
norms); the manifest names each by SHA-256.  Nothing is compressed, so nothing can blow up, and
there are no paths, so nothing can escape.  No code travels: the agent derives the training graph.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from wire.chunks import sha256
from wire.codec import open_envelope, parse_body, seal_bytes
from wire.errors import BundleError
from wire.messages import Digest, Finite, Message, Name, NonNegative, Positive, Text
from wire.signing import PrivateKey
from wire.tensors import Params, read_params
from wire.trust import AUTHOR, Trust, verify_author

MODEL = "model.onnx"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.safetensors"

Deviation = Annotated[float, msgspec.Meta(gt=0.0, le=1e12)]


class Channel(Message, frozen=True, kw_only=True):
    """An input of the model, by the federation's name for it, in this unit."""

    name: Name
    unit: Annotated[str, msgspec.Meta(max_length=20)]


class Label(Message, frozen=True, kw_only=True):
    """What is learned: a channel whose value is the class of the row."""

    channel: Name


class Level(Message, tag="level", frozen=True, kw_only=True):
    """Feature: (channel - mean) / std."""

    channel: Name
    mean: Finite
    std: Deviation


class Difference(Message, tag="difference", frozen=True, kw_only=True):
    """Feature: (a - b - mean) / std."""

    a: Name
    b: Name
    mean: Finite
    std: Deviation


class Product(Message, tag="product", frozen=True, kw_only=True):
    """Feature: (a * b - mean) / std."""

    a: Name
    b: Name
    mean: Finite
    std: Deviation


Feature = Level | Difference | Product


class Tensor(Message, frozen=True, kw_only=True):
    """One tensor of the flat vector."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    shape: Annotated[tuple[Positive, ...], msgspec.Meta(max_length=8)]


class Manifest(Message, frozen=True, kw_only=True):
    """What a site needs to know to train and serve the model.

    Attributes:
      channels: inputs of the feature pipeline, in order.
      features: inputs of the graph, in order.
      loss: `binary_cross_entropy` on one logit.
      tensors: order and shapes of the flat vector.
      threshold: score from which a row raises an alarm.
      agreement: SHA-256 of the agreement text that the charter names too.
      files: SHA-256 of every file.
    """

    name: Name
    revision: Positive
    description: Text = ""
    channels: Annotated[tuple[Channel, ...], msgspec.Meta(min_length=1, max_length=256)]
    label: Label
    features: Annotated[tuple[Feature, ...], msgspec.Meta(min_length=1, max_length=1024)]
    loss: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    tensors: Annotated[tuple[Tensor, ...], msgspec.Meta(min_length=1, max_length=1024)]
    threshold: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.5
    tolerance: NonNegative = 1e-3
    agreement: Digest = bytes(32)
    files: Annotated[dict[str, Digest], msgspec.Meta(max_length=8)]

    @property
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the flat vector's tensors, in order."""
        return [(tensor.name, tensor.shape) for tensor in self.tensors]


class _Body(Message, frozen=True, kw_only=True):
    manifest: Manifest
    files: Annotated[dict[str, bytes], msgspec.Meta(max_length=8)]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    manifest: Manifest
    files: dict[str, bytes]

    @property
    def weights(self) -> Params:
        """Initial weights."""
        return read_params(self.files[WEIGHTS], self.manifest.shapes)


def write_bundle(
    manifest: Manifest, files: dict[str, bytes], federation: str, author: PrivateKey
) -> bytes:
    """Sign manifest and files; the manifest's `files` are filled in here."""
    named = msgspec.structs.replace(
        manifest, files={name: sha256(data) for name, data in files.items()}
    )
    body = msgspec.msgpack.encode(_Body(manifest=named, files=files))
    return seal_bytes(
        "bundle", body, federation=federation, signer=AUTHOR, counter=manifest.revision, key=author
    )


def read_bundle(data: bytes, trust: Trust) -> Bundle:
    """Verify signature, hashes and the manifest's own logic.

    The graph is NOT read here: the agent validates it before it derives anything from it.

    Raises:
      WireError: with what is wrong.
    """
    opened = open_envelope(data, "bundle")
    verify_author(opened, trust)
    body = parse_body(opened, _Body)
    manifest = body.manifest
    if set(body.files) != {MODEL, WEIGHTS, GOLDEN}:
        reason = f"bundle {manifest.name}: files {sorted(body.files)} are not the three expected"
        raise BundleError(reason)
    if {name: sha256(data) for name, data in body.files.items()} != manifest.files:
        reason = f"bundle {manifest.name}: a file does not have the manifest's SHA-256"
        raise BundleError(reason)
    if manifest.agreement != trust.charter.agreement:
        reason = f"bundle {manifest.name}: made under another agreement than the charter's"
        raise BundleError(reason)
    _check_channels(manifest)
    read_params(body.files[WEIGHTS], manifest.shapes)
    return Bundle(manifest, body.files)


def _check_channels(manifest: Manifest) -> None:
    names = [channel.name for channel in manifest.channels]
    used = [
        name
        for feature in manifest.features
        for name in ((feature.channel,) if isinstance(feature, Level) else (feature.a, feature.b))
    ]
    problems = [f"channel {name} is listed twice" for name in names if names.count(name) > 1]
    problems += [f"a feature uses the unknown channel {name}" for name in used if name not in names]
    if manifest.label.channel in used:
        problems.append(f"the label {manifest.label.channel} is an input")
    if problems:
        reason = f"bundle {manifest.name}: {problems[0]}"
        raise BundleError(reason)

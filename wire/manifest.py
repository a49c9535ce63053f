"""The manifest of a model bundle: what the numbers going in and coming out mean.

Responsible for the closed set of feature transforms, for their shapes, and for everything that can
be wrong with a manifest without looking at its graph.  Refuses keys that it does not know, in every
table, because such a key may change what an input means.  `docs/bundle.md` is the specification;
`agent/signals/features.py` computes what is declared here.

Invariant: a manifest that `check_manifest` accepts has exactly one input shape, `input_shape`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from wire.errors import BundleError
from wire.messages import (
    MAX_COLUMNS,
    Digest,
    Finite,
    Message,
    Name,
    NonNegative,
    Positive,
    Text,
)

MAX_INPUT_ELEMENTS = 4 << 20
"""Numbers in one input of the graph; as much as a graph may have in one value."""

Deviation = Annotated[float, msgspec.Meta(gt=0.0, le=1e12)]
Length = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
Share = Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]
Standardise = Literal["given", "local", "federated"]
LossName = Literal["binary_cross_entropy", "cross_entropy", "mse", "huber", "reconstruction"]
REGRESSION = ("mse", "huber")


class Part(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the manifest; unlike in other messages an unknown key is refused."""


class Channel(Part, frozen=True, kw_only=True):
    """An input of the model, by the federation's name for it, in this unit.

    Attributes:
      rate_hz: values per second along the channel's series; 0 when it has no fixed rate.
      shape: of one row's value: () a number, (1024,) a waveform, (2, 64, 64) an image.
    """

    name: Name
    unit: Annotated[str, msgspec.Meta(max_length=20)]
    rate_hz: Annotated[float, msgspec.Meta(ge=0.0, le=1e9)] = 0.0
    shape: Annotated[tuple[Length, ...], msgspec.Meta(max_length=4)] = ()


class Label(Part, frozen=True, kw_only=True):
    """What is learned: a channel whose value is the answer for its row.

    Attributes:
      channel: never an input.
      classes: names of classes 0, 1, ...; the channel's value is the number of the class.
      mean, std: a regression learns (value - mean) / std.
      lowest, highest: a regression's label is first clipped to these, in the channel's unit.
    """

    channel: Name
    classes: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1024)] = ()
    mean: Finite = 0.0
    std: Deviation = 1.0
    lowest: Finite | None = None
    highest: Finite | None = None


class Window(Part, frozen=True, kw_only=True):
    """Turns numbers of consecutive rows into series.

    Attributes:
      length: rows in a window; the label is that of its last row.
      stride: rows from the beginning of a window to that of the next.
    """

    length: Length
    stride: Length = 1


class Scaled(Part, frozen=True, kw_only=True):
    """What all features have: their value minus `mean`, divided by `std`."""

    mean: Finite = 0.0
    std: Deviation = 1.0


class Level(Scaled, tag="level", frozen=True, kw_only=True):
    """Feature: the channel's own value."""

    channel: Name


class Difference(Scaled, tag="difference", frozen=True, kw_only=True):
    """Feature: a - b."""

    a: Name
    b: Name


class Product(Scaled, tag="product", frozen=True, kw_only=True):
    """Feature: a * b."""

    a: Name
    b: Name


class OneHot(Scaled, tag="one_hot", frozen=True, kw_only=True):
    """Features, one for each of `values`: 1 where the channel has exactly this value, else 0."""

    channel: Name
    values: Annotated[tuple[Finite, ...], msgspec.Meta(min_length=1, max_length=256)]


class Mean(Scaled, tag="mean", frozen=True, kw_only=True):
    """Feature: mean of a series."""

    channel: Name


class Std(Scaled, tag="std", frozen=True, kw_only=True):
    """Feature: population standard deviation of a series."""

    channel: Name


class Rms(Scaled, tag="rms", frozen=True, kw_only=True):
    """Feature: root of the mean square of a series."""

    channel: Name


class Kurtosis(Scaled, tag="kurtosis", frozen=True, kw_only=True):
    """Feature: excess (Fisher) kurtosis of a series, 0 for a normal distribution."""

    channel: Name


class CrestFactor(Scaled, tag="crest_factor", frozen=True, kw_only=True):
    """Feature: largest absolute value of a series over its rms."""

    channel: Name


class BandEnergy(Scaled, tag="band_energy", frozen=True, kw_only=True):
    """Feature: mean square of a series in low_hz <= f < high_hz (the Nyquist rate included)."""

    channel: Name
    low_hz: NonNegative
    high_hz: NonNegative


Summary = Mean | Std | Rms | Kurtosis | CrestFactor | BandEnergy
"""Features that make one number of a series."""
Feature = Level | Difference | Product | OneHot | Summary


Symmetry = Literal["none", "mirror", "square"]


class Recipe(Part, frozen=True, kw_only=True):
    """How the author would train; a federation's policy overrides it.

    The fields are those of `agent.learning.plan.TrainingPlan`; class weights `balanced` are
    N / (classes * N_class) of the training rows.
    """

    epochs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 32
    optimizer: Literal["sgd", "momentum", "adam"] = "adam"
    learning_rate: Deviation = 1e-3
    last_learning_rate: NonNegative = 0.0
    class_weights: (
        Annotated[tuple[Deviation, ...], msgspec.Meta(max_length=1024)] | Literal["balanced"]
    ) = ()
    patience: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    proximal: NonNegative = 0.0
    average_tail: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0


class Split(Part, frozen=True, kw_only=True):
    """Which rows are held out for judging: whole groups, or whole stretches of time."""

    share: Share = 0.25
    by: Literal["group", "time"] = "time"


class Alarm(Part, frozen=True, kw_only=True):
    """By what the threshold is found that all sites' counts of held-out rows say.

    Either by cost, for two classes, or by a share, for reconstruction.

    Attributes:
      missed_cost: of a failure without an alarm, in the unit of `false_cost`.
      false_cost: of an alarm without a failure.
      share: of all rows, so many raise an alarm.
    """

    missed_cost: Deviation | None = None
    false_cost: Deviation = 1.0
    share: Share | None = None


class Tensor(Part, frozen=True, kw_only=True):
    """One tensor of the model.

    Attributes:
      local: each site keeps and trains its own; it is in no update and in no published version.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    shape: Annotated[tuple[Positive, ...], msgspec.Meta(max_length=8)]
    local: bool = False


class Manifest(Part, frozen=True, kw_only=True):
    """What a site needs to know to train and serve the model.

    Attributes:
      channels: inputs of the feature pipeline, in order.
      label: what is learned; None for `reconstruction` alone, which learns its own input.
      window: how rows become series; None when each row stands for itself.
      features: inputs of the graph, in order.
      standardise: `given`: by the features' constants alone; `local`: also by mean and standard
        deviation over the site's training rows; `federated`: by those over all sites' rows.
      loss: what training makes small.
      symmetry: how an image may lie without its label changing, so that training shows it in any
        such position: `mirror`: left and right may change places; `square`: it may also be turned
        by a quarter, half or three quarters.
      recipe: how the author would train.
      split: how the author would hold rows out.
      tensors: order and shapes of the model's tensors; the flat vector is the shared ones'.
      threshold: score from which a row raises an alarm, until a head says another.
      alarm: by what a head's threshold is found; None: there is none but `threshold`.
      tolerance: largest relative difference of a runtime from the golden vectors.
      agreement: SHA-256 of the agreement text that the charter names too.
      files: SHA-256 of every file.
    """

    name: Name
    revision: Positive
    description: Text = ""
    channels: Annotated[tuple[Channel, ...], msgspec.Meta(min_length=1, max_length=256)]
    label: Label | None = None
    window: Window | None = None
    features: Annotated[tuple[Feature, ...], msgspec.Meta(min_length=1, max_length=1024)]
    standardise: Standardise = "given"
    loss: LossName = "binary_cross_entropy"
    symmetry: Symmetry = "none"
    recipe: Recipe = Recipe()
    split: Split = Split()
    tensors: Annotated[tuple[Tensor, ...], msgspec.Meta(min_length=1, max_length=1024)]
    threshold: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.5
    alarm: Alarm | None = None
    tolerance: NonNegative = 1e-3
    agreement: Digest = bytes(32)
    files: Annotated[dict[str, Digest], msgspec.Meta(max_length=8)]

    @property
    def counts_errors(self) -> bool:
        """Whether evaluations count rows by error."""
        return self.alarm is not None and self.alarm.share is not None

    @property
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all the model's tensors, in order."""
        return [(tensor.name, tensor.shape) for tensor in self.tensors]

    @property
    def shared_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the tensors that versions and updates hold: the flat vector's."""
        return [(tensor.name, tensor.shape) for tensor in self.tensors if not tensor.local]


def sources(feature: Feature) -> tuple[str, ...]:
    """Names of the channels that a feature is computed from."""
    if isinstance(feature, Difference | Product):
        return (feature.a, feature.b)
    return (feature.channel,)


def columns(feature: Feature) -> int:
    """How many columns a feature gives."""
    return len(feature.values) if isinstance(feature, OneHot) else 1


def describe(feature: Feature) -> str:
    """A feature in words, for errors and listings: `kurtosis(current)`."""
    kind = str(type(feature).__struct_config__.tag)
    extra = ""
    if isinstance(feature, BandEnergy):
        extra = f", {feature.low_hz:g} to {feature.high_hz:g} Hz"
    if isinstance(feature, OneHot):
        extra = f", {len(feature.values)} values"
    return f"{kind}({', '.join(sources(feature))}{extra})"


def check_manifest(manifest: Manifest) -> None:
    """Check everything that a manifest's tables say about each other.

    Raises:
      BundleError: names the first contradiction.
    """
    problem = next(_problems(manifest), None)
    if problem is not None:
        raise BundleError(f"bundle {manifest.name}: {problem}")
    input_shape(manifest)


def input_shape(manifest: Manifest) -> tuple[int, ...]:
    """Shape of one input of the graph, without the batch axis.

    Returns:
      (F,) when every feature is a number; (F, L) when every feature is a series of length L; the
      array's own shape when the only feature is an array of two or more axes.

    Raises:
      BundleError: the features do not fit each other or their channels; names them.
    """
    known = {channel.name: channel for channel in manifest.channels}
    shapes = [
        _feature_shape(manifest, feature, [known[name] for name in sources(feature)])
        for feature in manifest.features
    ]
    first, rank = shapes[0], len(shapes[0])
    for feature, shape in zip(manifest.features, shapes, strict=True):
        if shape != first:
            raise BundleError(
                f"bundle {manifest.name}: features do not fit into one input: "
                f"{_named(manifest.features[0], first)}, {_named(feature, shape)}; all must be "
                "numbers, or all series of one length"
            )
    if rank >= 2 and len(shapes) > 1:
        raise BundleError(
            f"bundle {manifest.name}: {_named(manifest.features[0], first)} must be the only "
            f"feature, {len(shapes)} are given"
        )
    total = sum(columns(feature) for feature in manifest.features)
    shape = first if rank >= 2 else (total, *first)
    if total > MAX_COLUMNS or math.prod(shape) > MAX_INPUT_ELEMENTS:
        raise BundleError(
            f"bundle {manifest.name}: inputs of shape {shape} are over the caps of {MAX_COLUMNS} "
            f"columns and {MAX_INPUT_ELEMENTS} numbers"
        )
    return shape


def row_shape(channel: Channel, window: Window | None) -> tuple[int, ...]:
    """Shape of a channel's value in one example."""
    return channel.shape if window is None else (window.length, *channel.shape)


def band_bins(feature: BandEnergy, rate_hz: float, length: int) -> tuple[int, int]:
    """First and one past the last bin k of a band in a discrete Fourier transform.

    Bin k is at k * rate_hz / length; the band is low_hz <= f < high_hz, and a band that ends at
    the Nyquist rate includes it.  So bands that touch share no bin and together hold all of them.
    """
    first = math.ceil(feature.low_hz * length / rate_hz - 1e-9)
    if feature.high_hz >= rate_hz / 2:
        return first, length // 2 + 1
    return first, math.ceil(feature.high_hz * length / rate_hz - 1e-9)


def _named(feature: Feature, shape: tuple[int, ...]) -> str:
    return f"{describe(feature)} is {'a number' if not shape else f'an array of shape {shape}'}"


def _feature_shape(manifest: Manifest, feature: Feature, used: list[Channel]) -> tuple[int, ...]:
    where = f"bundle {manifest.name}: {describe(feature)}"
    shapes = [row_shape(channel, manifest.window) for channel in used]
    if shapes[-1] != shapes[0]:
        raise BundleError(f"{where}: its channels have different shapes {shapes[0]}, {shapes[1]}")
    shape = shapes[0]
    if isinstance(feature, OneHot) and len(shape) > 1:
        raise BundleError(f"{where}: needs numbers or a series, {used[0].name} is {shape}")
    if not isinstance(feature, Summary):
        return shape
    if len(shape) != 1:
        hint = "give a [window], or a channel with a shape" if not shape else f"it is {shape}"
        raise BundleError(f"{where}: needs a series: {hint}")
    if isinstance(feature, BandEnergy):
        _check_band(where, feature, used[0].rate_hz, shape[0])
    return ()


def _check_band(where: str, feature: BandEnergy, rate_hz: float, length: int) -> None:
    if rate_hz <= 0:
        raise BundleError(f"{where}: its channel needs rate_hz, the values per second")
    if not feature.low_hz < feature.high_hz <= rate_hz / 2:
        raise BundleError(f"{where}: needs low_hz < high_hz <= {rate_hz / 2:g}, half the rate")
    if length < 4:
        raise BundleError(f"{where}: needs a series of 4 values or more, it has {length}")
    first, end = band_bins(feature, rate_hz, length)
    if first >= end:
        raise BundleError(
            f"{where}: no bin of the spectrum lies in this band; {length} values at {rate_hz:g} Hz "
            f"resolve {rate_hz / length:g} Hz"
        )


def _problems(manifest: Manifest) -> Iterator[str]:
    names = [channel.name for channel in manifest.channels]
    counts: Mapping[str, int] = {name: names.count(name) for name in names}
    yield from (f"channel {name} is listed twice" for name, times in counts.items() if times > 1)
    for feature in manifest.features:
        for name in sources(feature):
            if name not in counts:
                yield f"a feature uses the unknown channel {name}"
        if isinstance(feature, OneHot) and len(set(feature.values)) < len(feature.values):
            yield f"{describe(feature)} lists a value twice"
    if manifest.window is not None:
        for channel in manifest.channels:
            if channel.shape:
                yield f"channel {channel.name} has a shape, so rows can not have a [window] as well"
    if manifest.tensors and all(tensor.local for tensor in manifest.tensors):
        yield "all tensors are local, so there is nothing to learn together"
    yield from _label_problems(manifest, names)
    yield from _alarm_problems(manifest.alarm, manifest.loss)
    yield from _symmetry_problems(manifest)
    if manifest.recipe.patience and manifest.recipe.average_tail:
        yield "recipe: patience and average_tail exclude each other"
    yield from _weight_problems(manifest)


def _label_problems(manifest: Manifest, names: list[str]) -> Iterator[str]:
    label, loss = manifest.label, manifest.loss
    if label is None:
        if loss != "reconstruction":
            yield f"loss {loss} needs a label"
        return
    if label.channel in names:
        yield f"the label {label.channel} is an input"
    if loss in REGRESSION:
        yield from _number_problems(label, loss)
        return
    if loss == "reconstruction":
        yield "loss reconstruction learns the input itself, so it has no label"
    if loss == "cross_entropy" and len(label.classes) < 2:
        yield "loss cross_entropy needs label.classes, the names of two classes or more"
    if loss == "binary_cross_entropy" and len(label.classes) not in (0, 2):
        yield f"loss binary_cross_entropy has 2 classes, {len(label.classes)} are named"
    if len(set(label.classes)) < len(label.classes):
        yield "label.classes names a class twice"
    if (label.mean, label.std, label.lowest, label.highest) != (0.0, 1.0, None, None):
        yield f"loss {loss} takes labels as they are; label.mean, std, lowest, highest do not apply"


def _number_problems(label: Label, loss: str) -> Iterator[str]:
    if label.classes:
        yield f"loss {loss} learns a number, label.classes names classes"
    if label.lowest is not None and label.highest is not None and label.lowest >= label.highest:
        yield f"label.lowest {label.lowest:g} is not below label.highest {label.highest:g}"


def _symmetry_problems(manifest: Manifest) -> Iterator[str]:
    if manifest.symmetry == "none":
        return
    shape = input_shape(manifest)
    if len(shape) != 3:
        yield f"symmetry {manifest.symmetry} is for images (C, H, W), the input is {shape}"
    elif manifest.symmetry == "square" and shape[1] != shape[2]:
        yield f"symmetry square needs images as wide as high, the input is {shape}"


def _alarm_problems(alarm: Alarm | None, loss: str) -> Iterator[str]:
    if alarm is None:
        return
    if (alarm.missed_cost is None) == (alarm.share is None):
        yield "alarm: give either missed_cost, for two classes, or share, for reconstruction"
    if alarm.missed_cost is not None and loss != "binary_cross_entropy":
        yield f"alarm.missed_cost is for loss binary_cross_entropy, not {loss}"
    if alarm.share is not None and loss != "reconstruction":
        yield f"alarm.share is for loss reconstruction, not {loss}"
    if alarm.share is not None and alarm.false_cost != 1.0:
        yield "alarm.false_cost says nothing where share does"


def _weight_problems(manifest: Manifest) -> Iterator[str]:
    weights = manifest.recipe.class_weights
    if not weights:
        return
    if manifest.label is None or manifest.loss in REGRESSION:
        yield f"recipe: class_weights have no meaning for loss {manifest.loss}"
        return
    classes = len(manifest.label.classes) or 2
    if weights != "balanced" and len(weights) != classes:
        yield f"recipe: {len(weights)} class_weights are given for {classes} classes"

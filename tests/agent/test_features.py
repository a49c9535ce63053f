"""The feature pipeline: exact numbers, textbook formulas written out again, and SciPy's."""

import math
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from agent.signals.features import (
    Moments,
    apply_features,
    band_energy,
    compute_inputs,
    crest_factor,
    kurtosis,
    mean,
    measure,
    rms,
    standardise,
    std,
)
from agent.signals.windows import cut_windows, window_starts
from wire.manifest import (
    BandEnergy,
    Channel,
    CrestFactor,
    Difference,
    Feature,
    Kurtosis,
    Label,
    Level,
    Manifest,
    Mean,
    OneHot,
    Product,
    Rms,
    Std,
    Tensor,
    Window,
    band_bins,
    check_manifest,
    input_shape,
)

VALUES = np.array([[10.0, 4.0, 3.0], [20.0, 5.0, -1.0]])
CHANNELS = ["a", "b", "c"]
SERIES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(4, 60)),
    elements=st.floats(-1e6, 1e6, width=32),
)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_each_feature_is_standardized_by_the_constants_of_the_bundle() -> None:
    features = (
        Level(channel="c", mean=1.0, std=2.0),
        Difference(a="a", b="b", mean=6.0, std=3.0),
        Product(a="a", b="c", mean=0.0, std=10.0),
    )
    inputs = apply_features(features, CHANNELS, VALUES)
    assert inputs.dtype == np.float32
    assert inputs.tolist() == [[1.0, 0.0, 3.0], [-1.0, 3.0, -2.0]]


def test_constants_that_are_not_given_change_nothing() -> None:
    inputs = apply_features((Level(channel="a"), Product(a="a", b="b")), CHANNELS, VALUES)
    assert inputs.tolist() == [[10.0, 40.0], [20.0, 100.0]]


def test_the_order_of_channels_does_not_change_a_feature() -> None:
    features = (Difference(a="a", b="b", mean=0.0, std=1.0),)
    turned = apply_features(features, ["c", "b", "a"], VALUES[:, ::-1])
    assert np.array_equal(turned, apply_features(features, CHANNELS, VALUES))


def test_no_rows_give_no_inputs() -> None:
    features = (Level(channel="a", mean=0.0, std=1.0),)
    assert apply_features(features, CHANNELS, np.empty((0, 3))).shape == (0, 1)


def test_a_small_difference_of_large_values_keeps_its_precision() -> None:
    values = np.array([[310.123456, 301.523456]])  # 8.6 K, the limit of a heat dissipation failure
    inputs = apply_features((Difference(a="a", b="b", mean=8.6, std=1e-3),), ["a", "b"], values)
    assert abs(float(inputs[0, 0])) < 1e-6


def test_a_one_hot_has_a_column_for_each_value_and_none_for_others() -> None:
    values = np.array([[1.0], [3.0], [2.0], [7.0]])
    inputs = apply_features((OneHot(channel="a", values=(1.0, 2.0, 3.0)),), ["a"], values)
    assert inputs.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_what_float32_can_not_hold_saturates() -> None:
    inputs = apply_features((Level(channel="a", std=1e-12),), ["a"], np.array([[1e40], [-1e40]]))
    largest = np.finfo(np.float32).max
    assert inputs.tolist() == [[largest], [-largest]]


def moment(x: NDArray[np.float64], order: int) -> float:
    """A central moment in exact arithmetic."""
    exact = [Fraction(float(value)) for value in x]
    center = sum(exact) / len(exact)
    return float(sum((value - center) ** order for value in exact) / len(exact))


TEXTBOOK: dict[str, tuple[Callable[..., NDArray[np.float64]], Callable[..., float]]] = {
    "mean": (mean, lambda x: math.fsum(x) / len(x)),
    "std": (std, lambda x: math.sqrt(moment(x, 2))),
    "rms": (rms, lambda x: math.sqrt(math.fsum(v * v for v in x) / len(x))),
    "kurtosis": (kurtosis, lambda x: moment(x, 4) / moment(x, 2) ** 2 - 3),
    "crest_factor": (
        crest_factor,
        lambda x: max(map(abs, x)) / math.sqrt(math.fsum(v * v for v in x) / len(x)),
    ),
}


@pytest.mark.parametrize("name", TEXTBOOK)
def test_a_summary_is_what_the_textbook_says(name: str) -> None:
    ours, textbook = TEXTBOOK[name]
    random = np.random.default_rng(1)
    for scale, offset in ((1.0, 0.0), (1e-3, 1e3), (1e6, -1e6), (1e-9, 0.0)):
        x = random.standard_normal((8, 33)) * scale + offset
        expected = [textbook(row) for row in x]
        assert np.allclose(ours(x), expected, rtol=1e-9, atol=0), (scale, offset)


def test_summaries_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(2).gamma(2.0, size=(5, 200))
    assert np.allclose(kurtosis(x), stats.kurtosis(x, axis=1, fisher=True, bias=True), rtol=1e-12)
    assert np.allclose(std(x), stats.tstd(x, axis=1, ddof=0), rtol=1e-12)


@pytest.mark.parametrize("length", [64, 65, 1000])
def test_band_energies_agree_with_scipys_periodogram(length: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    rate = 1000.0
    x = np.random.default_rng(3).standard_normal((4, length)) + 7.0
    frequency, density = signal.periodogram(x, rate, window="hann", detrend="constant")
    for low, high in ((0.0, 100.0), (100.0, 333.3), (333.3, 500.0), (0.0, 500.0)):
        feature = BandEnergy(channel="a", low_hz=low, high_hz=high)
        inside = (frequency >= low - 1e-9) & ((frequency < high - 1e-9) | (high >= rate / 2))
        expected = density[:, inside].sum(axis=1) * rate / length
        assert np.allclose(band_energy(x, *band_bins(feature, rate, length)), expected, rtol=1e-10)


def test_a_sine_has_all_its_energy_in_its_own_band() -> None:
    x = 3.0 * np.sin(2 * np.pi * 50 * np.arange(1000) / 1000.0).reshape(1, -1)
    bands = ((0.0, 40.0), (40.0, 60.0), (60.0, 500.0))
    found = [
        float(
            band_energy(x, *band_bins(BandEnergy(channel="a", low_hz=a, high_hz=b), 1000, 1000))[0]
        )
        for a, b in bands
    ]
    assert found[1] == pytest.approx(4.5, rel=1e-9)  # amplitude^2 / 2
    assert max(found[0], found[2]) < 1e-20


@given(st.integers(4, 300), st.floats(0.5, 1e5), st.lists(st.floats(0.01, 0.49), max_size=5))
def test_bands_that_touch_share_no_bin_and_lose_none(
    length: int, rate: float, shares: list[float]
) -> None:
    borders = [0.0, *sorted({share * rate for share in shares}), rate / 2]
    bins = [
        band_bins(BandEnergy(channel="a", low_hz=low, high_hz=high), rate, length)
        for low, high in pairwise(borders)
    ]
    assert bins[0][0] == 0
    assert bins[-1][1] == length // 2 + 1
    assert all(before[1] == after[0] for before, after in pairwise(bins))


@given(SERIES)
def test_summaries_of_any_series_are_finite_and_in_their_range(x: NDArray[np.float64]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for summary in (mean, std, rms, kurtosis, crest_factor):
            assert np.isfinite(summary(x)).all()
        length = x.shape[1]
        assert (std(x) >= 0).all()
        assert (kurtosis(x) >= -2.0 - 1e-9).all()  # of every distribution
        assert (crest_factor(x) >= 1 - 1e-9).all()
        assert (crest_factor(x) <= math.sqrt(length) + 1e-9).all()
        assert (band_energy(x, 0, length // 2 + 1) >= 0).all()


@pytest.mark.parametrize("value", [0.0, 310.1, -1e9, 1e-300])
def test_a_window_that_never_changes_has_defined_summaries(value: float) -> None:
    x = np.full((2, 31), value)
    assert mean(x).tolist() == [value, value]
    assert std(x).tolist() == [0.0, 0.0]
    assert kurtosis(x).tolist() == [0.0, 0.0]
    assert crest_factor(x).tolist() == pytest.approx([1.0, 1.0])
    assert rms(x).tolist() == pytest.approx([abs(value)] * 2)
    assert band_energy(x, 0, 16).tolist() == [0.0, 0.0]


def test_a_crest_factor_of_a_sine_is_the_root_of_two() -> None:
    x = np.sin(2 * np.pi * np.arange(1000) / 1000.0).reshape(1, -1)
    assert crest_factor(x)[0] == pytest.approx(math.sqrt(2))


ALL_FEATURES: tuple[Feature, ...] = (
    Mean(channel="a"),
    Std(channel="a"),
    Rms(channel="b"),
    Kurtosis(channel="b"),
    CrestFactor(channel="a"),
    BandEnergy(channel="a", low_hz=0.0, high_hz=2.0),
)


def manifest(
    features: tuple[Feature, ...], window: Window | None = None, shape: tuple[int, ...] = ()
) -> Manifest:
    return Manifest(
        name="job",
        revision=1,
        channels=tuple(
            Channel(name=name, unit="g", rate_hz=10.0, shape=shape) for name in ("a", "b")
        ),
        label=Label(channel="y"),
        window=window,
        features=features,
        tensors=(Tensor(name="w", shape=(1,)),),
        files={},
    )


@pytest.mark.parametrize(
    ("features", "window", "shape"),
    [
        (ALL_FEATURES, Window(length=20), ()),
        (ALL_FEATURES, None, (64,)),
        ((Level(channel="a"), OneHot(channel="b", values=(0.0, 1.0))), None, ()),
        ((Level(channel="a"), OneHot(channel="b", values=(0.0, 1.0))), Window(length=20), ()),
        ((Level(channel="a"), Difference(a="a", b="b")), None, (64,)),
        ((Product(a="a", b="b"),), None, (2, 5, 3)),
    ],
)
def test_inputs_have_the_shape_that_the_manifest_promises(
    features: tuple[Feature, ...], window: Window | None, shape: tuple[int, ...]
) -> None:
    job = manifest(features, window, shape)
    check_manifest(job)
    row = (window.length,) if window else shape
    values = {name: np.random.default_rng(4).standard_normal((7, *row)) for name in ("a", "b")}
    inputs = compute_inputs(features, values, {"a": 10.0, "b": 10.0})
    assert inputs.shape == (7, *input_shape(job))
    assert inputs.dtype == np.float32
    assert np.isfinite(inputs).all()


def test_a_stack_holds_one_series_for_each_feature() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    inputs = compute_inputs(
        (Level(channel="a"), Difference(a="a", b="b", std=2.0)), {"a": a, "b": b}, {}
    )
    assert inputs.tolist() == [
        [[0, 1, 2], [-0.5, 0, 0.5]],
        [[3, 4, 5], [1, 1.5, 2]],
    ]


def test_standardising_gives_mean_0_and_deviation_1_for_each_column() -> None:
    random = np.random.default_rng(5)
    features = (Level(channel="a"), Level(channel="b"))
    inputs = (random.standard_normal((50, 2, 9)) * [[3.0], [0.1]] + [[7.0], [-2.0]]).astype(
        np.float32
    )
    scaled = standardise(features, inputs, measure(features, inputs))
    assert scaled.dtype == np.float32
    assert np.allclose(scaled.mean(axis=(0, 2)), 0, atol=1e-5)
    assert np.allclose(scaled.std(axis=(0, 2)), 1, atol=1e-4)


def test_moments_of_sites_add_up_to_those_of_all_rows() -> None:
    features = (Level(channel="a"), Level(channel="b"))
    inputs = np.random.default_rng(6).standard_normal((30, 2)).astype(np.float32)
    whole = measure(features, inputs)
    parts: Moments = measure(features, inputs[:11]) + measure(features, inputs[11:])
    assert parts.count == whole.count == 30
    assert np.allclose(parts.sums, whole.sums)
    assert np.allclose(parts.squares, whole.squares)


def test_a_small_deviation_far_from_zero_survives_many_rows() -> None:
    random = np.random.default_rng(6)
    features = [Level(channel="a")]
    inputs = (1e6 + random.normal(0.0, 1.0, (200_000, 1))).astype(np.float32)
    exact = inputs.astype(np.float64).std()
    deviation = measure(features, inputs).standard.deviation[0]
    assert deviation == pytest.approx(exact, rel=2.0**-50 * 1e12)


def test_standardising_a_column_that_never_changes_only_shifts_it() -> None:
    inputs = np.full((10, 1), 5.0, np.float32)
    features = (Level(channel="a"),)
    moments = measure(features, inputs)
    assert standardise(features, inputs, moments).tolist() == [[0.0]] * 10
    assert standardise(features, inputs + 1, moments).tolist() == [[1.0]] * 10


def test_windows_do_not_cross_from_one_group_into_the_next() -> None:
    groups = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
    starts = window_starts(groups, Window(length=3, stride=2))
    assert starts.tolist() == [0, 2, 7]
    assert cut_windows(np.arange(10.0), starts, 3).tolist() == [[0, 1, 2], [2, 3, 4], [7, 8, 9]]


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 8), st.integers(1, 5))
def test_every_window_is_whole_and_every_group_begins_one(
    runs: list[int], length: int, stride: int
) -> None:
    groups = np.repeat(np.arange(len(runs)), [4 * run for run in runs]).astype(np.int64)
    starts = window_starts(groups, Window(length=length, stride=stride))
    for start in starts:
        assert len(set(groups[start : start + length])) == 1
        assert start + length <= len(groups)
    for number, run in enumerate(runs):
        size = 4 * run
        expected = len(range(0, size - length + 1, stride))
        assert (groups[starts] == number).sum() == expected if len(starts) else expected == 0


def test_no_rows_give_no_windows() -> None:
    starts = window_starts(np.zeros(0, np.int64), Window(length=3))
    assert starts.shape == (0,)
    assert cut_windows(np.zeros(2), starts, 3).shape == (0, 3)


def test_a_feature_struct_survives_the_wire() -> None:
    encoded = msgspec.msgpack.encode(ALL_FEATURES)
    assert msgspec.msgpack.decode(encoded, type=tuple[Feature, ...]) == ALL_FEATURES

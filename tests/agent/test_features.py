"""The feature pipeline: exact numbers."""

import numpy as np

from agent.signals.features import apply_features
from wire.bundle import Difference, Level, Product

VALUES = np.array([[10.0, 4.0, 3.0], [20.0, 5.0, -1.0]])
CHANNELS = ["a", "b", "c"]


def test_each_feature_is_standardized_by_the_constants_of_the_bundle() -> None:
    features = (
        Level(channel="c", mean=1.0, std=2.0),
        Difference(a="a", b="b", mean=6.0, std=3.0),
        Product(a="a", b="c", mean=0.0, std=10.0),
    )
    inputs = apply_features(features, CHANNELS, VALUES)
    assert inputs.dtype == np.float32
    assert inputs.tolist() == [[1.0, 0.0, 3.0], [-1.0, 3.0, -2.0]]


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

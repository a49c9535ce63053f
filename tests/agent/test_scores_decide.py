"""From outputs of every kind of model to scores, decisions and confidence."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.serve.decide import confidence_of, decide, origin_of
from agent.serve.score import (
    STATUS_GOOD,
    STATUS_INPUTS_UNCERTAIN,
    STATUS_NO_SCORE,
    Origin,
    Score,
    microseconds_of,
    time_of,
)
from wire.manifest import Channel, Label, Level, Manifest

FEW = np.zeros((2, 1), np.float32)


def _manifest(loss: str, label: Label | None = None) -> Manifest:
    return Manifest(
        name="press",
        revision=1,
        files={},
        tensors=(),
        channels=(Channel(name="torque", unit="N·m"),),
        features=(Level(channel="torque"),),
        label=label,
        loss=loss,  # type: ignore[arg-type]  # one of the five
        threshold=0.5,
    )


def _scored(manifest: Manifest, outputs: NDArray[np.float32], **keys: Any) -> list[Score]:
    threshold = keys.pop("threshold", manifest.threshold)
    origin = origin_of(manifest, bytes(range(32)), 4, "global", threshold, keys.pop("unit", ""))
    inputs = keys.pop("inputs", outputs)
    status = keys.pop("status", [STATUS_GOOD] * len(outputs))
    return decide(origin, manifest, outputs, inputs, range(len(outputs)), status)


BINARY = _manifest("binary_cross_entropy", Label(channel="failure"))


def test_two_classes_are_normal_or_alarm_with_the_distance_from_undecided() -> None:
    logits = np.array([[-2.0], [0.0], [3.0]], np.float32)
    found = _scored(BINARY, logits)
    likely = 1 / (1 + np.exp([2.0, 0.0, -3.0]))
    assert [each.value for each in found] == pytest.approx(likely)
    assert [each.decision for each in found] == ["normal", "alarm", "alarm"]
    assert [(each.code, each.is_alarm) for each in found] == [(0, False), (1, True), (1, True)]
    assert [each.confidence for each in found] == pytest.approx(np.abs(2 * likely - 1))
    assert [each.source_timestamp_us for each in found] == [0, 1, 2]
    assert found[0].origin.bundle == bytes(range(32)).hex()
    assert found[0].origin.limits == (0.0, 1.0)


def test_more_classes_are_named_and_alarm_when_normal_is_unlikely() -> None:
    label = Label(channel="fault", classes=("none", "bearing", "tool"))
    manifest = _manifest("cross_entropy", label)
    logits = np.log(np.array([[0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.1, 0.2, 0.7]]))
    found = _scored(manifest, logits.astype(np.float32))
    assert [each.decision for each in found] == ["none", "none", "tool"]
    assert [each.code for each in found] == [0, 0, 2]
    assert [each.is_alarm for each in found] == [False, True, True]
    assert [each.value for each in found] == pytest.approx([0.2, 0.6, 0.9], abs=1e-6)
    assert [each.confidence for each in found] == pytest.approx([0.7, 0.1, 0.55], abs=1e-6)


def test_a_predicted_number_has_a_unit_and_neither_alarm_nor_confidence() -> None:
    label = Label(channel="wear", mean=100.0, std=20.0, lowest=0.0, highest=250.0)
    found = _scored(_manifest("mse", label), np.array([[0.5]], np.float32), unit="min")[0]
    assert (found.value, found.decision, found.code) == (110.0, "110", 0)
    assert not found.is_alarm
    assert math.isnan(found.confidence)
    assert math.isnan(found.origin.threshold)
    assert (found.origin.unit, found.origin.limits) == ("min", (0.0, 250.0))


def test_a_reconstruction_alarms_at_its_threshold_without_confidence() -> None:
    inputs = np.array([[1.0], [1.0]], np.float32)
    found = _scored(_manifest("reconstruction"), FEW, inputs=inputs, unit="min")
    assert [each.value for each in found] == [1.0, 1.0]
    assert all(each.is_alarm and math.isnan(each.confidence) for each in found)
    assert found[0].origin.unit == ""


def test_inputs_that_were_held_make_the_score_uncertain_and_nan_makes_it_bad() -> None:
    logits = np.array([[1.0], [1.0], [np.nan]], np.float32)
    status = [STATUS_GOOD, STATUS_INPUTS_UNCERTAIN, STATUS_GOOD]
    found = _scored(BINARY, logits, status=status)
    assert [each.quality for each in found] == ["good", "uncertain", "bad"]
    assert found[2].status == STATUS_NO_SCORE
    assert not found[2].is_alarm
    assert found[2].decision == ""


def test_a_bad_score_has_no_number_whatever_was_computed() -> None:
    bad = Score(Origin("press"), 0, 0.9, "alarm", 1, is_alarm=True, status=0x808C0000)
    assert math.isnan(bad.value)
    assert (bad.decision, bad.code, bad.is_alarm, bad.status) == ("", 0, False, 0x808C0000)
    assert replace(bad, value=0.9, status=STATUS_GOOD).value == 0.9


@given(st.integers(2, 50), st.floats(0, 1))
def test_confidence_is_0_for_a_guess_and_1_for_certainty(classes: int, share: float) -> None:
    guess = 1 / classes
    likeliest = np.array([guess, guess + share * (1 - guess), 1.0])
    found = confidence_of(likeliest, classes)
    assert found[0] == pytest.approx(0.0, abs=1e-12)
    assert found[1] == pytest.approx(share, abs=1e-9)
    assert found[2] == 1.0


@given(st.integers())
def test_every_number_of_microseconds_is_a_time_of_both_calendars(microseconds: int) -> None:
    time = time_of(microseconds)
    assert 1601 <= time.year <= 9999
    if 0 <= microseconds <= 10**16:
        assert microseconds_of(time) == microseconds

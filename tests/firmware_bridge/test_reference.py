"""The row of a score is found by the device's own time, or said to be missing; never guessed."""

import hashlib

import numpy as np
import pytest

from firmware_bridge.image_format import read_image
from firmware_bridge.image_reference import quantize_rows, run_image
from firmware_bridge.messages import Score, Sensor
from firmware_bridge.reference import Reference
from firmware_bridge.slot_content import image_of, slot_content
from wire.bridge import Scores

IMAGE = bytes.fromhex("""
4a 4d 4d 31 01 00 01 00 50 00 00 00 00 00 00 3f
00 00 80 3e 00 00 00 00 01 00 00 00 ff 03 80 7f
01 00 02 00 01 00 02 00 01 00 01 00 00 00 00 00
38 00 00 00 18 00 00 00 09 00 00 00 f5 ff ff ff
00 00 00 40 00 00 00 40 00 ff 00 00 02 fd 04 05
""")
"""The example of MODEL_IMAGE.md: two numbers in, here two samples of one channel; two out."""
CONTENT = slot_content(IMAGE, np.zeros((1, 2), np.int8))
MODEL = hashlib.sha256(CONTENT).digest()[:8]
PERIOD_US = 1000


def samples(reference: Reference, first: int, *values: float, reset: bool = False) -> list[Scores]:
    """Sample `first` of the device and those behind it."""
    array = np.array(values, np.float32).reshape(-1, 1)
    sensor = Sensor(0, first * PERIOD_US, PERIOD_US, array)
    return reference.sampled(sensor, array, is_after_reset=reset)


def score(reference: Reference, at: int, model: bytes = MODEL) -> list[Scores]:
    """A score of the row whose last sample is number `at`."""
    outputs = np.array([1, 2], np.int8)
    said = Scores("board", "motion", model, at, True, "i8", (1.0, 2.0))
    return reference.scored(Score(model, 0, at * PERIOD_US, True, outputs), said)


@pytest.fixture
def reference() -> Reference:
    found = Reference()
    found.learn(CONTENT)
    return found


def test_a_score_gets_its_row_and_what_the_int8_reference_says_of_it(
    reference: Reference,
) -> None:
    samples(reference, 0, 9.0, 1.0, -2.0, 9.0)
    (said,) = score(reference, 2)
    row = np.array([1.0, -2.0], np.float32)
    assert said.inputs.tolist() == row.tolist()
    image = read_image(IMAGE)
    expected = run_image(image, quantize_rows(image, row[None]))[0]
    assert said.expected == tuple(expected.tolist())
    assert (said.scale, said.zero, said.is_clipped) == (0.25, 3, False)
    assert said.outputs == (1.0, 2.0)  # the device's own stay


def test_a_score_that_comes_before_its_samples_waits_for_them(reference: Reference) -> None:
    samples(reference, 0, 1.0, 2.0)
    assert score(reference, 3) == []
    assert score(reference, 5) == []
    assert [each.at_us for each in samples(reference, 2, 3.0, 4.0)] == [3]
    (said,) = samples(reference, 4, 5.0, 6.0)
    assert said.inputs.tolist() == [5.0, 6.0]


def test_a_row_that_misses_a_sample_has_no_reference(reference: Reference) -> None:
    samples(reference, 0, 1.0, 2.0)
    samples(reference, 3, 4.0, 5.0)  # number 2 was lost
    (said,) = score(reference, 3)
    assert said.expected == ()
    assert said.row == b""
    (whole,) = score(reference, 4)
    assert whole.expected


def test_a_reset_ends_what_waited_and_no_row_reaches_across(reference: Reference) -> None:
    samples(reference, 0, 1.0, 2.0)
    assert score(reference, 9) == []
    (left,) = samples(reference, 0, 3.0, reset=True)
    assert left.expected == ()
    (said,) = score(reference, 0)
    assert said.expected == ()


def test_models_that_nobody_brought_and_numbers_beyond_int8_are_marked(
    reference: Reference,
) -> None:
    samples(reference, 0, 1.0, 1000.0, float("nan"))
    (other,) = score(reference, 1, b"notknown")
    assert other.expected == ()
    (clipped,) = score(reference, 1)
    assert clipped.is_clipped
    assert clipped.expected
    (spoilt,) = score(reference, 2)
    assert spoilt.expected == ()


def test_what_waits_is_bounded_and_keeps_its_order(reference: Reference) -> None:
    samples(reference, 0, 1.0, 2.0)
    given = [each.at_us for at in range(10, 60) for each in score(reference, at)]
    assert given == list(range(10, 28))


def test_contents_without_an_image_are_learned_as_nothing(reference: Reference) -> None:
    for content in (b"", b"\xff" * 40, CONTENT[:30]):
        reference.learn(content)
    assert image_of(CONTENT) == IMAGE
    samples(reference, 0, 1.0, 2.0)
    (said,) = score(reference, 1)
    assert said.expected

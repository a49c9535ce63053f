"""What an evaluation may hold, and what is refused before anything is computed from it."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from wire.codec import MAX_BYTES, open_envelope, parse_body, seal
from wire.errors import MalformedError
from wire.evaluation import evaluate, evaluate_classes, evaluate_numbers, evaluate_reconstruction
from wire.manifest import Alarm, Channel, Label, Level, LossName, Manifest, Tensor
from wire.messages import BINS, MAX_CLASSES, Choice, Errors, Evaluation, Report
from wire.signing import PrivateKey
from wire.tally import add, check_evaluation, check_judged, kind_of, tally_of

DIGEST = bytes(32)
RNG = np.random.default_rng(7)
BINARY = evaluate(DIGEST, RNG.random(60) < 0.3, RNG.random(60))
CLASSES = evaluate_classes(DIGEST, RNG.integers(0, 3, 60), RNG.normal(size=(60, 3)), RNG.random(60))
NUMBERS = evaluate_numbers(DIGEST, RNG.normal(5, 2, 60), RNG.normal(5, 2, 60), RNG.random(60))
REBUILT = evaluate_reconstruction(DIGEST, RNG.random(60))
COUNTED = evaluate_reconstruction(DIGEST, RNG.random(60), counts_errors=True)
NONE = (0,) * BINS
SUMS = NUMBERS.errors or Errors(rows=1, error=0, absolute=0, squared=0, label=0, label_squared=0)


def changed(evaluation: Evaluation, **changes: Any) -> Evaluation:
    return msgspec.structs.replace(evaluation, **changes)


def with_errors(**changes: Any) -> Evaluation:
    return changed(NUMBERS, errors=msgspec.structs.replace(SUMS, **changes))


@pytest.mark.parametrize(
    ("evaluation", "says"),
    [
        (changed(BINARY, positives=(1, 2)), "2 and 256 bins, not 256 of each"),
        (changed(BINARY, negatives=()), "256 and 0 bins"),
        (changed(CLASSES, confusion=CLASSES.confusion[:-1]), "8 counts are no confusion matrix"),
        (changed(CLASSES, confusion=(5,)), "1 counts are no confusion matrix"),
        (Evaluation(digest=DIGEST), "0 of bins, confusion and errors are filled"),
        (changed(BINARY, confusion=CLASSES.confusion), "2 of bins, confusion and errors"),
        (changed(CLASSES, errors=SUMS), "2 of bins, confusion and errors"),
        (changed(BINARY, positives=NONE, negatives=NONE, alarms=(0, 0)), "counts no row"),
        (changed(CLASSES, confusion=(0,) * 9), "counts no row"),
        (changed(BINARY, alarms=(61, 0)), "alarms"),
        (changed(BINARY, alarms=(0, 61)), "alarms"),
        (changed(CLASSES, alarms=(1, 0)), "alarms"),
        (changed(BINARY, loss=math.nan), "loss nan"),
        (changed(BINARY, loss=math.inf), "loss inf"),
        (changed(BINARY, loss=-1.0), "loss -1.0"),
        (with_errors(rows=0), "counts no row"),
        (with_errors(absolute=math.nan), "not finite"),
        (with_errors(label=-math.inf), "not finite"),
        (with_errors(error=-1e6), "absolute values"),
        (with_errors(absolute=1e6), "errors sum up to 1e\\+06, their squares"),
        (with_errors(squared=-1.0), "their squares to -1"),
        (with_errors(label=1e9), "labels sum up to 1e\\+09"),
        (changed(COUNTED, rows_by_error=(60,)), "1 bins of errors, not 256"),
        (changed(COUNTED, rows_by_error=NONE), "0 rows by error of 60 rows"),
        (changed(COUNTED, rows_by_error=(60, *NONE[1:])), "errors sum up to"),
        (changed(COUNTED, rows_by_error=(*NONE[1:], 60)), "errors sum up to"),
        (changed(BINARY, rows_by_error=COUNTED.rows_by_error), "has no errors"),
    ],
)
def test_an_evaluation_whose_parts_contradict_is_refused(evaluation: Evaluation, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        check_evaluation(evaluation)


@pytest.mark.parametrize("bins", [2, BINS - 1, BINS + 1])
def test_a_report_with_another_number_of_bins_is_refused(bins: int) -> None:
    odd = Evaluation(digest=DIGEST, positives=(1,) * bins, negatives=(1,) * bins)

    def receive() -> None:
        for evaluation in received(Report(head=1, evaluations=(odd,))).evaluations:
            check_evaluation(evaluation)

    with pytest.raises(MalformedError):
        receive()


def received(report: Report) -> Report:
    """What the coordinator parses of it."""
    key = PrivateKey(bytes([5] * 32))
    data = seal(report, federation="plant-net", signer="press-1", counter=1, key=key)
    return parse_body(open_envelope(data, "report"), Report)


def test_the_largest_report_of_every_kind_fits_its_cap() -> None:
    most = (1 << 40) - 1
    fullest = [
        changed(BINARY, positives=(most,) * BINS, negatives=(most,) * BINS, alarms=(most, most)),
        changed(CLASSES, confusion=(most,) * MAX_CLASSES**2),
        NUMBERS,
        changed(COUNTED, rows_by_error=(most,) * BINS),
    ]
    for evaluation in fullest:
        choice = Choice(model="ditto", reason="ü" * 500, evaluation=evaluation)
        report = Report(head=1 << 50, evaluations=(evaluation,) * 4, choice=choice)
        assert received(report) == report
        assert len(msgspec.msgpack.encode(report)) < MAX_BYTES["report"] / 5


def manifest(loss: LossName, classes: int = 0) -> Manifest:
    names = tuple(f"class {number}" for number in range(classes))
    return Manifest(
        name="spindle",
        revision=1,
        channels=(Channel(name="torque", unit="N.m"),),
        label=None if loss == "reconstruction" else Label(channel="wear", classes=names),
        features=(Level(channel="torque"),),
        loss=loss,
        tensors=(Tensor(name="w", shape=(1,)),),
        files={},
    )


MANIFESTS = {
    "binary": manifest("binary_cross_entropy"),
    "classes": manifest("cross_entropy", 3),
    "numbers": manifest("huber"),
    "reconstruction": manifest("reconstruction"),
}
EVALUATIONS = {
    "binary": BINARY,
    "classes": CLASSES,
    "numbers": NUMBERS,
    "reconstruction": REBUILT,
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_an_evaluation_of_another_task_than_the_bundles_is_refused(kind: str) -> None:
    bundle = MANIFESTS[kind]
    assert kind_of(bundle) == kind
    for other, evaluation in EVALUATIONS.items():
        # A model that rebuilds rows could be one that predicts numbers, all of them 0.
        if other == kind or (kind, other) == ("numbers", "reconstruction"):
            check_evaluation(evaluation, bundle)
            continue
        with pytest.raises(MalformedError, match=r"spindle is judged by|has none"):
            check_evaluation(evaluation, bundle)


def test_rows_by_error_are_told_exactly_where_the_bundle_asks_for_them() -> None:
    silent = MANIFESTS["reconstruction"]
    asking = msgspec.structs.replace(silent, alarm=Alarm(share=0.01))
    check_evaluation(COUNTED, asking)
    check_evaluation(REBUILT, silent)
    with pytest.raises(MalformedError, match="does not count rows by error, bundle spindle asks"):
        check_evaluation(REBUILT, asking)
    with pytest.raises(MalformedError, match="counts rows by error, bundle spindle asks otherwise"):
        check_evaluation(COUNTED, silent)
    with pytest.raises(MalformedError, match="asks otherwise"):
        check_evaluation(
            msgspec.structs.replace(COUNTED, loss=1.0),
            MANIFESTS["numbers"],
        )


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e6, 1e30])
def test_counts_by_error_of_any_rows_are_believed(scale: float) -> None:
    for rows in (1, 7, 500):
        errors = RNG.lognormal(0, 3, rows) * scale
        check_evaluation(evaluate_reconstruction(DIGEST, errors, counts_errors=True))


def test_a_confusion_of_other_classes_than_the_bundles_is_refused() -> None:
    with pytest.raises(MalformedError, match="9 counts, 4 classes give 16"):
        check_evaluation(CLASSES, manifest("cross_entropy", 4))


def test_more_classes_than_a_report_holds_are_told_beforehand() -> None:
    assert check_judged(manifest("cross_entropy", MAX_CLASSES)) == ""
    said = check_judged(manifest("cross_entropy", MAX_CLASSES + 1))
    assert said == "its 33 classes are more than the 32 of a report"


def test_evaluations_of_different_tasks_do_not_add() -> None:
    with pytest.raises(MalformedError, match="bins and confusion"):
        add([BINARY, CLASSES])
    with pytest.raises(MalformedError, match="confusion and errors"):
        add([CLASSES, NUMBERS])
    four = evaluate_classes(DIGEST, np.arange(4), np.eye(4), np.zeros(4))
    with pytest.raises(MalformedError, match="do not add"):
        add([CLASSES, four])


@pytest.mark.parametrize("kind", EVALUATIONS)
def test_nothing_added_to_a_tally_leaves_it_as_it_is(kind: str) -> None:
    one = tally_of(EVALUATIONS[kind])
    for same in (one + add([]), add([]) + one):
        assert (same.kind, same.rows, same.loss) == (kind, 60, one.loss)
        assert same.alarms == one.alarms
        assert same.errors == one.errors
        np.testing.assert_array_equal(same.confusion, one.confusion)
        np.testing.assert_array_equal(same.positives, one.positives)


def test_numbers_that_are_all_zero_at_one_site_add_to_those_of_the_others() -> None:
    still = evaluate_numbers(DIGEST, np.zeros(9), np.ones(9), np.ones(9))
    assert tally_of(still).kind == "reconstruction"
    both = add([still, NUMBERS])
    assert (both.kind, both.rows) == ("numbers", 69)

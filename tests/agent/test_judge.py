"""What a site says about the models that a head names."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.judge import evaluation_of, judge
from agent.learning.losses import Loss, example_losses
from agent.models import Models
from agent.signals.rows import no_rows, rows_of
from tests.agent.federation import CHANNELS, Federation, feed
from wire.bins import error_bins
from wire.evaluation import OVERFLOW, evaluate, roc_auc
from wire.figures import figure
from wire.manifest import Alarm, Label, Manifest
from wire.messages import Evaluation
from wire.tally import check_evaluation, kind_of, tally_of

RNG = np.random.default_rng(2)
ROWS = np.column_stack(
    [
        RNG.normal(300, 2, 300),
        RNG.normal(310, 1.5, 300),
        RNG.normal(1539, 179, 300),
        RNG.normal(40, 10, 300),
        RNG.uniform(0, 240, 300),
        RNG.random(300) < 0.2,
        np.arange(300),
    ]
).astype(np.float64)


def adopted(federation: Federation, *, with_candidate: bool) -> Adopted:
    adoption = Adoption(Models(":memory:"), federation.trust, CHANNELS)
    feed(
        adoption,
        federation.publish(
            6,
            train=federation.moved(0.1),
            serve=federation.start,
            candidate=federation.moved(0.3) if with_candidate else None,
        ),
    )
    assert adoption.current is not None
    return adoption.current


def test_every_model_of_the_head_is_judged_on_the_same_rows(federation: Federation) -> None:
    current = adopted(federation, with_candidate=True)
    report = judge(current, rows_of(ROWS))
    assert report is not None
    assert report.head == 6
    candidate = current.head.candidate
    assert candidate is not None
    assert [each.digest for each in report.evaluations] == [
        current.head.train.content.digest,
        current.head.serve.content.digest,
        candidate.content.digest,
    ]
    failures = int(ROWS[:, 5].sum())
    for each in report.evaluations:
        assert (sum(each.positives), sum(each.negatives)) == (failures, 300 - failures)
    assert len({each.positives + each.negatives for each in report.evaluations}) == 3


def test_the_counts_are_those_of_the_scores(federation: Federation) -> None:
    current = adopted(federation, with_candidate=False)
    report = judge(current, rows_of(ROWS))
    assert report is not None
    labels = ROWS[:, 5] > 0.5
    threshold = current.model.manifest.threshold
    for each, params in zip(report.evaluations, (current.train, current.serve), strict=True):
        scores = current.score(params, rows_of(ROWS))
        assert each == evaluate(each.digest, labels, scores, threshold)
        exact = np.mean(np.sign(scores[labels][:, None] - scores[~labels][None, :]) / 2 + 0.5)
        area = roc_auc(np.array(each.positives), np.array(each.negatives))
        assert area is not None
        assert abs(area - exact) < 0.01
        hits = int((scores[labels] >= threshold).sum())
        assert each.alarms == (hits, int((scores[~labels] >= threshold).sum()))


def test_alarms_are_counted_at_the_heads_threshold(federation: Federation) -> None:
    found = []
    for sequence, threshold in ((1, None), (2, 0.0), (3, 1.0)):
        adoption = Adoption(Models(":memory:"), federation.trust, CHANNELS)
        feed(adoption, federation.publish(sequence, threshold=threshold))
        assert adoption.current is not None
        report = judge(adoption.current, rows_of(ROWS))
        assert report is not None
        found.append(report.evaluations[0])
    failures = int(ROWS[:, 5].sum())
    assert [each.alarms for each in found[1:]] == [(failures, 300 - failures), (0, 0)]
    assert len({each.positives + each.negatives for each in found}) == 1


def test_rows_are_counted_by_error_where_the_bundle_asks(federation: Federation) -> None:
    asking = federation.learning(**JOBS["itself"], alarm=Alarm(share=0.01))
    current = adopted(asking, with_candidate=True)
    report = judge(current, rows_of(ROWS))
    assert report is not None
    for each, params in zip(report.evaluations, (current.train, current.serve), strict=False):
        check_evaluation(each, current.model.manifest)
        errors = current.score(params, rows_of(ROWS))
        assert each.rows_by_error == tuple(np.bincount(error_bins(errors), minlength=256))
        assert sum(each.rows_by_error) == 300


def test_one_version_that_is_trained_and_served_is_judged_once(federation: Federation) -> None:
    adoption = Adoption(Models(":memory:"), federation.trust, CHANNELS)
    feed(adoption, federation.publish(1))
    assert adoption.current is not None
    report = judge(adoption.current, rows_of(ROWS))
    assert report is not None
    assert len(report.evaluations) == 1


def test_a_site_without_held_out_rows_says_nothing(federation: Federation) -> None:
    assert judge(adopted(federation, with_candidate=False), no_rows(len(CHANNELS))) is None


# Every kind of task

CLASSES = Label(channel="machine_failure", classes=("fine", "worn", "hot"))
NUMBER = Label(channel="machine_failure", mean=20.0, std=10.0, lowest=0.0, highest=40.0)
JOBS: dict[str, dict[str, Any]] = {
    "classes": {"loss": "cross_entropy", "label": CLASSES},
    "huber": {"loss": "huber", "label": NUMBER},
    "mse": {"loss": "mse", "label": NUMBER},
    "itself": {"loss": "reconstruction", "label": None},
}
LABELS = {
    "classes": np.arange(300) % 3,
    "huber": np.linspace(-5, 60, 300),
    "mse": np.linspace(-5, 60, 300),
    "itself": np.zeros(300),
}


def judged(federation: Federation, job: str) -> tuple[Adopted, NDArray[np.float64], Evaluation]:
    """The model, the site's rows, of which every seventh has no label, and what is reported."""
    current = adopted(federation.learning(**JOBS[job]), with_candidate=False)
    rows = ROWS.copy()
    rows[:, 5] = LABELS[job]
    rows[::7, 5] = np.nan
    report = judge(current, rows_of(rows))
    assert report is not None
    for each in report.evaluations:
        check_evaluation(each, current.model.manifest)
    return current, rows, report.evaluations[1]


@pytest.mark.parametrize("job", JOBS)
def test_the_loss_is_that_of_training(federation: Federation, job: str) -> None:
    current, rows, evaluation = judged(federation, job)
    examples = current.examples(rows_of(rows))
    outputs = current.outputs(current.serve, examples.inputs)
    answers = examples.inputs if job == "itself" else examples.labels
    losses = example_losses(Loss(current.model.manifest.loss), outputs, answers)
    tally = tally_of(evaluation)
    assert tally.kind == kind_of(current.model.manifest)
    assert tally.rows == (300 if job == "itself" else 300 - 43)
    assert figure("loss", tally) == pytest.approx(losses.mean())


def test_classes_are_counted_by_the_largest_logit(federation: Federation) -> None:
    current, rows, evaluation = judged(federation, "classes")
    examples = current.examples(rows_of(rows))
    said = current.outputs(current.serve, examples.inputs).argmax(axis=1)
    expected = np.zeros((3, 3), np.int64)
    np.add.at(expected, (examples.labels, said), 1)
    np.testing.assert_array_equal(tally_of(evaluation).confusion, expected)


@pytest.mark.parametrize("job", ["huber", "mse"])
def test_numbers_are_judged_in_the_labels_unit(federation: Federation, job: str) -> None:
    current, rows, evaluation = judged(federation, job)
    kept = rows[~np.isnan(rows[:, 5])]
    labels = np.clip(kept[:, 5], 0.0, 40.0)
    error = current.score(current.serve, rows_of(kept)) - labels
    tally = tally_of(evaluation)
    assert figure("rmse", tally) == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
    assert figure("mae", tally) == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert figure("r2", tally) == pytest.approx(1 - np.mean(error**2) / labels.var(), rel=1e-5)


def test_a_model_that_waits_for_statistics_is_not_judged_yet(federation: Federation) -> None:
    waiting = adopted(federation.learning(standardise="federated"), with_candidate=False)
    assert waiting.unready
    assert judge(waiting, rows_of(ROWS)) is None


def test_rows_without_a_label_say_nothing(federation: Federation) -> None:
    rows = ROWS.copy()
    rows[:, 5] = np.nan
    assert judge(adopted(federation, with_candidate=False), rows_of(rows)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("job", ["flag", *JOBS])
def test_a_diverged_model_is_reported_as_one(
    federation: Federation, job: str, value: float
) -> None:
    manifest = federation.learning(**JOBS.get(job, {})).opened.manifest
    outputs, answers = outputs_of(manifest, value)
    with np.errstate(all="raise", under="ignore"):
        evaluation = evaluation_of(manifest, bytes(32), outputs, answers, threshold=0.5)
    check_evaluation(evaluation, manifest)
    # The log loss of two classes is bounded; any other is beyond what a report can hold.
    is_a_number = value == 3e38 and job == "flag"
    assert (evaluation.loss == OVERFLOW) is not is_a_number
    assert tally_of(evaluation).is_finite is is_a_number


def outputs_of(manifest: Manifest, value: float) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Outputs for nine rows, one of them this value, and the answers."""
    width = {"cross_entropy": 3, "reconstruction": 7}.get(manifest.loss, 1)
    outputs = np.random.default_rng(1).normal(size=(9, width)).astype(np.float32)
    outputs[4, 0] = value
    if manifest.loss == "cross_entropy":
        return outputs, np.arange(9) % 3
    answers = np.arange(9 * width, dtype=np.float32).reshape(9, width) % 2
    return outputs, answers

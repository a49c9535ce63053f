"""What a site says about the models that a head names."""

import numpy as np

from agent.adoption import Adopted, Adoption
from agent.judge import judge
from agent.models import Models
from tests.agent.federation import CHANNELS, Federation, feed
from wire.evaluation import evaluate, roc_auc

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
    report = judge(current, ROWS)
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
    report = judge(current, ROWS)
    assert report is not None
    labels = ROWS[:, 5] > 0.5
    for each, params in zip(report.evaluations, (current.train, current.serve), strict=True):
        scores = current.score(params, ROWS)
        assert each == evaluate(each.digest, labels, scores)
        exact = np.mean(np.sign(scores[labels][:, None] - scores[~labels][None, :]) / 2 + 0.5)
        area = roc_auc(np.array(each.positives), np.array(each.negatives))
        assert area is not None
        assert abs(area - exact) < 0.01


def test_one_version_that_is_trained_and_served_is_judged_once(federation: Federation) -> None:
    adoption = Adoption(Models(":memory:"), federation.trust, CHANNELS)
    feed(adoption, federation.publish(1))
    assert adoption.current is not None
    report = judge(adoption.current, ROWS)
    assert report is not None
    assert len(report.evaluations) == 1


def test_a_site_without_held_out_rows_says_nothing(federation: Federation) -> None:
    assert judge(adopted(federation, with_candidate=False), np.empty((0, len(CHANNELS)))) is None

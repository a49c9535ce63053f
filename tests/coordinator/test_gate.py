"""The gate and the evaluation line: sites are counted, not agents."""

import numpy as np
import pytest

from coordinator.gate import GateSettings, decide, pooled
from tests.coordinator.small_federation import evaluation
from wire.evaluation import evaluate

OLD, NEW = bytes(32), bytes([1] * 32)
TWO_SITES = GateSettings(quorum=2, tolerance=0.01)


def test_a_better_candidate_is_promoted_with_its_figures() -> None:
    reporters = ["a/press-1", "b/press-2"]
    verdict = decide(
        {name: evaluation(NEW, 3.0) for name in reporters},
        {name: evaluation(OLD, 1.0) for name in reporters},
        TWO_SITES,
    )
    assert verdict is not None
    assert verdict.promote
    assert verdict.reason.endswith("on 800 held-out rows of 2 sites")


def test_a_worse_candidate_is_not_promoted() -> None:
    reporters = ["a/press-1", "b/press-2"]
    verdict = decide(
        {name: evaluation(NEW, 1.0) for name in reporters},
        {name: evaluation(OLD, 3.0) for name in reporters},
        TWO_SITES,
    )
    assert verdict is not None
    assert not verdict.promote


@pytest.mark.parametrize(("tolerance", "promoted"), [(0.0, False), (0.5, True)])
def test_the_tolerance_says_how_much_worse_is_not_worse(tolerance: float, promoted: bool) -> None:
    settings = GateSettings(quorum=1, tolerance=tolerance)
    new, old = {"a/press-1": evaluation(NEW, 1.0)}, {"a/press-1": evaluation(OLD, 1.5)}
    verdict = decide(new, old, settings)
    assert verdict is not None
    assert verdict.promote is promoted


def test_two_agents_of_one_site_are_no_quorum_of_two() -> None:
    one_site = ["a/press-1", "a/press-2"]
    new = {name: evaluation(NEW, 3.0) for name in one_site}
    old = {name: evaluation(OLD, 1.0) for name in one_site}
    assert decide(new, old, TWO_SITES) is None
    new["b/mill"], old["b/mill"] = evaluation(NEW, 3.0), evaluation(OLD, 1.0)
    assert decide(new, old, TWO_SITES) is not None


def test_only_sites_that_judged_both_models_count() -> None:
    new = {"a/press-1": evaluation(NEW, 3.0), "b/press-2": evaluation(NEW, 3.0)}
    old = {"a/press-1": evaluation(OLD, 1.0), "c/press-3": evaluation(OLD, 1.0)}
    assert decide(new, old, TWO_SITES) is None


def test_without_a_single_failure_nothing_is_decided() -> None:
    healthy = evaluate(NEW, np.zeros(50, np.bool_), np.linspace(0.1, 0.9, 50))
    assert decide({"a/x": healthy}, {"a/x": healthy}, GateSettings(quorum=1)) is None


def test_pooled_counts_add_over_sites() -> None:
    quality = pooled([evaluation(NEW, 2.0, 400), evaluation(NEW, 2.0, 80)])
    assert (quality.rows, quality.positives) == (480, 120)
    assert quality.pr_auc is not None
    assert quality.roc_auc is not None
    assert 0.5 < quality.pr_auc < 1
    assert 0.5 < quality.roc_auc < 1

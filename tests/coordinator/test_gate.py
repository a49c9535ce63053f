"""The gate: what is not worse is promoted, what is far worse ends a lineage; sites are counted."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import msgspec
import numpy as np
import pytest

from coordinator.gate import (
    GateSettings,
    Verdict,
    decide,
    is_given_up,
    metric_of,
    pooled_figure,
    site_quality,
    unfit_metric,
)
from tests.coordinator.small_federation import MANIFEST, evaluation
from wire.errors import SettingsError
from wire.evaluation import (
    evaluate,
    evaluate_classes,
    evaluate_numbers,
    evaluate_reconstruction,
)
from wire.figures import Metric, figure
from wire.messages import Evaluation
from wire.settings import parse_settings
from wire.tally import tally_of

OLD, NEW = bytes(32), bytes([1] * 32)
TWO_SITES = GateSettings(quorum=2, tolerance=0.01)
SITES = ["a/press-1", "b/press-2"]


def judged(
    new: Evaluation, old: Evaluation, settings: GateSettings = TWO_SITES, sites: int = 2
) -> Verdict:
    """The verdict when every site reports the same."""
    names = [f"site-{number}/press" for number in range(sites)]
    verdict = decide(dict.fromkeys(names, new), dict.fromkeys(names, old), settings)
    assert verdict is not None
    return verdict


def test_a_better_candidate_is_promoted_with_its_figures() -> None:
    verdict = judged(evaluation(NEW, 3.0), evaluation(OLD, 1.0))
    assert verdict.outcome == "promote"
    assert verdict.promote
    figures = [figure("pr_auc", tally_of(evaluation(NEW, quality))) for quality in (3.0, 1.0)]
    assert verdict.figure == pytest.approx(figures[0], abs=0.01)
    assert verdict.served_figure == pytest.approx(figures[1], abs=0.01)
    said = f"PR-AUC {verdict.figure:.3f} against {verdict.served_figure:.3f}"
    assert verdict.reason == f"{said} on 800 held-out rows of 2 sites"


def test_a_worse_candidate_is_not_promoted() -> None:
    assert not judged(evaluation(NEW, 1.0), evaluation(OLD, 3.0)).promote


@pytest.mark.parametrize(("tolerance", "promoted"), [(0.0, False), (0.5, True)])
def test_the_tolerance_says_how_much_worse_is_not_worse(tolerance: float, promoted: bool) -> None:
    settings = GateSettings(quorum=1, tolerance=tolerance)
    new, old = {"a/press-1": evaluation(NEW, 1.0)}, {"a/press-1": evaluation(OLD, 1.5)}
    verdict = decide(new, old, settings)
    assert verdict is not None
    assert verdict.promote is promoted


def numbers(digest: bytes, error: float) -> Evaluation:
    labels = np.linspace(10.0, 90.0, 50)
    return evaluate_numbers(digest, labels, labels + error, np.full(50, error**2))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (19.0, "promote"),
        (20.0, "promote"),
        (20.1, "promote"),
        (20.3, "worse"),
        (21.9, "worse"),
        (22.1, "far worse"),
    ],
)
def test_numbers_are_compared_by_rmse_relative_to_what_is_served(
    error: float, outcome: str
) -> None:
    verdict = judged(numbers(NEW, error), numbers(OLD, 20.0))
    assert verdict.outcome == outcome
    assert verdict.reason == f"RMSE {error:.4g} against 20 on 100 held-out rows of 2 sites"


def shares(digest: bytes, right: int) -> Evaluation:
    """Of 500 rows of each of two classes this many right, as classes."""
    labels = np.repeat([0, 1], 500)
    wrong = np.arange(1000) % 500 >= right
    return evaluate_classes(digest, labels, np.eye(2)[labels ^ wrong], np.zeros(1000))


@pytest.mark.parametrize(
    ("right", "outcome"),
    [(450, "promote"), (446, "promote"), (444, "unclear"), (430, "worse"), (399, "far worse")],
)
def test_shares_are_compared_by_their_difference(right: int, outcome: str) -> None:
    settings = GateSettings(quorum=1, metric="accuracy", tolerance=0.01, abandon_below=0.1)
    assert judged(shares(NEW, right), shares(OLD, 450), settings, sites=1).outcome == outcome


def test_a_candidate_that_calls_everything_healthy_is_seen_by_the_mean_f1_of_classes() -> None:
    labels = np.arange(1000) % 50 == 0
    blind = evaluate_classes(NEW, labels.astype(np.int64), np.eye(2)[0 * labels], np.zeros(1000))
    seeing = labels ^ (np.arange(1000) % 40 == 1)
    noisy = evaluate_classes(OLD, labels.astype(np.int64), np.eye(2)[1 * seeing], np.zeros(1000))
    by_accuracy = GateSettings(quorum=1, metric="accuracy")
    assert judged(blind, noisy, by_accuracy, sites=1).promote
    assert judged(blind, noisy, GateSettings(quorum=1), sites=1).outcome == "far worse"


def test_two_failures_among_the_rows_are_no_ground_to_end_a_lineage() -> None:
    """As it happened: PR-AUC .067 against .333 on 24 rows with 2 failures."""
    labels = np.arange(24) < 2
    old, new = np.linspace(0.0, 0.5, 24), np.linspace(0.0, 0.5, 24)
    old[:2], new[:2] = (0.48, 0.41), (0.3, 0.2)
    verdict = judged(evaluate(NEW, labels, new), evaluate(OLD, labels, old), sites=2)
    assert verdict.figure is not None
    assert verdict.served_figure is not None
    assert verdict.served_figure - verdict.figure > TWO_SITES.abandon_below
    assert verdict.outcome == "unclear"
    more = judged(evaluate(NEW, labels, new), evaluate(OLD, labels, old), sites=5)
    assert more.outcome == "far worse"


def test_what_chance_explains_is_kept_back_and_ends_no_lineage() -> None:
    settings = GateSettings(quorum=1, metric="accuracy")
    verdict = judged(shares(NEW, 444), shares(OLD, 450), settings, sites=1)
    assert verdict.outcome == "unclear"
    assert not verdict.promote
    assert not is_given_up(verdict, 1000, TWO_SITES)


# Candidates that give no numbers


def lost(digest: bytes) -> Iterator[Evaluation]:
    """Evaluations of every kind of a model that gives NaN."""
    nothing = np.full(60, np.nan)
    yield evaluate(digest, np.arange(60) % 3 == 0, nothing)
    yield evaluate_classes(digest, np.arange(60) % 3, np.full((60, 3), np.nan), nothing)
    yield evaluate_numbers(digest, np.arange(60.0), nothing, nothing)
    yield evaluate_reconstruction(digest, nothing)


def sound(digest: bytes) -> Iterator[Evaluation]:
    """Of a poor model on the same rows, in the same order."""
    rng = np.random.default_rng(0)
    yield evaluate(digest, np.arange(60) % 3 == 0, rng.random(60))
    yield evaluate_classes(digest, np.arange(60) % 3, rng.random((60, 3)), rng.random(60))
    yield evaluate_numbers(digest, np.arange(60.0), 60 * rng.random(60), rng.random(60))
    yield evaluate_reconstruction(digest, rng.random(60))


@pytest.mark.parametrize("kind", range(4))
def test_a_candidate_that_gives_no_finite_numbers_is_far_worse(kind: int) -> None:
    verdict = judged(list(lost(NEW))[kind], list(sound(OLD))[kind])
    assert verdict.outcome == "far worse"
    assert verdict.reason == "gives no finite numbers at 2 of 2 sites"
    assert verdict.figure is None
    assert verdict.served_figure is not None


@pytest.mark.parametrize("kind", range(4))
def test_at_a_few_sites_alone_it_is_kept_back_and_the_lineage_goes_on(kind: int) -> None:
    old = dict.fromkeys(("a/x", "b/x", "c/x"), list(sound(OLD))[kind])
    new = {**dict.fromkeys(old, list(sound(NEW))[kind]), "a/x": list(lost(NEW))[kind]}
    verdict = decide(new, old, TWO_SITES)
    assert verdict is not None
    assert verdict.outcome == "worse"


@pytest.mark.parametrize("kind", range(4))
def test_a_sound_candidate_is_promoted_when_what_is_served_gives_no_numbers(kind: int) -> None:
    assert judged(list(sound(NEW))[kind], list(lost(OLD))[kind]).outcome == "promote"


# Who is counted


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


@pytest.mark.parametrize("kind", range(3))
def test_a_site_whose_two_judgements_are_of_other_rows_does_not_count(kind: int) -> None:
    whole = list(sound(OLD))[kind]
    rng, rows = np.random.default_rng(0), 40
    other = [
        evaluate(NEW, np.arange(rows) % 3 == 0, rng.random(rows)),
        evaluate_classes(NEW, np.arange(rows) % 3, rng.random((rows, 3)), rng.random(rows)),
        evaluate_numbers(NEW, np.arange(60.0) + 1, 60 * rng.random(60), rng.random(60)),
    ][kind]
    old = dict.fromkeys(("a/x", "b/x"), whole)
    assert decide({"a/x": whole, "b/x": other}, old, TWO_SITES) is None
    assert decide({"a/x": whole, "b/x": whole}, old, TWO_SITES) is not None


def test_without_a_single_failure_nothing_is_decided() -> None:
    healthy = evaluate(NEW, np.zeros(50, np.bool_), np.linspace(0.1, 0.9, 50))
    assert decide({"a/x": healthy}, {"a/x": healthy}, GateSettings(quorum=1)) is None


# Lineages


@pytest.mark.parametrize(
    ("outcome", "worse_before", "is_over"),
    [
        ("promote", 2, False),
        ("worse", 0, False),
        ("worse", 1, False),
        ("worse", 2, True),
        ("worse", 9, True),
        ("far worse", 0, True),
    ],
)
def test_a_lineage_ends_when_patience_does_or_at_once_when_far_worse(
    outcome: Literal["promote", "worse", "far worse"], worse_before: int, is_over: bool
) -> None:
    verdict = Verdict(outcome, "", 0.5, 0.6)
    assert is_given_up(verdict, worse_before, GateSettings(patience=3)) is is_over


def test_what_changes_a_little_from_version_to_version_never_ends_a_lineage_at_once() -> None:
    served = evaluation(OLD, 2.0)
    for step in range(20):
        verdict = judged(evaluation(NEW, 2.0 - step * 0.01), served)
        assert verdict.outcome != "far worse"


# Figures of sites and of all of them


KINDS: Mapping[Metric, Callable[[int], Evaluation]] = {
    "pr_auc": lambda rows: evaluate(NEW, np.arange(2 * rows) % 2 == 0, np.full(2 * rows, 0.5)),
    "f1": lambda rows: evaluate_classes(
        NEW, np.arange(rows) % 2, np.eye(2)[np.arange(rows) % 2], np.zeros(rows)
    ),
    "rmse": lambda rows: evaluate_numbers(NEW, np.ones(rows), np.zeros(rows), np.ones(rows)),
    "loss": lambda rows: evaluate_reconstruction(NEW, np.ones(rows)),
}


@pytest.mark.parametrize("metric", KINDS)
def test_a_site_with_fewer_than_thirty_rows_or_failures_has_no_figure_of_its_own(
    metric: Metric,
) -> None:
    settings, few, enough = GateSettings(), KINDS[metric](29), KINDS[metric](30)
    assert metric_of(few, settings) == metric
    assert site_quality(few, settings) is None
    assert site_quality(enough, settings) == figure(metric, tally_of(enough))
    reports = {"a/x": few, "b/x": few}
    assert pooled_figure(reports, settings) == figure(metric, tally_of(few) + tally_of(few))


def test_a_figure_of_fewer_sites_than_the_charter_allows_is_not_shown() -> None:
    reports = {name: evaluation(NEW, 2.0) for name in ("a/1", "a/2", "b/1")}
    assert pooled_figure(reports, GateSettings(), k_min=2) is not None
    assert pooled_figure(reports, GateSettings(), k_min=3) is None
    assert pooled_figure({}, GateSettings()) is None


def test_a_metric_that_the_bundle_does_not_give_is_told() -> None:
    assert unfit_metric(GateSettings(), MANIFEST) == ""
    assert unfit_metric(GateSettings(metric="calibration"), MANIFEST) == ""
    said = unfit_metric(GateSettings(metric="rmse"), MANIFEST)
    assert said.startswith("loss binary_cross_entropy of bundle spindle gives no rmse; choose auto")


class Tables(msgspec.Struct):
    gate: GateSettings


@pytest.mark.parametrize(
    "line", ['metric = "auc"', "patience = 0", "abandon_below = 0", "tolerance = -0.1"]
)
def test_a_gate_that_could_not_work_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(SettingsError, match=r"gate.toml:3: gate\."):
        parse_settings(f"[gate]\nevery = 5\n{line}\n", Tables, "gate.toml")

"""The evaluation line on stdout: for every round, and for versions that a quorum judged."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.evaluation_log import EvaluationLog, line_of
from coordinator.federation import Federation
from coordinator.store import Store
from tests.coordinator.small_federation import Site, evaluation, open_federation
from wire.evaluation import (
    add,
    evaluate,
    evaluate_classes,
    evaluate_numbers,
    evaluate_reconstruction,
)
from wire.messages import Evaluation, Report

GOAL_1 = "[strategy]\ngoal = 1\n[gate]\nevery = 100\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


def report(federation: Federation, log: EvaluationLog, agent: str, site: str) -> None:
    judged = (evaluation(federation.head.train.content.digest, 2.0, 40),)
    federation.on_report(agent, site, Report(head=1, evaluations=judged), 1.0)
    log.print_new(federation)


def next_version(federation: Federation, log: EvaluationLog, site: Site) -> None:
    federation.commit([site.update(federation.head.train)], 1.0)
    log.print_new(federation)


def test_a_round_that_ends_before_every_site_reported_is_printed_at_its_end(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    federation, site = open_federation(store, GOAL_1), Site()
    log = EvaluationLog(store, is_synchronous=True, sites=2)
    log.resume(federation)
    next_version(federation, log, site)
    report(federation, log, "p", "a")
    assert capsys.readouterr().out == ""
    next_version(federation, log, site)
    said = capsys.readouterr().out
    assert said.startswith("round 1: PR-AUC 0.")
    assert said.endswith("on 40 held-out rows (10 failures) of 1 sites\n")
    report(federation, log, "p", "a")
    report(federation, log, "q", "b")
    report(federation, log, "r", "c")
    assert capsys.readouterr().out.count("round 2: PR-AUC") == 1


def test_an_asynchronous_version_without_quorum_is_not_printed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    federation, site = open_federation(store, GOAL_1), Site()
    log = EvaluationLog(store, is_synchronous=False, sites=2)
    log.resume(federation)
    report(federation, log, "p", "a")
    report(federation, log, "p2", "a")  # the same site
    next_version(federation, log, site)
    assert capsys.readouterr().out == ""
    report(federation, log, "p", "a")
    report(federation, log, "q", "b")
    assert capsys.readouterr().out.startswith("version 1: PR-AUC 0.")


def test_after_a_restart_a_printed_round_is_not_printed_again(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = open_federation(store, GOAL_1)
    log = EvaluationLog(store, is_synchronous=True, sites=1)
    log.resume(federation)
    report(federation, log, "p", "a")
    again = open_federation(store, GOAL_1)
    log = EvaluationLog(store, is_synchronous=True, sites=1)
    log.resume(again)
    log.print_new(again)
    assert capsys.readouterr().out.count("round 0:") == 1


def test_a_round_of_fewer_sites_than_the_charter_allows_has_a_line_without_figures(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    federation, site = open_federation(store, GOAL_1), Site()
    log = EvaluationLog(store, is_synchronous=True, sites=3, k_min=2)
    log.resume(federation)
    report(federation, log, "p", "a")
    report(federation, log, "p2", "a")  # the same site
    next_version(federation, log, site)
    said = capsys.readouterr().out
    assert said == "round 0: no figures: of 1 sites, and the charter shows 2 or more\n"
    report(federation, log, "p", "a")
    report(federation, log, "q", "b")
    next_version(federation, log, site)
    assert capsys.readouterr().out.startswith("round 1: PR-AUC 0.")


DIGEST = bytes(32)
FIRST = np.arange(40) < 10
LOSSES = FIRST.astype(np.float64)


@pytest.mark.parametrize(
    ("judged", "line"),
    [
        (
            evaluate(DIGEST, FIRST, np.where(FIRST, 0.9, 0.2)),
            "PR-AUC 1.000  ROC-AUC 1.000  on 80 held-out rows (20 failures) of 2 sites",
        ),
        (
            evaluate(DIGEST, FIRST & False, np.full(40, 0.2)),
            "PR-AUC   -    ROC-AUC   -    on 80 held-out rows (0 failures) of 2 sites",
        ),
        (
            evaluate_classes(DIGEST, np.arange(40) % 4, np.eye(4)[np.arange(40) % 2], LOSSES),
            "F1 0.333  accuracy 0.500  on 80 held-out rows of 2 sites",
        ),
        (
            evaluate_numbers(DIGEST, np.full(40, 80.0), 80 + 15 * LOSSES, LOSSES),
            "RMSE 7.5  MAE 3.75  on 80 held-out rows of 2 sites",
        ),
        (
            evaluate_reconstruction(DIGEST, np.full(40, 0.125)),
            "mean loss 0.125  on 80 held-out rows of 2 sites",
        ),
    ],
)
def test_each_kind_of_task_has_its_own_figures(judged: Evaluation, line: str) -> None:
    assert line_of(add([judged, judged]), 2) == line

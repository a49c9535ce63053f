"""The evaluation line on stdout: for every round, and for versions that a quorum judged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.evaluation_log import EvaluationLog
from coordinator.federation import Federation
from coordinator.store import Store
from tests.coordinator.small_federation import Site, evaluation, open_federation
from wire.messages import Report

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

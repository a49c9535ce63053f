"""A poisoned candidate is never served, and training goes on from what was good.

Three real agents learn from simulated machines over OPC UA; a fourth member, enrolled and within
every limit, poisons each version once something good is served.  One run is shared by the tests;
what they hold against each other is what crossed the broker, the agents' outboxes, the
coordinator's database and its page.
"""

import asyncio
import contextlib
import http.client
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.outbox import Entry, Outbox
from coordinator.config import DATABASE
from shopfloor.processes import python
from tests.coordinator.browser import chromium
from tests.fleet.hostile_plant import GOOD, Hostile, attack, lay_out_hostile
from tests.fleet.mallory import MALLORY
from wire.messages import TERMINAL

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
pytestmark = pytest.mark.timeout(500)


@dataclass(frozen=True)
class Update:
    """One update as the coordinator's database has it; `lineage` is that of its base version."""

    agent: str
    incarnation: str
    sequence: int
    status: str
    reason: str
    lineage: int


@dataclass(frozen=True)
class Decision:
    """One decision of the gate."""

    version: int
    lineage: int
    verdict: str
    reason: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, mosquitto_program: str) -> Hostile:
    """A plant that was attacked and recovered."""
    return asyncio.run(attack(lay_out_hostile(tmp_path_factory.mktemp("hostile"))))


def rows(run: Hostile, query: str) -> list[tuple]:  # type: ignore[type-arg]
    """What the coordinator's database says."""
    path = run.plant.coordinator_state / DATABASE
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


@pytest.fixture(scope="module")
def decisions(run: Hostile) -> list[Decision]:
    """All decisions, oldest first."""
    query = "SELECT version, lineage, verdict, reason FROM decisions ORDER BY number"
    return [Decision(*row) for row in rows(run, query)]


@pytest.fixture(scope="module")
def abandonment(run: Hostile, decisions: list[Decision]) -> Decision:
    """The decision that ended the poisoned lineage."""
    [found] = [
        item for item in decisions if item.verdict == "abandoned" and item.lineage == run.abandoned
    ]
    return found


@pytest.fixture(scope="module")
def updates(run: Hostile) -> list[Update]:
    """All updates that the coordinator knows."""
    query = (
        "SELECT agent, incarnation, sequence, status, reason, lineage FROM updates"
        " JOIN versions ON versions.version = base_version"
    )
    found = [Update(*row) for row in rows(run, query)]
    assert len(found) == rows(run, "SELECT count(*) FROM updates")[0][0]
    return found


def test_the_attack_was_within_every_limit_and_entered_versions(
    run: Hostile, updates: list[Update]
) -> None:
    hers = [update for update in updates if update.agent == MALLORY]
    assert len(hers) >= 2
    assert {update.status for update in hers} <= {"folded", "refused"}
    assert sum(update.status == "folded" for update in hers) >= 1
    lineage = f"lineage {run.abandoned} was abandoned"
    assert all(item.reason.startswith(lineage) for item in hers if item.status == "refused")
    good = run.quality[run.good.content.digest]
    trained = [
        run.quality[head.train.content.digest]
        for head in run.heads
        if head.lineage == run.abandoned and head.train.version > run.good.version
    ]
    assert min(trained) < good / 2


def test_a_candidate_was_found_worse_and_its_lineage_abandoned(
    run: Hostile, decisions: list[Decision], abandonment: Decision
) -> None:
    kept_back, last = [item for item in decisions if item.lineage == run.abandoned][-2:]
    assert last == abandonment
    assert (kept_back.verdict, kept_back.reason) == ("kept back", abandonment.reason)
    assert re.match(r"PR-AUC 0\.\d+ against 0\.\d+ on \d+ held-out rows of", abandonment.reason)
    assert abandonment.version == run.heads[run.first_of_new].train.version


def test_no_head_ever_named_what_was_turned_back_as_served(
    run: Hostile, decisions: list[Decision]
) -> None:
    candidates = {
        head.candidate.version: head.candidate.content.digest
        for head in run.heads
        if head.candidate is not None
    }
    turned_back = {item.version for item in decisions if item.verdict == "kept back"}
    promoted = {item.version for item in decisions if item.verdict == "promoted"}
    assert turned_back
    assert turned_back <= candidates.keys()  # all of them crossed the broker
    served = {head.serve.content.digest for head in run.heads}
    assert served.isdisjoint(candidates[version] for version in turned_back)
    assert {head.serve.version for head in run.heads} <= {0} | promoted


def test_what_was_served_stayed_good_on_rows_that_nobody_saw(run: Hostile) -> None:
    before = run.quality[run.good.content.digest]
    at = next(i for i, head in enumerate(run.heads) if head.serve == run.good)
    assert before >= GOOD
    served = {run.quality[head.serve.content.digest] for head in run.heads[at:]}
    assert min(served) > before / 2


def test_the_new_lineage_begins_with_the_last_good_weights_and_the_next_version(
    run: Hostile,
) -> None:
    last, first = run.heads[run.first_of_new - 1], run.heads[run.first_of_new]
    assert (last.lineage, first.lineage) == (run.abandoned, run.abandoned + 1)
    assert first.serve == last.serve
    assert first.train.content.digest == last.serve.content.digest
    assert first.train.version > last.train.version
    assert first.candidate is None


def test_honest_agents_go_on_in_the_new_lineage_and_a_version_of_it_is_promoted(
    run: Hostile, decisions: list[Decision], updates: list[Update]
) -> None:
    folded = {item.agent for item in updates if item.status == "folded"}
    since = {
        item.agent for item in updates if item.status == "folded" and item.lineage > run.abandoned
    }
    honest = {site.agent for site in run.plant.sites}
    assert honest <= folded
    assert len(since & honest) >= 2
    assert MALLORY not in since
    assert any(item.verdict == "promoted" and item.lineage > run.abandoned for item in decisions)
    end = run.heads[-1]
    assert end.serve.version > run.heads[run.first_of_new].train.version
    assert end.training == "closed"


def test_every_honest_update_was_folded_or_refused_because_its_lineage_was_abandoned(
    run: Hostile, updates: list[Update]
) -> None:
    known = {(item.agent, item.incarnation, item.sequence): item for item in updates}
    entries = outboxes(run)
    assert {key for key in known if key[0] != MALLORY} == entries.keys()  # none lost
    for key, entry in entries.items():
        update = known[key]
        told = {
            (receipt.status, receipt.reason)
            for receipt in run.receipts[update.agent]
            if (receipt.incarnation, receipt.sequence) == key[1:] and receipt.status in TERMINAL
        }
        assert entry.status == update.status
        assert {status for status, _ in told} == {update.status}
        if update.status == "refused":
            assert update.reason.startswith(f"lineage {update.lineage} was abandoned")
            assert update.lineage < run.heads[-1].lineage
        else:
            assert update.status == "folded"


def test_what_was_made_without_a_link_in_the_abandoned_lineage_was_refused_with_that_reason(
    run: Hostile, updates: list[Update]
) -> None:
    [late] = [
        item for item in updates if item.agent == "gateway-h" and item.sequence == run.offline
    ]
    assert (late.status, late.lineage) == ("refused", run.abandoned)
    assert late.reason == f"lineage {run.abandoned} was abandoned"
    told = [item for item in run.receipts["gateway-h"] if item.sequence == run.offline]
    assert [(item.status, item.reason) for item in told][-1] == (late.status, late.reason)


def outboxes(run: Hostile) -> dict[tuple[str, str, int], Entry]:
    """Every update that an honest agent made, by its own account."""
    found = {}
    for site in run.plant.sites:
        outbox = Outbox(site.state / "outbox.db", 1 << 40)
        for entry in outbox.account():
            found[site.agent, entry.incarnation, entry.sequence] = entry
        outbox.close()
    return found


# The page


@pytest.fixture(scope="module")
def page(run: Hostile) -> Iterator[int]:
    """The port of the run's page, served by a program of its own."""
    log, port = run.plant.directory / "page.log", run.plant.page_port
    command = python("coordinator.main", "web", run.plant.coordinator_config)
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + WAIT_S
        while not is_healthy(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        status = process.wait(WAIT_S)
    assert status == 0, log.read_text()


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def is_healthy(port: int) -> bool:
    """Whether the page is served already."""
    with contextlib.suppress(ConnectionRefusedError):
        return get(port, "/healthz")[0] == 200
    return False


def test_the_page_shows_the_abandoned_lineage_and_why(
    run: Hostile, page: int, abandonment: Decision
) -> None:
    status, text = get(page, "/")
    assert status == 200
    assert f"lineage {run.abandoned} abandoned" in text
    assert abandonment.reason in text
    assert 'class="abandoned"' in text


def test_a_browser_draws_the_abandoned_lineage_and_shows_the_reason(
    run: Hostile, page: int, abandonment: Decision, tmp_path: Path
) -> None:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed: run tests/install.sh .venv/bin/python as root")
    with chromium(program, tmp_path) as browser:
        browser.look(f"http://127.0.0.1:{page}/")
        browser.wait("document.getElementById('live').textContent === 'live'")
        told = browser.ask(
            "[...document.querySelectorAll('#decisions li.abandoned')].map(li => li.textContent)"
        )
        [mine] = [text for text in told if f"lineage {run.abandoned} abandoned" in text]
        assert abandonment.reason in mine
        assert browser.ask("document.querySelectorAll('#chart rect.gone').length") >= 1
        assert browser.ask("document.querySelectorAll('#chart line.back').length") >= 1
        assert browser.problems() == []

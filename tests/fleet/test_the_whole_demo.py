"""The whole product in one run: real processes, real OPC UA, real MQTT, failing links, kill -9.

One demo run (shortened) is shared by the tests here.  Its witness is a process of its own that
writes down what crossed the broker; the assertions hold the agents' outboxes, the coordinator's
store and the witness against each other.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.outbox import Outbox
from coordinator.config import DATABASE
from coordinator.gate import sites_of
from coordinator.server_optimizer import ServerOptimizerSettings
from coordinator.store import Store
from shopfloor.baselines import load_model
from shopfloor.ledger import Ledger, UpdateId, account
from shopfloor.plant import SITES
from shopfloor.refold import Recipe, refold
from wire.messages import TERMINAL

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6


@dataclass(frozen=True)
class Finished:
    """A finished run of the demo; `page` is what its page answered while it ran."""

    out: Path
    run: Path
    report: dict[str, Any]
    ledger: Ledger
    produced: set[UpdateId]
    statuses: dict[UpdateId, str]
    page: tuple[int, str]


def command_of(*words: str, out: Path) -> list[str]:
    """The command line of a demo without a live view."""
    command = [sys.executable, "-m", "shopfloor.main", "demo", "--headless", "--out", str(out)]
    return [*command, *words]


def watched_demo(*words: str, out: Path) -> tuple[int, str]:
    """Run `journeyman demo` to its end; ask its page for everything as soon as it says where.

    Returns:
      The page's status and text, (0, what the demo printed) where it said of no page.
    """
    printed, page = "", (0, "")
    with (out / "errors.log").open("w+") as errors:
        with subprocess.Popen(
            command_of(*words, out=out), cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                printed += line
                if line.startswith("Watch it: "):
                    with urllib.request.urlopen(line.split()[-1], timeout=60) as answer:
                        page = answer.status, answer.read().decode()
        errors.seek(0)
        assert process.returncode == 0, printed + errors.read()
    return page if page[0] else (0, printed)


def processes_of(run: Path) -> list[str]:
    """Command lines of live processes that name the run's directory or are its children."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(run) in words and int(entry.name) != os.getpid():
            found.append(words)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of 30 s of learning with the coordinator and agents killed by PID with -9."""
    out = tmp_path_factory.mktemp("demo")
    page = watched_demo("--seed", "3", "--duration", "30", "--kills", str(KILLS), out=out)
    run = next(out.glob("run-*"))
    ledger = Ledger(run / "witness")
    ledger.read_new()
    statuses: dict[UpdateId, str] = {}
    for site in SITES:
        agent = f"gateway-{site.lower()}"
        outbox = Outbox(run / agent / "outbox.db", 1 << 40)
        for entry in outbox.account():
            statuses[(agent, entry.incarnation, entry.sequence)] = entry.status
        outbox.close()
    report = json.loads((out / "report.json").read_text())
    return Finished(out, run, report, ledger, set(statuses), statuses, page)


@pytest.mark.timeout(300)
def test_agents_and_coordinator_were_really_killed_and_came_back(finished: Finished) -> None:
    told = (finished.out / "report.html").read_text()
    assert told.count("kill -9 of") >= KILLS
    assert "kill -9 of the coordinator" in told
    boots = (finished.run / "coordinator.log").read_text().count("federation demo at version")
    assert boots >= 2


def test_the_coordinators_page_could_be_watched_in_a_browser(finished: Finished) -> None:
    status, text = finished.page
    assert status == 200, text
    assert text.startswith("<!doctype html>")
    assert "· demo</title>" in text
    assert "stopped by an error" not in (finished.run / "page.log").read_text()


def test_every_update_produced_has_exactly_one_outcome_in_the_witnesss_ledger(
    finished: Finished,
) -> None:
    told = account(finished.produced, finished.ledger)
    assert told.produced > 20
    assert told.lost == 0
    assert told.doubled == 0
    assert sum(told.by_outcome.values()) == told.produced


def test_agents_coordinator_and_witness_agree_on_every_outcome(finished: Finished) -> None:
    store = Store(finished.run / "coordinator" / DATABASE)
    folded = {(agent, inc, seq) for _, agent, inc, seq, _ in store.memberships()}
    counts = store.counts()
    store.close()
    assert {key for key, status in finished.statuses.items() if status == "folded"} == folded
    assert set(finished.statuses.values()) <= set(TERMINAL)
    for key, status in finished.statuses.items():
        assert {outcome for outcome, _ in finished.ledger.outcomes[key]} == {status}
    assert sum(counts.get(name, 0) for name in TERMINAL) == len(finished.produced)
    assert counts.get("committed", 0) == 0


def test_folding_the_witnesss_bytes_again_gives_the_published_weights_bit_by_bit(
    finished: Finished,
) -> None:
    store = Store(finished.run / "coordinator" / DATABASE)
    memberships, versions = store.memberships(), store.versions()
    store.close()
    model, start = load_model(finished.run)
    optimizer = ServerOptimizerSettings(name="sgd", learning_rate=0.5)
    recipe = Recipe(start, model.manifest.shared_shapes, optimizer, decay=8.0)
    again = refold(recipe, versions, memberships, finished.ledger)
    announced = dict(head.train for head in finished.ledger.heads)
    assert len(again) > 10
    compared = again.keys() & announced.keys()
    assert len(compared) > 5
    assert {v: again[v] for v in compared} == {v: announced[v] for v in compared}


def test_the_same_update_was_never_offered_with_two_contents(finished: Finished) -> None:
    assert finished.ledger.conflicts == 0
    assert not list((finished.run / "witness" / "contents").glob("*.conflict"))


def test_updates_made_during_an_outage_arrived_afterwards(finished: Finished) -> None:
    late = [
        event
        for event in json.loads((finished.run / "events.json").read_text())
        if "made while its link was down" in event["text"]
    ]
    assert late


def test_the_report_has_every_figure_that_was_promised(finished: Finished) -> None:
    report = finished.report
    assert report["updates"]["lost"] == 0
    for metric in ("pr_auc", "roc_auc"):
        figures = report[metric]
        assert set(figures) == {"local", "federated", "pooled"}
        assert set(figures["local"]) == set(SITES)
        for site in SITES:
            own = report["per_site"][site][metric]
            assert set(own) == {"local", "federated", "pooled"}
    assert set(report) >= {"seed", "link_down_share", "bytes_per_update", "wall_s"}
    assert 0.1 < float(str(report["link_down_share"])) < 0.5
    assert 2_529 < float(str(report["bytes_per_update"])) < 6_000


def test_no_held_out_row_is_in_any_file_that_an_agent_or_a_machine_reads(
    finished: Finished,
) -> None:
    held_out, produced = (
        {
            line
            for site in SITES
            for line in (finished.run / folder / f"{site}.csv").read_text().splitlines()[1:]
        }
        for folder in ("held_out", "sites")
    )
    cut = {line.split(",", 2)[2] for line in held_out}  # without the running numbers
    assert len(held_out) == 2_000
    assert len(cut & {line.split(",", 2)[2] for line in produced}) <= 5  # equal rows by chance


def test_nothing_is_left_running(finished: Finished) -> None:
    assert processes_of(finished.run) == []


@pytest.mark.timeout(120)
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shopfloor.main", "demo", "--out", str(tmp_path)]
    # A shell that runs the tests in the background makes its jobs ignore SIGINT.
    command = ["env", "--default-signal=INT", *command]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob("run-*/gateway-h/status.json")):
        time.sleep(0.2)
    run = next(tmp_path.glob("run-*"))
    assert len(processes_of(run)) >= 4
    process.send_signal(2)
    assert process.wait(30) == 130
    deadline = time.monotonic() + 10
    while processes_of(run) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(run) == []


@pytest.mark.timeout(240)
def test_synchronous_rounds_over_the_embedded_broker_print_the_evaluation_after_each(
    tmp_path: Path,
) -> None:
    words = ("--seed", "1", "--duration", "24", "--strategy", "fedavg", "--broker", "embedded")
    done = subprocess.run(
        command_of(*words, out=tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed, (run,) = rounds_in(done.stdout), tmp_path.glob("run-*")
    assert len(printed) >= 3
    assert all("PR-AUC" in line for line in printed)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["strategy"] == "fedavg"
    assert report["updates"]["lost"] == 0

    # How many sites a line counts is the links' doing, but it must be what the coordinator knew.
    said = rounds_in((run / "coordinator.log").read_text())
    assert said[: len(printed)] == printed
    sites = {int(line.split()[1].rstrip(":")): sites_in(line) for line in said}
    assert list(sites) == sorted(sites)
    assert len(sites) == len(said)
    assert set(sites.values()) <= {1, 2, 3}
    store = Store(run / "coordinator" / DATABASE)
    state, versions, members = store.load(), store.versions(), store.memberships()
    assert state is not None
    last = state.train
    reported = sites_of(store.evaluations(last.content.digest))
    store.close()
    assert sites.keys() <= versions.keys()
    # The last round has no next one that ends it: it is printed when every site has reported.
    assert sites.get(last.version) == (len(SITES) if len(reported) == len(SITES) else None)
    assert {version for version, *_ in members} == set(range(1, last.version + 1))
    assert len({(version, agent) for version, agent, *_ in members}) == len(members)


def rounds_in(text: str) -> list[str]:
    """The lines about synchronous rounds."""
    return [line for line in text.splitlines() if line.startswith("round ")]


def sites_in(line: str) -> int:
    """How many sites a round's line counts."""
    found = re.search(r" of (\d+) sites$", line)
    assert found is not None, line
    return int(found[1])

"""Crashes: what was receipted is never lost, nothing counts twice, a restart changes no bit."""

import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.federation import Federation
from coordinator.store import Saved, Store
from tests.coordinator.committing import TOML, offered
from tests.coordinator.small_federation import (
    P,
    Site,
    buffer_in,
    evaluation,
    memory_of,
    open_federation,
    refold,
)
from wire.messages import Report

ADAM = (
    '[strategy]\ngoal = 3\ndeadline_s = 4\n[server_optimizer]\nname = "adam"\n'
    "[gate]\nevery = 2\nquorum = 1\ndeadline_s = 9\n"
)


def happen(federation: Federation, store: Store, sites: list[Site], step: int, seed: int) -> None:
    """One random event; the same one for the same step and seed."""
    rng = random.Random(f"{seed}/{step}")
    now_s, kind = float(step), rng.random()
    if kind < 0.6:
        batch = []
        for site in rng.sample(sites, rng.randint(1, 3)):
            again = bool(site.made) and rng.random() < 0.2
            batch.append(
                rng.choice(site.made)
                if again
                else site.update(federation.head.train, weight=rng.randint(1, 500))
            )
        federation.commit(batch, now_s)
    elif kind < 0.75:
        named = [item.content.digest for item in federation.contents() if item.kind == "model"]
        judged = tuple(evaluation(digest, rng.uniform(0, 3), 40) for digest in named)
        federation.on_report("p", "a", Report(head=1, evaluations=judged), now_s)
    elif kind < 0.85:
        store.set_training(rng.choice(["open", "closed"]))
    federation.tick(now_s)


def clocks(federation: Federation) -> list[tuple[object, str]]:
    """Where deadlines are measured from."""
    return [
        (federation, "_buffer_since_s"),
        (vars(federation)["_judging"], "_candidate_since_s"),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_restart_at_any_point_of_a_history_changes_no_bit(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.audit._now", lambda: 0)  # its entries say when, in seconds
    steady, restarted = Store(tmp_path / "steady.db"), Store(tmp_path / "restarted.db")
    one, other = open_federation(steady, ADAM), open_federation(restarted, ADAM)
    sites = [[Site(f"press-{number}") for number in range(4)] for _ in range(2)]
    sequences = []
    for step in range(30):
        happen(one, steady, sites[0], step, seed)
        happen(other, restarted, sites[1], step, seed)
        restarted.close()
        restarted = Store(tmp_path / "restarted.db")
        # The clock of a deadline starts again at a restart, so take the one that went on.
        since = [vars(part)[name] for part, name in clocks(other)]
        other = open_federation(restarted, ADAM)
        for (part, name), value in zip(clocks(other), since, strict=True):
            vars(part)[name] = value
        assert memory_of(other) == memory_of(one), f"step {step}"
        sequences.append(other.head.sequence)
    assert sequences == sorted(sequences)
    assert other.saved.version > 2
    assert restarted.counts() == steady.counts()
    updates = [update for site in sites[0] for update in site.made]
    for version, digest in refold(steady, updates, "adam").items():
        assert steady.version_digest(version) == digest
    steady.close()
    restarted.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_failure_inside_the_transaction_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng, path = random.Random(seed), tmp_path / "coordinator.db"
    store = Store(path)
    federation = open_federation(store, TOML)
    updates, crashes = offered(), 0
    receipted: set[tuple[str, int]] = set()
    save = Store.save

    def fail_sometimes(self: Store, saved: Saved) -> None:
        if rng.random() < 0.3:
            if rng.random() < 0.5:
                save(self, saved)
            raise RuntimeError
        save(self, saved)

    monkeypatch.setattr(Store, "save", fail_sometimes)
    while len(receipted) < len(updates):
        batch = rng.sample(updates, 3)
        before = memory_of(federation)
        try:
            result = federation.commit(batch, 0.0)
        except RuntimeError:
            crashes += 1
            assert memory_of(federation) == before  # memory went back with the file
            if rng.random() < 0.5:
                store.close()
                store = Store(path)
                federation = open_federation(store, TOML)
                assert memory_of(federation) == before
        else:
            receipted |= {(agent, item.sequence) for agent, item in result.receipts}
    assert crashes > 3
    assert_each_counted_once(store, federation)
    store.close()


def assert_each_counted_once(store: Store, federation: Federation) -> None:
    updates, counts = offered(), store.counts()
    assert counts.get("folded", 0) + counts.get("committed", 0) == len(updates)
    assert counts.get("committed", 0) == len(buffer_in(federation).members)
    digests = refold(store, updates, "momentum")
    assert sorted(digests) == list(range(1, federation.saved.version + 1))
    for version, digest in digests.items():
        assert store.version_digest(version) == digest
    members = sum(1 for _ in store.memberships()) + len(buffer_in(federation).members)
    assert members == len(updates)


def test_every_update_behind_the_last_version_of_a_batch_survives(tmp_path: Path) -> None:
    store = Store(tmp_path / "coordinator.db")
    federation = open_federation(store, "[strategy]\ngoal = 2\n")
    site = Site()
    federation.commit([site.update(federation.head.train) for _ in range(3)], 0.0)
    store.close()
    store = Store(tmp_path / "coordinator.db")
    again = open_federation(store, "[strategy]\ngoal = 2\n")
    assert len(buffer_in(again).members) == 1
    assert buffer_in(again).total.shape == (1, P)
    assert memory_of(again) == memory_of(federation)
    store.close()


def test_kill_9_at_random_moments_loses_no_receipted_update_and_counts_none_twice(
    tmp_path: Path, repository: Path
) -> None:
    path, rng = tmp_path / "coordinator.db", random.Random(7)
    command = [sys.executable, "-m", "tests.coordinator.committing", str(path)]
    receipted: set[tuple[str, int]] = set()
    interrupted = 0
    for attempt in range(20):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(rng.randint(1, 12))]
        if attempt < 6:
            time.sleep(rng.uniform(0, 0.003))
            process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
        process.stdout.close()
        process.wait()
        # A last line that was cut is a receipt that did not go out.
        words = [line.split() for line in lines if line.endswith("\n")]
        receipted |= {(word[0], int(word[1])) for word in words if len(word) == 3}
        with closing(sqlite3.connect(path)) as database:
            known = database.execute("SELECT agent, sequence FROM updates").fetchall()
        assert receipted <= set(known)
        if ["done"] in words:
            break
        interrupted += 1
    assert interrupted >= 2
    store = Store(path)
    assert len(receipted) == len(offered())
    assert_each_counted_once(store, open_federation(store, TOML))
    store.close()

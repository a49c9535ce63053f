"""The coordinator's store through every power cut: what was receipted counts once, bit by bit."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from coordinator.federation import Federation
from coordinator.store import Store
from tests.coordinator.committing import TOML
from tests.coordinator.small_federation import open_federation, refold
from tests.power.coordinator_work import (
    AGENTS,
    BATCH,
    UPDATES,
    account_of,
    learned_of,
    reopened,
    updates,
)
from tests.power.replay import (
    Check,
    Promise,
    Recording,
    assert_the_log_is_complete,
    record,
    replay,
    require,
)

EVERY = 4
"""Going on to the end is the slow part: only every so many states do."""


def recorded(shim: Path, directory: Path, runs: list[str], broken: str = "") -> Recording:
    return record(shim, "tests.power.coordinator_work", [[run, broken] for run in runs], directory)


def learned_in_peace() -> dict[str, Any]:
    store = Store(":memory:")
    federation = open_federation(store, TOML)
    offer_everything(federation)
    return learned_of(store, federation)


def offer_everything(federation: Federation) -> None:
    every = updates()
    for start in range(0, UPDATES, BATCH):
        federation.commit(every[start : start + BATCH], 0.0)


def checking(recording: Recording) -> Check:
    """Each state holds what was promised; it refolds; and going on ends where peace would have."""
    peaceful = learned_in_peace()
    turns = itertools.count()

    def check(directory: Path, promises: list[Promise]) -> None:
        store, federation = reopened(directory)
        try:
            if promises:
                account = account_of(store, federation)
                require(account, recording.allowed(promises, "account"))
            else:
                assert store.memberships() == []
            assert_receipts_hold(store, promises)
            assert {agent for agent, *_ in store.agents()} <= set(AGENTS)
            for version, digest in refold(store, updates(), "momentum").items():
                assert store.version_digest(version) == digest
            boots = [promise["boot"] for promise in promises if "boot" in promise]
            assert store.next_boot() > max(boots, default=0)
            if next(turns) % EVERY == 0:
                offer_everything(federation)
                assert learned_of(store, federation) == peaceful
        finally:
            store.close()

    return check


def assert_receipts_hold(store: Store, promises: list[Promise]) -> None:
    status = {}
    for update in updates():
        known = store.known_update(update.header)
        if known is not None:
            header = update.header
            status[header.agent, header.incarnation, header.sequence] = known.status
    for promise in promises:
        for agent, incarnation, sequence, receipted in promise.get("receipts", []):
            assert status[agent, incarnation, sequence] in {receipted, "folded"}


def test_no_power_cut_loses_a_receipted_update_or_counts_one_twice(
    shim: Path, tmp_path: Path, scratch: Path
) -> None:
    recording = recorded(shim, scratch / "work", ["first", "second", "third"])
    assert_the_log_is_complete(recording)
    outcome = replay(recording, checking(recording), scratch, 240)
    print(f"coordinator: {outcome}")
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.states > outcome.cuts
    receipts = [row for promise in recording.promises for row in promise.get("receipts", [])]
    assert {(agent, sequence) for agent, _, sequence, _ in receipts} == {
        (update.header.agent, update.header.sequence) for update in updates()
    }


@pytest.mark.parametrize("broken", ["off", "normal", "late"])
def test_a_coordinator_that_receipts_before_its_commit_is_on_the_disk_is_found_out(
    shim: Path, scratch: Path, broken: str
) -> None:
    recording = recorded(shim, scratch / "work", ["first"], broken)
    outcome = replay(recording, checking(recording), scratch, 120, enough=8)
    assert outcome.failed == 8

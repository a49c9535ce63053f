"""The outbox through every power cut: what a call promised is there, bit by bit."""

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from agent.outbox import Outbox
from tests.power.disk import Tree
from tests.power.outbox_work import FILE, QUOTA_BYTES, account_of, content_of, header_of
from tests.power.replay import (
    Check,
    Promise,
    Recording,
    assert_the_log_is_complete,
    cut_points,
    record,
    replay,
    require,
    states,
)

WORKLOAD = "tests.power.outbox_work"
SMALL = ["first", "second", "third"]


def recorded(
    shim: Path, directory: Path, runs: list[str], broken: str = "", base: Tree | None = None
) -> Recording:
    return record(shim, WORKLOAD, [[run, broken] for run in runs], directory, base)


def checking(recording: Recording, begun: list[Any] | None = None) -> Check:
    """Each state holds what was promised last, or what the call that was going on makes of it.

    Args:
      recording: the workload's.
      begun: what may be there before its first promise; None: an outbox without updates.
    """

    def check(directory: Path, promises: list[Promise]) -> None:
        outbox = Outbox(directory / FILE, QUOTA_BYTES)
        try:
            assert outbox.set_aside == []
            account = as_json(account_of(outbox))
            if promises:
                require(account, recording.allowed(promises, "account"))
            elif begun is not None:
                require(account, begun)
            else:
                assert account[1:] == [0, -1, [], []]
            sessions = [promise["session"] for promise in promises if "session" in promise]
            assert outbox.next_session() > max(sessions, default=0)
        finally:
            outbox.close()

    return check


def as_json(account: list[object]) -> list[object]:
    """As a promise holds it: lists for tuples."""
    return [[list(row) for row in part] if isinstance(part, list) else part for part in account]


@pytest.mark.parametrize(("runs", "cuts"), [(SMALL, 10_000), (["large"], 90)])
def test_no_power_cut_breaks_a_promise_of_the_outbox(
    shim: Path, tmp_path: Path, scratch: Path, runs: list[str], cuts: int
) -> None:
    recording = recorded(shim, scratch / "work", runs)
    assert_the_log_is_complete(recording)
    outcome = replay(recording, checking(recording), scratch, cuts)
    print(f"outbox {'+'.join(runs)}: {outcome}")
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.states > outcome.cuts


def test_what_the_workload_promised_is_what_it_made(shim: Path, scratch: Path) -> None:
    recording = recorded(shim, scratch / "work", SMALL)
    seen: dict[str, tuple[str, str]] = {}
    for promise in recording.promises:
        for at, header, content in promise["account"][4]:
            if content is not None:
                seen[at] = (header, content)
    made = {}
    incarnations = list(dict.fromkeys(promise["account"][0] for promise in recording.promises))
    sizes = [(100, 9000, 20000, 5000, 3000, 40000), (500, 700)]
    for incarnation, of_one in zip(incarnations, sizes, strict=True):
        for sequence, size in enumerate(of_one, start=1):
            digest = hashlib.sha256(content_of(sequence, size)).hexdigest()
            made[f"{incarnation}/{sequence}"] = (header_of(sequence).hex(), digest)
    assert seen == made
    statuses = [entry[2] for entry in recording.promises[-1]["account"][3]]
    assert sorted(set(statuses)) == ["dropped", "folded", "pending", "refused"]


@pytest.mark.parametrize("broken", ["off", "normal", "late"])
def test_an_outbox_that_promises_too_early_is_found_out(
    shim: Path, scratch: Path, broken: str
) -> None:
    recording = recorded(shim, scratch / "work", ["first"], broken)
    assert_the_log_is_complete(recording)
    outcome = replay(recording, checking(recording), scratch, 60, enough=8)
    assert outcome.failed == 8


def test_power_that_goes_again_while_the_outbox_recovers_breaks_no_promise(
    shim: Path, scratch: Path
) -> None:
    recording = recorded(shim, scratch / "work", ["first"])
    points = cut_points(recording, 10_000)
    every = [state for state in states(recording, points, 1) if len(state.promises) > 4]
    for number, state in enumerate(random.Random(3).sample(every, 3)):
        allowed = recording.allowed(state.promises, "account")
        again = recorded(shim, scratch / f"again-{number}", ["second"], base=state.tree)
        assert_the_log_is_complete(again)
        require(again.promises[0]["account"], allowed)
        outcome = replay(again, checking(again, allowed), scratch, 80)
        assert not outcome.failures, "\n".join(outcome.failures)
        print(f"outbox after {state.model}: {outcome}")


def test_power_that_goes_while_a_damaged_outbox_is_set_aside_loses_no_update(
    shim: Path, scratch: Path
) -> None:
    """Whatever is salvaged without the cut is there with it, and no number is used again."""
    before = recorded(shim, scratch / "before", ["first", "second", "first"])
    old = before.promises[-1]["account"]
    tree = damaged(before.replayed())
    recording = recorded(shim, scratch / "work", ["opening"], base=tree)
    assert_the_log_is_complete(recording)
    (salvaged,) = (promise["account"] for promise in recording.promises)
    assert len(salvaged[4]) > 2

    def check(directory: Path, promises: list[Promise]) -> None:
        outbox = Outbox(directory / FILE, QUOTA_BYTES)
        try:
            account = as_json(account_of(outbox))
            assert outbox.set_aside
            require(account[4], [salvaged[4]])
            require(account[3], [salvaged[3]])
            assert outbox.incarnation != old[0]
        finally:
            outbox.close()

    outcome = replay(recording, check, scratch, 60, seeds=2)
    print(f"outbox set aside: {outcome}")
    assert not outcome.failures, "\n".join(outcome.failures)


def damaged(tree: Tree) -> Tree:
    """The tree with one page of the outbox's main file overwritten, its log whole."""
    assert tree[f"{FILE}-wal"]
    main = bytearray(tree[FILE])
    page = len(main) // 4096 - 2
    main[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
    return {**tree, FILE: bytes(main)}

"""Cuts the power after every operation of a log, and asks what the product makes of the rest.

A workload runs as real processes under the fault shim (`shopfloor/faults`), which logs every change
of its directory in order. What it promised, it writes to a file of its own in that directory
(`Promises`), so a promise has an exact place among the operations; that file is no part of what a
cut leaves. Then, for each cut and each model of `disk.py`, the directory as the cut may leave it is
written and given to a check, which opens it with the product's own code.

Two cuts that leave the same bytes under the same promises are one state and checked once.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shopfloor.faults.log import Kind, Operation, read_log
from shopfloor.faults.shim import environment
from tests.power.disk import SHARED_MEMORY, Disk, Tree

PROMISES = "promises"
CUTS = int(os.environ.get("JM_POWER_CUTS", "0"))
"""Cut points of each workload, 0: as many as its test says; a large number cuts everywhere."""
SEEDS = int(os.environ.get("JM_POWER_SEEDS", "1"))
"""Times as often as its test says is each cut scattered, with each size of sector."""
_SECTORS = (512, 4096)
_AROUND = 2
_MOST_FAILURES = 5

Promise = dict[str, Any]
Check = Callable[[Path, list[Promise]], None]


class Promises:
    """What a workload says it has promised so far; one line for each promise.

    Args:
      directory: the one that is logged.
    """

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / PROMISES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def make(self, **facts: object) -> None:
        """Write it down now: it holds from here on."""
        os.write(self._file, json.dumps(facts).encode() + b"\n")


@dataclass(frozen=True)
class Recording:
    """A workload that ran to its end.

    Attributes:
      operations: all of them, the writes to the file of promises too.
      directory: as the workload left it.
      base: what was there before: inode number and content by name.
    """

    operations: list[Operation]
    directory: Path
    base: dict[str, tuple[int, bytes]]

    @property
    def promises(self) -> list[Promise]:
        """All of them."""
        return [made for operation in self.operations for made in _promised(operation)]

    def allowed(self, promises: list[Promise], fact: str) -> list[Any]:
        """What may be found after a cut: what was promised last, or what comes next.

        Args:
          promises: made before the cut, at least one.
          fact: its name in a promise.
        """
        return [made[fact] for made in self.promises[len(promises) - 1 : len(promises) + 1]]

    def replayed(self) -> Tree:
        """The directory as the log says it is in the end."""
        disk = self.disk()
        for operation in self.operations:
            disk.apply(operation)
        return disk.everything()

    def disk(self) -> Disk:
        """The directory before the first operation."""
        return Disk(frozenset({PROMISES}), self.base)


def record(
    shim: Path, workload: str, runs: list[list[str]], directory: Path, base: Tree | None = None
) -> Recording:
    """Run `python -m WORKLOAD DIRECTORY ARGUMENTS...` once for each list of arguments.

    Args:
      shim: the library.
      workload: a module; it may end by `os._exit`.
      runs: arguments of each process, one after another.
      directory: where; it must not exist.
      base: files that are there before.
    """
    state, log = directory / "state", directory / "log"
    state.mkdir(parents=True)
    before: dict[str, tuple[int, bytes]] = {}
    for name, content in (base or {}).items():
        (state / name).write_bytes(content)
        before[name] = ((state / name).stat().st_ino, content)
    for arguments in runs:
        done = subprocess.run(
            [sys.executable, "-m", workload, str(state), *arguments],
            env={**os.environ, **environment(shim, None, state, log)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return Recording(read_log(log), state, before)


def assert_the_log_is_complete(recording: Recording) -> None:
    """Check that the log explains every byte that is left: no change went past the shim."""
    left = {
        path.name: path.read_bytes()
        for path in recording.directory.iterdir()
        if path.name != PROMISES
    }
    replayed = recording.replayed()
    assert sorted(replayed) == sorted(left)
    for name, data in left.items():
        assert name.endswith(SHARED_MEMORY) or replayed[name] == data, name


@dataclass(frozen=True)
class State:
    """What one cut leaves under one model."""

    after: int
    model: str
    tree: Tree
    promises: list[Promise]


@dataclass
class Outcome:
    """What a replay found.

    Attributes:
      cuts: points in time.
      operations: of the log.
      states: different ones that were checked.
      failures: the first few, in words.
      failed: how many states failed.
    """

    cuts: int
    operations: int
    states: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.cuts} cuts of {self.operations} operations, {self.states} states"


def replay(
    recording: Recording,
    check: Check,
    scratch: Path,
    most_cuts: int,
    *,
    seeds: int = 1,
    enough: int = 1000,
) -> Outcome:
    """Check every state that a power cut may leave.

    Args:
      recording: the workload's.
      check: gets the directory and the promises that were made by then; raises for a broken one.
      scratch: a directory, best in memory.
      most_cuts: points in time; `JM_POWER_CUTS` replaces it.
      seeds: how often each cut is scattered; `JM_POWER_SEEDS` multiplies it.
      enough: failed states after which the verdict is clear.
    """
    points = cut_points(recording, CUTS or most_cuts)
    changes = sum(1 for operation in recording.operations if operation.name != PROMISES)
    outcome = Outcome(len(points), changes)
    seen: set[tuple[bytes, int]] = set()
    for state in states(recording, points, seeds * SEEDS):
        key = (_digest(state.tree), len(state.promises))
        if key in seen:
            continue
        seen.add(key)
        if outcome.failed >= enough:
            break
        outcome.states += 1
        with _written(state.tree, scratch) as directory:
            try:
                check(directory, state.promises)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this state's verdict
                outcome.failed += 1
                if len(outcome.failures) < _MOST_FAILURES:
                    before = recording.operations[state.after - 1] if state.after else "nothing"
                    outcome.failures.append(
                        f"cut after operation {state.after} ({before}), {state.model}: {error!r}"
                    )
    return outcome


def require(found: object, allowed: list[Any]) -> None:
    """Check that a store holds what it may hold; says it shorter than pytest would.

    Raises:
      AssertionError: it does not.
    """
    if found not in allowed:
        reason = f"not what was promised, nor what came next: {str(found)[:300]}"
        raise AssertionError(reason)


def cut_points(recording: Recording, most: int) -> list[int]:
    """Numbers of operations that were done when the power went.

    All of them when there are at most so many, else those around each sync and each change of a
    name, and of the rest a sample.
    """
    operations, disk = recording.operations, recording.disk()
    every = [0] + [at + 1 for at, done in enumerate(operations) if disk.does_change(done)]
    if len(every) <= most:
        return every
    interesting: set[int] = set()
    for place, point in enumerate(every[1:], start=1):
        if operations[point - 1].kind != Kind.WRITE:
            interesting.update(every[max(0, place - _AROUND) : place + _AROUND + 1])
    rng = random.Random(len(operations))
    chosen = sorted(interesting)
    if len(chosen) > most:
        return sorted(rng.sample(chosen, most))
    rest = [point for point in every if point not in interesting]
    return sorted(chosen + rng.sample(rest, most - len(chosen)))


def states(recording: Recording, points: list[int], seeds: int) -> Iterator[State]:
    """Every state of every cut, in order."""
    operations, disk = recording.operations, recording.disk()
    promises: list[Promise] = []
    wanted = set(points)
    for done in range(len(operations) + 1):
        # A promise that was made after an operation holds when the power goes after that operation
        # at the latest when the next one was done, so cuts come as late as they can.
        following = operations[done] if done < len(operations) else None
        if following is not None and following.name == PROMISES:
            promises += _promised(following)
            if done in wanted:
                wanted.add(done + 1)
            continue
        if done in wanted:
            yield from _states_of(disk, done, list(promises), following, seeds)
        if following is not None:
            disk.apply(following)


def _states_of(
    disk: Disk, done: int, promises: list[Promise], going_on: Operation | None, seeds: int
) -> Iterator[State]:
    yield State(done, "everything", disk.everything(), promises)
    for names in (True, False):
        model = f"only what was synced, names {'all' if names else 'synced'}"
        yield State(done, model, disk.synced(names=names), promises)
    for seed in range(seeds):
        for sector in _SECTORS:
            rng = random.Random(f"{done}/{seed}/{sector}")
            model = f"scattered, sectors of {sector}, seed {seed}"
            yield State(done, model, disk.scattered(rng, sector, going_on), promises)


def _promised(operation: Operation) -> list[Promise]:
    if operation.name != PROMISES or operation.kind != Kind.WRITE:
        return []
    return [json.loads(operation.data)]


def _digest(tree: Tree) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, content in tree.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.digest()


@contextlib.contextmanager
def _written(tree: Tree, scratch: Path) -> Iterator[Path]:
    directory = scratch / "cut"
    directory.mkdir()
    try:
        for name, content in tree.items():
            (directory / name).write_bytes(content)
        yield directory
    finally:
        shutil.rmtree(directory)

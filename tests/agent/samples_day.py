"""A process that stores a day of samples on a disk that fails, and accounts for every one.

    python -m tests.agent.samples_day DIRECTORY CONTROL SEED

Runs under the fault shim; CONTROL is its file, so that the process makes its own disk full.  Twenty
channels at 1 Hz and one of arrays a minute for 24 simulated hours; about every ten minutes a fault:
the store is dropped without being closed (as if killed), closed and opened with its channels in
another order, its last file gets a torn tail, a byte of an old file changes, the disk is full,
fails, or can only be read.

Prints a JSON object of numbers for the test, or fails where the books do not balance.
"""

import errno
import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.samples import SampleStore, StoreTable
from agent.signals.block import ArraySample, Block, block_of
from shopfloor.faults.shim import Control

DAY_S = 86_400
BLOCK_S = 5
ARRAY_S = 60
NUMBERS = 20
CHANNELS = (*(f"machine.{at}" for at in range(NUMBERS)), "waveform")
START_US = 1_763_800_000_000_000
SETTINGS = StoreTable(max_bytes=1 << 20, buffer_bytes=1 << 20, flush_s=60.0)
READ_EVERY_S = 7200
BAD = 0x80310000
DAMAGED = "store damaged"
HEADER_BYTES = 2000
"""At most, of a file of this store."""
FAULTS = ("kill", "torn", "reopen", "rot", "full", "failing", "read-only")
ERRNO = {"full": errno.ENOSPC, "failing": errno.EIO, "read-only": errno.EROFS}


class World:
    """What the machines said: (NUMBERS, DAY_S), every sample known by channel and second."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        walk = np.cumsum(rng.normal(0, 0.05, (NUMBERS, DAY_S)), axis=1)
        self.value = np.round(walk, 2)
        self.value[NUMBERS // 2 :] = walk[NUMBERS // 2 :].astype(np.float32)
        self.status = np.where(rng.random((NUMBERS, DAY_S)) < 0.01, BAD, 0).astype(np.uint32)
        self.value[self.status == BAD] = np.nan
        self.is_late = rng.random((NUMBERS, DAY_S)) < 0.01
        """The first sample of a block comes at the end of the next block."""
        self.is_late[:, np.arange(DAY_S) % BLOCK_S > 0] = False
        self.is_late[:, -2 * BLOCK_S :] = False

    def samples_at(self, second: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Channels and seconds of the block that arrives at a second, in order of arrival."""
        parts = []
        for at in range(second, second + BLOCK_S):
            on_time = np.flatnonzero(~self.is_late[:, at])
            parts.append((on_time, np.full(len(on_time), at)))
        if second:
            late = np.flatnonzero(self.is_late[:, second - BLOCK_S])
            parts.append((late, np.full(len(late), second - BLOCK_S)))
        return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])


def _none() -> NDArray[np.bool_]:
    return np.zeros((NUMBERS + 1, DAY_S), np.bool_)


@dataclass
class Books:
    """What a reader of the store found, by channel and second; the waveform is the last channel.

    Attributes:
      pushed: given to the store.
      seen: read from it at some time.
      marked: strictly inside a gap that it had at some time.
      reasons: of gaps.
    """

    pushed: NDArray[np.bool_] = field(default_factory=_none)
    seen: NDArray[np.bool_] = field(default_factory=_none)
    marked: NDArray[np.bool_] = field(default_factory=_none)
    reasons: set[str] = field(default_factory=set)

    def read(
        self, store: SampleStore, channels: tuple[str, ...], world: World
    ) -> NDArray[np.bool_]:
        """Read all; returns what is there now.

        Raises:
          AssertionError: a sample is there twice, or is not as it was pushed.
        """
        of = np.array([CHANNELS.index(name) for name in channels])
        now = _none()
        for block in store.read(0, 1 << 62):
            channel = of[block.channel]
            second = (block.source_timestamp_us - START_US) // 1_000_000
            assert not now[channel, second].any(), "a sample is there twice"
            assert np.array_equal(block.source_timestamp_us, time_us(second))
            assert np.array_equal(block.status, world.status[channel, second])
            assert np.array_equal(block.value, world.value[channel, second], equal_nan=True)
            now[channel, second] = True
            for sample in block.arrays:
                at = (sample.source_timestamp_us - START_US) // 1_000_000
                assert of[sample.channel] == NUMBERS
                assert not now[NUMBERS, at], "an array is there twice"
                assert np.array_equal(sample.value, wave_at(at))
                now[NUMBERS, at] = True
            for gap in block.gaps:
                self._mark(int(of[gap.channel]), gap.from_us, gap.until_us)
                self.reasons.add(gap.reason)
        assert not (now & ~self.pushed).any(), "a sample that was never pushed"
        self.seen |= now
        return now

    def _mark(self, channel: int, from_us: int, until_us: int) -> None:
        first = (from_us - START_US) // 1_000_000 + 1
        behind = -((START_US - until_us) // 1_000_000)
        self.marked[channel, max(first, 0) : max(behind, 0)] = True


def time_us(second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Source timestamps."""
    return START_US + second * 1_000_000


def wave_at(second: int) -> NDArray[np.float32]:
    """The waveform of a second."""
    return np.full(16, second, np.float32)


class Day:
    """One day on one disk."""

    def __init__(self, folder: Path, control: Control, seed: int) -> None:
        self.folder, self.control = folder, control
        self.rng = random.Random(seed)
        self.world, self.books = World(seed), Books()
        self.now_us = START_US
        self.channels = CHANNELS
        self.heal_at = 0
        self.done: dict[str, int] = dict.fromkeys(FAULTS, 0)
        self.vanished = self.rotten = self.pushed = 0
        self.store = self.open()
        self.before = (0, 0)
        self.in_life = 0

    def open(self) -> SampleStore:
        """A store on the folder."""
        return SampleStore(self.folder, self.channels, SETTINGS, lambda: self.now_us)

    def totals(self) -> tuple[int, int]:
        """Stored, and lost but for damage, so far, as the store says."""
        found = self.store.counters()
        lost = sum(count for reason, count in found.lost.items() if reason != DAMAGED)
        return found.stored, lost

    def push(self, second: int) -> None:
        """The block of a second."""
        channel, at = self.world.samples_at(second)
        self.books.pushed[channel, at] = True
        of = np.array([self.channels.index(name) for name in CHANNELS])
        arrays: tuple[ArraySample, ...] = ()
        if second % ARRAY_S == 0:
            arrays = (
                ArraySample(int(of[NUMBERS]), wave_at(second), 0, START_US + second * 1_000_000),
            )
            self.books.pushed[NUMBERS, second] = True
        block: Block = block_of(
            of[channel],
            self.world.value[channel, at],
            self.world.status[channel, at],
            time_us(at),
            arrays=arrays,
        )
        self.store.append(block)
        self.in_life += block.samples
        self.pushed += block.samples

    def balance(self) -> None:
        """What came in since the store was opened is stored, lost or waiting."""
        stored, lost = self.totals()
        found = stored - self.before[0] + lost - self.before[1]
        assert self.in_life == found + self.store.counters().waiting, "the books do not balance"

    def reopen(self) -> None:
        """Another process opens the folder."""
        self.store = self.open()
        self.before, self.in_life = self.totals(), 0

    def kill(self) -> None:
        """The process is killed: what it had in memory is gone, with what it had not said."""
        self.balance()
        stored, lost = self.totals()
        waiting = self.store.counters().waiting
        self.reopen()
        assert self.before[0] == stored, "opened again, it counts other samples"
        self.vanished += waiting + lost - self.before[1]

    def strike(self, fault: str, second: int) -> None:
        """One fault."""
        self.done[fault] += 1
        if fault in ERRNO:
            self.control.fail(ERRNO[fault])
            self.heal_at = second + self.rng.randrange(60, 4000)
        elif fault == "kill":
            self.kill()
        elif fault == "torn":
            self.tear()
            self.kill()
        elif fault == "reopen":
            self.store.close()
            self.balance()
            self.channels = tuple(self.rng.sample(self.channels, len(CHANNELS)))
            self.kill()
        elif fault == "rot":
            self.rot()

    def tear(self) -> None:
        """A power cut left the beginning of a record, or garbage, at the end."""
        files = sorted(self.folder.glob("*.samples"))
        if files:
            data = files[-1].read_bytes()
            length = self.rng.randrange(1, 3000)
            tail = self.rng.choice((data[-length:], self.rng.randbytes(length), bytes(length)))
            with files[-1].open("ab") as file:
                file.write(tail)

    def rot(self) -> None:
        """A byte of an old file changes; a reader finds out."""
        self.store.flush()
        files = sorted(self.folder.glob("*.samples"))[:-1]
        if not files:
            return
        before = self.books.read(self.store, self.channels, self.world)
        lost = self.store.counters().lost.get(DAMAGED, 0)
        file = self.rng.choice(files)
        data = bytearray(file.read_bytes())
        place = self.rng.randrange(len(data))
        data[place] ^= 1 << self.rng.randrange(8)
        file.write_bytes(data)
        if place < HEADER_BYTES or self.rng.random() < 0.5:
            self.kill()  # a header is read when the folder is opened
        after = self.books.read(self.store, self.channels, self.world)
        self.store.flush()
        gone = int((before & ~after).sum())
        self.rotten += gone
        assert self.store.counters().lost.get(DAMAGED, 0) - lost == gone
        assert not (before & ~after & ~self.books.marked).any(), "damage that no gap marks"

    def live(self) -> None:
        """The whole day."""
        next_fault = 900
        for second in range(0, DAY_S, BLOCK_S):
            self.now_us = START_US + second * 1_000_000
            self.push(second)
            self.store.tick()
            if self.heal_at and second >= self.heal_at:
                self.heal_at = 0
                self.control.heal()
            if second >= next_fault:
                next_fault = second + self.rng.randrange(60, 1100)
                if self.heal_at == 0:
                    self.strike(self.rng.choice(FAULTS), second)
                elif self.rng.random() < 0.1:
                    self.strike("kill", second)
            if second % READ_EVERY_S == 0:
                self.books.read(self.store, self.channels, self.world)
        self.control.heal()
        self.store.flush()
        self.balance()

    def result(self) -> dict[str, object]:
        """The numbers of the day.

        Raises:
          AssertionError: a sample is neither stored, nor lost and marked.
        """
        kept = self.books.read(self.store, self.channels, self.world)
        found = self.store.counters()
        unexplained = self.books.pushed & ~self.books.seen & ~self.books.marked
        assert not unexplained.any(), [
            (CHANNELS[c], s) for c, s in np.argwhere(unexplained)[:10].tolist()
        ]
        lost = {reason: count for reason, count in found.lost.items() if reason != DAMAGED}
        assert found.stored == int(self.books.seen.sum())
        assert self.pushed == found.stored + sum(lost.values()) + self.vanished
        assert found.expired == found.stored - int(kept.sum()) - found.lost.get(DAMAGED, 0)
        assert found.waiting == 0
        assert self.store.problem == ""
        return {
            "pushed": self.pushed,
            "stored": found.stored,
            "lost": found.lost,
            "vanished": self.vanished,
            "expired": found.expired,
            "rotten": self.rotten,
            "kept": int(kept.sum()),
            "faults": self.done,
            "reasons": sorted(self.books.reasons),
            "failed_operations": self.control.failed,
            "bytes_used": found.bytes_used,
            "written": sum(found.written.values()),
            "left": sorted(path.name for path in self.folder.iterdir()),
        }


def main() -> None:
    """Live through the day."""
    folder, control, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with Control(control) as faults:
        day = Day(folder, faults, seed)
        day.live()
        print(json.dumps(day.result()))


if __name__ == "__main__":
    main()

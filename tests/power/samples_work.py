"""A process that stores samples as the agent does, and says what is stored.

    python -m tests.power.samples_work DIRECTORY RUN SABOTAGE

Each batch is promised when `flush` returned.  The clock runs so fast that a file is full after four
batches and too old after a day.  Run `first` dies without closing, `second` closes, `third` has its
channels in another order and dies again.
"""

import os
import sys
from pathlib import Path

import numpy as np

from agent.samples import SampleStore, StoreTable
from agent.signals.block import ArraySample, Block, block_of
from tests.power.replay import Promises
from tests.power.sabotage import sabotage

CHANNELS = ("torque", "speed", "vibration")
FIRST_BATCH = {"first": 0, "second": 40, "third": 75}
BATCHES = 16
BATCH_US = 20 * 60 * 1_000_000
SAMPLES = 20
STEP_US = 1_000_000
START_US = 1_763_800_000_000_000


class Clock:
    """A wall clock that is set."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        """Microseconds since 1970 UTC."""
        return self.now_us


def open_store(directory: Path, clock: Clock, channels: tuple[str, ...] = CHANNELS) -> SampleStore:
    """The store of the directory."""
    return SampleStore(directory, channels, StoreTable(max_bytes=1 << 20, max_days=1), clock)


def batch_at(number: int, channels: tuple[str, ...] = CHANNELS) -> Block:
    """A batch; every value follows from its number."""
    times = START_US + number * BATCH_US + STEP_US * np.arange(SAMPLES)
    of = {name: at for at, name in enumerate(channels)}
    wave = np.full(8, number, np.float32)
    return block_of(
        np.repeat([of["torque"], of["speed"]], SAMPLES),
        np.concatenate([times / 7e6, np.full(SAMPLES, float(number))]),
        np.zeros(2 * SAMPLES),
        np.tile(times, 2),
        arrays=(ArraySample(of["vibration"], wave, 0, int(times[0])),),
    )


def batches_in(store: SampleStore) -> list[int]:
    """The numbers of the batches that are read, each of them whole.

    Raises:
      AssertionError: one is not whole, or not as it was.
    """
    found = []
    for block in store.read(0, 1 << 62):
        if not block.samples:
            continue
        number = int(block.source_timestamp_us.min() - START_US) // BATCH_US
        expected = batch_at(number)
        order = np.lexsort((block.source_timestamp_us, block.channel))
        assert np.array_equal(block.channel[order], expected.channel)
        assert np.array_equal(block.value[order], expected.value)
        assert np.array_equal(block.source_timestamp_us[order], expected.source_timestamp_us)
        (wave,) = block.arrays
        assert wave.channel == 2
        assert np.array_equal(wave.value, expected.arrays[0].value)
        found.append(number)
    return found


def main() -> None:
    """Store sixteen batches."""
    directory, run = Path(sys.argv[1]), sys.argv[2]
    sabotage(sys.argv[3])
    clock, promises = Clock(), Promises(directory)
    channels = CHANNELS[::-1] if run == "third" else CHANNELS
    clock.now_us += FIRST_BATCH[run] * BATCH_US
    store = open_store(directory, clock, channels)
    for number in range(FIRST_BATCH[run], FIRST_BATCH[run] + BATCHES):
        clock.now_us = START_US + number * BATCH_US
        store.append(batch_at(number, channels))
        store.flush()
        promises.make(newest=number)
    if run == "second":
        store.close()
    os._exit(0)


if __name__ == "__main__":
    main()

"""The store of samples as its users see it: what goes in comes out, or is said to be missing."""

import errno
import os
import resource
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.samples import SampleStore, StoreTable
from agent.signals.block import EMPTY, ArraySample, Block, Gap, block_of

START_US = 1_763_800_000_000_000
SECOND = 1_000_000
ALWAYS = (0, 1 << 62)
CHANNELS = ("torque", "speed", "waveform")


class Clock:
    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


def open_store(
    folder: Path, clock: Clock, channels: tuple[str, ...] = CHANNELS, **settings: object
) -> SampleStore:
    table = StoreTable(**{"max_bytes": 1 << 20, **settings})  # type: ignore[arg-type]
    return SampleStore(folder / "samples", channels, table, clock)


def seconds(first: int, count: int, channel: int = 0, status: int = 0) -> Block:
    at = np.arange(first, first + count)
    return block_of(np.full(count, channel), at / 7, np.full(count, status), START_US + at * SECOND)


def noise(first: int, count: int, channel: int = 0) -> Block:
    block = seconds(first, count, channel)
    block.value[:] = np.random.default_rng(first).normal(size=count)
    return block


def read(store: SampleStore, channel: int = 0) -> list[int]:
    """Seconds of a channel's samples, in order."""
    return [
        (int(at) - START_US) // SECOND
        for block in store.read(*ALWAYS)
        for at in block.source_timestamp_us[block.channel == channel]
    ]


def gaps(store: SampleStore) -> list[Gap]:
    return [gap for block in store.read(*ALWAYS) for gap in block.gaps]


def in_seconds(gap: Gap) -> tuple[float, float]:
    return (gap.from_us - START_US) / SECOND, (gap.until_us - START_US) / SECOND


def fill(store: SampleStore, clock: Clock, until: int) -> None:
    """Noise, one sample a second, written every four thousand, until so many seconds."""
    for first in range(0, until, 4000):
        clock.now_us = START_US + first * SECOND
        store.append(noise(first, 4000))
        store.flush()


def test_what_was_stored_is_read_in_order_of_time_with_status_and_arrays(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock)
    wave = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    sample = ArraySample(2, wave, 0x40000000, START_US + 3)
    gap = Gap(1, START_US - 5, START_US, "connection lost", 7)
    bad = seconds(2, 1, 1, status=0x80310000)
    store.append(replace(seconds(0, 3), arrays=(sample,), gaps=(gap,)))
    store.append(bad)
    store.append(seconds(0, 2, 1))
    assert list(store.read(*ALWAYS)) == []
    assert store.counters().waiting == 7
    store.flush()
    (block,) = store.read(*ALWAYS)
    assert block.source_timestamp_us.tolist() == [
        START_US + at * SECOND for at in (0, 0, 1, 1, 2, 2)
    ]
    assert block.channel.tolist() == [0, 1, 0, 1, 0, 1]
    assert block.value[:5].tolist() == [0, 0, 1 / 7, 1 / 7, 2 / 7]
    assert np.isnan(block.value[5])
    assert block.status.tolist() == [0] * 5 + [0x80310000]
    assert block.gaps == (gap,)
    assert block.is_replayed
    (found,) = block.arrays
    assert np.array_equal(found.value, wave)
    assert (found.channel, found.status, found.source_timestamp_us) == (2, 0x40000000, START_US + 3)
    assert store.counters().stored == 7
    assert store.problem == ""


def test_reading_gives_the_interval_and_the_channels_that_were_asked_for(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock)
    for channel in (0, 1):
        store.append(seconds(0, 100, channel))
    store.flush()
    found = list(store.read(START_US + 10 * SECOND, START_US + 20 * SECOND, channels={1}))
    assert [block.channel.tolist() for block in found] == [[1] * 10]
    assert found[0].source_timestamp_us[0] == START_US + 10 * SECOND
    assert list(store.read(START_US + 200 * SECOND, START_US + 300 * SECOND)) == []


def test_samples_wait_until_it_is_time_and_a_clock_that_jumps_back_does_not_stop_them(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock, flush_s=10.0)
    store.append(seconds(0, 5))
    clock.now_us += 9 * SECOND
    store.tick()
    assert store.counters().waiting == 5
    clock.now_us += SECOND
    store.tick()
    assert store.counters().waiting == 0
    store.append(seconds(5, 5))
    clock.now_us -= 3600 * SECOND
    store.tick()
    assert store.counters().waiting == 0
    assert read(store) == list(range(10))


def test_much_is_written_before_its_time(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock, flush_s=600.0)
    store.append(seconds(0, 10_000))
    store.tick()
    assert store.counters().waiting == 0


def test_a_stop_leaves_a_gap_to_the_first_new_sample_of_each_channel(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock)
    store.append(seconds(0, 10))
    store.append(seconds(0, 5, 1))
    store.close()
    store = open_store(tmp_path, clock)
    store.append(seconds(20, 5))
    store.flush()
    store.append(seconds(25, 5))
    store.append(seconds(-100, 1, 1))  # replayed from long ago: no end of the gap
    store.flush()
    store.append(seconds(30, 5, 1))
    store.flush()
    found = [(gap.channel, *in_seconds(gap), gap.reason, gap.lost) for gap in gaps(store)]
    assert found == [(0, 9, 20, "agent stopped", None), (1, 4, 30, "agent stopped", None)]


def test_the_gap_of_a_channel_that_comes_in_disorder_is_as_much_wider(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock)
    for second in (0, 1, 2, 5, 3, 6, 7):
        store.append(seconds(second, 1))
    store.flush()
    store = open_store(tmp_path, clock)
    store.append(seconds(20, 5))
    store.flush()
    (gap,) = gaps(store)
    assert in_seconds(gap) == (5 - 1e-6, 22 + 1e-6)


def test_channels_are_known_by_name_when_the_configuration_changes(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock, ("torque", "speed"))
    store.append(seconds(0, 3, 0))
    store.append(seconds(10, 3, 1))
    store.close()
    store = open_store(tmp_path, clock, ("new", "speed"))
    assert read(store, 1) == [10, 11, 12]
    assert read(store, 0) == []
    store.append(seconds(20, 3, 0))
    store.flush()
    assert gaps(store) == []
    store = open_store(tmp_path, clock, ("torque",))
    store.append(seconds(30, 1))
    store.flush()
    assert read(store) == [0, 1, 2, 30]
    (gap,) = gaps(store)
    assert in_seconds(gap) == (2, 30)


def test_the_ring_keeps_its_size_and_says_how_much_expired(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock)
    fill(store, clock, 300_000)
    counters = store.counters()
    found = read(store)
    size = sum(path.stat().st_size for path in (tmp_path / "samples").iterdir())
    assert counters.bytes_used == size <= 1 << 20
    assert size > 7 << 17
    assert counters.stored == 300_000
    assert counters.expired == 300_000 - len(found) > 0
    assert found == list(range(found[0], 300_000))
    assert counters.oldest_us == START_US + found[0] * SECOND
    assert counters.lost == {}
    assert open_store(tmp_path, clock).counters() == counters


def test_old_files_go_one_by_one_so_that_a_clock_that_jumps_does_not_empty_the_ring(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock, max_days=1)
    fill(store, clock, 80_000)
    files = len(list((tmp_path / "samples").iterdir()))
    assert files > 5
    clock.now_us += 365 * 86_400 * SECOND
    store.append(noise(80_000, 10))
    store.flush()
    assert len(list((tmp_path / "samples").iterdir())) == files  # one went, one came
    for second in range(80_010, 80_000 + 10 * files, 10):
        store.append(noise(second, 10))
        store.flush()
    first = read(store)[0]
    assert 80_000 - 2 * 4000 <= first < 80_000  # the last one was finished after the jump
    assert store.counters().expired == first


def test_the_bytes_of_each_day_are_kept_over_restarts(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock)
    clock.now_us = START_US
    for day in range(20):
        clock.now_us = START_US + day * 86_400 * SECOND
        store.append(noise(day * 86_400, 100))
        store.flush()
        if day % 3 == 0:
            store = open_store(tmp_path, clock)
    written = store.counters().written
    assert list(written) == [f"2025-11-{day}" for day in range(28, 31)] + [
        f"2025-12-{day:02}" for day in range(1, 12)
    ]
    assert store.counters().written_today == written["2025-12-11"] > 600
    assert all(600 < size < 2000 for size in written.values())


def test_an_array_that_would_take_the_ring_is_lost_with_its_reason(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock)
    large = ArraySample(2, np.zeros(200_000, np.float32), 0, START_US)
    small = ArraySample(2, np.ones(20, np.float32), 0, START_US + 1)
    store.append(replace(EMPTY, arrays=(large, small)))
    store.flush()
    (block,) = store.read(*ALWAYS)
    assert [sample.source_timestamp_us for sample in block.arrays] == [START_US + 1]
    assert [(gap.channel, gap.reason, gap.lost) for gap in block.gaps] == [
        (2, "array too large", 1)
    ]
    assert store.counters().lost == {"array too large": 1}


def test_a_writer_that_does_not_keep_up_loses_the_oldest_and_marks_them(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock, buffer_bytes=1 << 20)
    for first in range(0, 100_000, 100):
        store.append(noise(first, 100))
    store.flush()
    found = read(store)
    lost = store.counters().lost
    assert lost == {"disk too slow": 100_000 - len(found)}
    assert found == list(range(found[0], 100_000))
    (gap,) = gaps(store)
    assert in_seconds(gap) == (-1e-6, found[0] - 1 + 1e-6)
    assert gap.lost == lost["disk too slow"]


def test_a_block_of_channels_that_are_not_configured_is_refused(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock)
    with pytest.raises(ValueError, match="beyond the 3"):
        store.append(seconds(0, 1, 3))
    with pytest.raises(ValueError, match="beyond the 3"):
        store.append(replace(EMPTY, gaps=(Gap(5, 0, 1, "x"),)))


def test_a_store_that_is_switched_off_keeps_nothing_and_makes_no_folder(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock, enabled=False)
    store.append(seconds(0, 10))
    store.tick()
    store.close()
    assert list(store.read(*ALWAYS)) == []
    assert store.counters().waiting == 0
    assert not (tmp_path / "samples").exists()


def test_a_folder_that_can_not_be_made_is_a_problem_and_no_error_and_ends_when_it_can(
    tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "samples").write_text("a file in its place")
    store = open_store(tmp_path, clock)
    store.append(seconds(0, 10))
    store.flush()
    assert "File exists" in store.problem
    assert store.counters().waiting == 10
    (tmp_path / "samples").unlink()
    store.flush()
    assert store.problem == ""
    assert read(store) == list(range(10))


def test_what_close_can_not_write_is_counted_lost(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "samples").write_text("a file in its place")
    store = open_store(tmp_path, clock)
    store.append(seconds(0, 10))
    store.close()
    assert store.counters().lost == {"disk failing": 10}
    assert store.counters().waiting == 0


def test_a_torn_tail_is_cut_off_and_nothing_else(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock)
    store.append(seconds(0, 10))
    store.flush()
    (file,) = (tmp_path / "samples").iterdir()
    sound = file.read_bytes()
    for tail in (b"JMr1", sound[-40:], os.urandom(500), bytes(5000)):
        file.write_bytes(sound + tail)
        store = open_store(tmp_path, clock)
        assert read(store) == list(range(10))
        store.append(EMPTY)
        store.append(replace(EMPTY, gaps=(Gap(1, 0, 1, "x"),)))
        store.flush()
        assert file.read_bytes().startswith(sound + b"JMr1")
        assert store.counters().damaged == 0
        assert len(gaps(store)) == 1
        file.write_bytes(sound)


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_write_that_stopped_halfway_is_cut_off_and_done_again(
    tmp_path: Path, clock: Clock, goes_on: bool
) -> None:
    store = open_store(tmp_path, clock)
    store.append(noise(0, 100))
    store.flush()
    (file,) = (tmp_path / "samples").iterdir()
    sound = file.read_bytes()
    store.append(noise(100, 100))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(sound) + 300, hard))
    try:
        store.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(file.read_bytes()) == len(sound) + 300
    assert "File too large" in store.problem
    assert read(store) == list(range(100))
    if goes_on:
        store.append(noise(200, 10))
    else:
        store = open_store(tmp_path, clock)
        store.append(noise(200, 1))
    store.flush()
    assert store.problem == ""
    again = read(open_store(tmp_path, clock))
    assert again == (list(range(210)) if goes_on else [*range(100), 200])
    assert not list((tmp_path / "samples").glob("*.damaged"))
    assert file.read_bytes().startswith(sound)


@pytest.mark.parametrize("goes_on", [True, False])
def test_after_a_sync_that_failed_every_sample_is_there_once(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    store = open_store(tmp_path, clock)
    store.append(noise(0, 100))
    store.flush()

    def fails(_file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store.append(noise(100, 100))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fails)
        store.flush()
        store.flush()
    assert "disk failing (Input/output error)" in store.problem
    assert read(store) == list(range(100))
    if goes_on:
        store.flush()
        assert store.problem == ""
        assert len(list((tmp_path / "samples").iterdir())) == 2  # no page of the old one is trusted
    store = open_store(tmp_path, clock)
    expected = 200 if goes_on else 100  # the second flush began with cutting off the first one's
    assert read(store) == list(range(expected))
    assert store.counters().stored == expected


def test_of_a_damaged_file_the_rest_is_read_and_the_hole_is_marked(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock)
    for first in range(0, 40, 10):
        store.append(seconds(first, 10))
        store.append(seconds(first, 5, 1))
        store.flush()
    store.close()
    (file,) = (tmp_path / "samples").iterdir()
    data = bytearray(file.read_bytes())
    second = data.index(b"JMr1", data.index(b"JMr1") + 1)
    data[second + 60] ^= 1
    file.write_bytes(data)
    store = open_store(tmp_path, clock)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["0000000001.damaged"]
    assert read(store) == [*range(10), *range(20, 40)]
    assert [(gap.channel, *in_seconds(gap), gap.reason) for gap in gaps(store)] == [
        (0, 9, 20, "store damaged"),
        (1, 4, 20, "store damaged"),
    ]
    assert store.counters().damaged == 1
    store.append(seconds(50, 1))
    store.flush()
    assert file.with_suffix(".damaged").read_bytes() == data
    assert read(open_store(tmp_path, clock))[-1] == 50


def test_a_file_whose_header_is_damaged_is_set_aside_and_its_time_is_marked(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock)
    fill(store, clock, 60_000)
    store.close()
    file = sorted((tmp_path / "samples").iterdir())[1]
    before = read(store)
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    store = open_store(tmp_path, clock)
    found = read(store)
    missing = sorted(set(before) - set(found))
    assert file.with_suffix(".damaged").exists()
    assert store.counters().lost == {"store damaged": len(missing)}
    assert len(missing) > 1000
    (gap,) = gaps(store)
    assert gap.reason == "store damaged"
    assert in_seconds(gap) == (missing[0] - 1, missing[-1] + 1e-6)
    assert store.counters().expired == 0


def test_a_file_that_was_never_finished_is_removed(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock)
    store.append(seconds(0, 10))
    store.close()
    (tmp_path / "samples" / "0000000002.new").write_bytes(b"JMSAMP1\n")
    store = open_store(tmp_path, clock)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["0000000001.samples"]
    assert read(store) == list(range(10))


def test_files_that_are_not_its_own_are_left_alone(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    store = open_store(tmp_path, clock)
    fill(store, clock, 300_000)
    assert (folder / "notes.txt").read_text() == "mine"


def test_samples_come_in_while_others_are_written_and_read(tmp_path: Path, clock: Clock) -> None:
    store = open_store(tmp_path, clock)
    is_over = threading.Event()
    wrong: list[list[int]] = []

    def write() -> None:
        while not is_over.is_set():
            store.flush()

    def look() -> None:
        while not is_over.is_set():
            found = read(store)
            if found != sorted(set(found)):
                wrong.append(found)

    threads = [threading.Thread(target=write), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    for second in range(0, 20_000, 10):
        store.append(seconds(second, 10))
    is_over.set()
    for thread in threads:
        thread.join()
    store.close()
    assert wrong == []
    assert read(store) == list(range(20_000))
    assert store.counters().stored == 20_000


def test_without_sync_a_full_file_is_on_the_disk_and_all_can_be_read(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(tmp_path, clock, sync="segment")
    fill(store, clock, 60_000)
    store.close()
    assert read(open_store(tmp_path, clock, sync="segment")) == list(range(60_000))


def test_any_source_timestamp_is_taken_and_marked(tmp_path: Path, clock: Clock) -> None:
    extremes = [-(2**63), 2**63 - 1, 0, -(2**63) + 1]
    block = block_of([0] * 4, range(4), [0] * 4, extremes)
    for turn in range(4):
        store = open_store(tmp_path, clock)
        store.append(block)
        if turn != 1:
            store.flush()
    store = open_store(tmp_path, clock)
    assert store.counters().stored == 12
    times = [at for found in store.read(-(2**63), 2**63 - 1) for at in found.source_timestamp_us]
    assert len(times) == 9  # an interval ends before its end
    store = open_store(tmp_path, clock, buffer_bytes=1 << 20)
    for _ in range(2000):
        store.append(block)
    store.flush()
    assert store.counters().lost["disk too slow"] > 0
    assert store.counters().lost["disk too slow"] + store.counters().stored == 12 + 8000

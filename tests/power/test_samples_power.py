"""The sample store through every power cut: what was flushed is there, whole, and it goes on."""

from pathlib import Path

from tests.power.replay import Promise, Recording, assert_the_log_is_complete, record, replay
from tests.power.samples_work import (
    BATCH_US,
    BATCHES,
    FIRST_BATCH,
    START_US,
    Clock,
    batch_at,
    batches_in,
    open_store,
)

MADE = [first + at for first in FIRST_BATCH.values() for at in range(BATCHES)]
A_DAY = 24 * 3_600_000_000 // BATCH_US
A_FILE = 4
NEXT = 200


def recorded(shim: Path, directory: Path, broken: str = "") -> Recording:
    runs = [[run, broken] for run in FIRST_BATCH]
    return record(shim, "tests.power.samples_work", runs, directory)


def check(directory: Path, promises: list[Promise]) -> None:
    """All batches up to the promised one that are not too old, perhaps the next; then one more."""
    promised = promises[-1]["newest"] if promises else -1
    clock = Clock()
    clock.now_us = START_US + (promised + 1) * BATCH_US
    store = open_store(directory, clock)
    found = batches_in(store)
    assert store.problem == ""
    assert store.counters().damaged == 0
    assert store.counters().lost == {}
    assert store.counters().waiting == 0
    if found:
        assert found == MADE[MADE.index(found[0]) : MADE.index(found[-1]) + 1], "one is missing"
        assert found[-1] in {promised, *following(promised)}, "what was promised is gone"
        assert found[0] <= max(0, promised - A_DAY), "deleted too early"
    else:
        assert promised == -1
    store.append(batch_at(NEXT))
    store.flush()
    again = open_store(directory, clock)
    assert batches_in(again)[-1] == NEXT
    if found:
        next_us = START_US + NEXT * BATCH_US
        gaps = [gap for block in again.read(0, 1 << 62) for gap in block.gaps]
        assert sorted(gap.channel for gap in gaps if gap.until_us == next_us) == [0, 1, 2]


def following(promised: int) -> list[int]:
    """The batch after a promised one, which may have reached the disk already."""
    return [batch for batch in MADE if batch > promised][:1]


def test_no_power_cut_loses_a_flushed_batch_or_leaves_half_of_one(
    shim: Path, tmp_path: Path, scratch: Path
) -> None:
    recording = recorded(shim, scratch / "work")
    assert_the_log_is_complete(recording)
    outcome = replay(recording, check, scratch, 80)
    print(f"samples: {outcome}")
    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.states > outcome.cuts


def test_a_store_that_never_syncs_is_found_out(shim: Path, scratch: Path) -> None:
    recording = recorded(shim, scratch / "work", "nofsync")
    outcome = replay(recording, check, scratch, 40, enough=12)
    assert outcome.failed > 10


def test_the_workload_fills_files_and_deletes_the_old_ones(shim: Path, scratch: Path) -> None:
    recording = recorded(shim, scratch / "work")
    clock = Clock()
    clock.now_us = START_US + MADE[-1] * BATCH_US
    store = open_store(recording.directory, clock)
    found = batches_in(store)
    assert found[-1] == MADE[-1]
    assert 0 < MADE[-1] - found[0] <= A_DAY + 2 * A_FILE
    samples = len(MADE) * batch_at(0).samples
    assert store.counters().stored == samples
    assert store.counters().expired == samples - len(found) * batch_at(0).samples
    stops = {
        gap.from_us: gap.until_us
        for block in store.read(0, 1 << 62)
        for gap in block.gaps
        if gap.reason == "agent stopped" and gap.channel == 2
    }
    third = START_US + FIRST_BATCH["third"] * BATCH_US
    last_of_second = START_US + (FIRST_BATCH["second"] + BATCHES - 1) * BATCH_US
    assert stops[last_of_second] == third

"""The bytes of the store: nothing is lost in them, any bytes can be read, old files stay readable.

`tests/golden/samples/` holds a file of format 1 that must be readable for ever, with what is in it
(`python -m tests.agent.test_sample_store_format` made it, once).
"""

import contextlib
import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from agent.samples import SampleStore, StoreTable
from agent.samples.batch import Batch, decode_batch, encode_batch, joined
from agent.samples.columns import (
    FLOAT32,
    FLOAT64,
    Runs,
    forms_of,
    pack_integers,
    unpack_bytes,
    unpack_integers,
)
from agent.samples.segment import (
    NOTHING,
    Header,
    Totals,
    decode_header,
    encode_header,
    encode_record,
    scan,
)
from agent.signals.block import ArraySample, Block, Gap, block_of

GOLDEN = Path(__file__).parents[1] / "golden" / "samples"
HEADER = Header(
    id=bytes(range(8)),
    number=7,
    created_us=1,
    names=("a", "b"),
    last_us=(5, -(1 << 63)),
    late_us=(0, 0),
    totals=Totals(12, {"disk full": 3}, {"2026-11-22": 100}),
    previous=(1, 2, 3, 4, 5),
)
STATUSES = (0, 0x40000000, 0x80310000, 0xC0000000)
SEEDS = st.integers(0, 2**32 - 1)


def values_of(rng: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of every kind that a channel may have, bit patterns included."""
    bits = rng.integers(-(2**63), 2**63 - 1, count)
    whole = rng.integers(-(10**6), 10**6, count)
    kinds = [
        bits.view(np.float64),
        rng.normal(size=count).astype(np.float32).astype(np.float64),
        rng.integers(-(2**55), 2**55, count).astype(np.float64),
        whole / 100,
        whole * 0.1,
        rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1.0], count),
    ]
    if rng.random() < 0.5:
        return kinds[int(rng.integers(len(kinds)))]
    return np.array([kinds[int(rng.integers(len(kinds)))][at] for at in range(count)])


def a_block(seed: int) -> Block:
    """Anything that a source may say."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 60))
    times = [
        rng.integers(-(2**63), 2**63 - 1, count),
        np.cumsum(rng.integers(0, 3, count)) * 1000,
        rng.integers(0, 50, count),
    ]
    arrays = []
    for _ in range(int(rng.integers(0, 3))):
        wave = rng.normal(size=tuple(rng.integers(0, 5, int(rng.integers(0, 4)))))
        status = int(rng.choice(STATUSES[:3]))
        value = np.asarray(wave, np.float32)
        arrays.append(ArraySample(1, value * np.nan if status >> 31 else value, status, 77))
    gaps = [Gap(0, 3, 8, "cut", None), Gap(3, -(2**63), 2**63 - 1, "\u00fc" * 50, 4)]
    return block_of(
        rng.integers(0, 4, count),
        values_of(rng, count),
        rng.choice(STATUSES, count) if rng.random() < 0.5 else np.zeros(count),
        times[int(rng.integers(3))],
        arrays=tuple(arrays),
        gaps=tuple(gaps[: int(rng.integers(0, 3))]),
    )


def assert_same(found: Block, expected: Block) -> None:
    assert np.array_equal(found.channel, expected.channel)
    assert np.array_equal(found.status, expected.status)
    assert np.array_equal(found.source_timestamp_us, expected.source_timestamp_us)
    numbers = ~np.isnan(expected.value)
    assert np.array_equal(np.isnan(found.value), ~numbers)
    assert np.array_equal(
        found.value[numbers].view(np.int64), expected.value[numbers].view(np.int64)
    )
    assert len(found.arrays) == len(expected.arrays)
    for got, wanted in zip(found.arrays, expected.arrays, strict=True):
        assert (got.channel, got.status) == (wanted.channel, wanted.status)
        assert got.source_timestamp_us == wanted.source_timestamp_us
        assert got.value.dtype == np.float32
        assert np.array_equal(got.value, wanted.value, equal_nan=True)
    assert found.gaps == expected.gaps


@settings(max_examples=300, deadline=None)
@given(SEEDS)
def test_every_bit_of_value_status_and_time_comes_back(seed: int) -> None:
    expected = joined([a_block(seed), a_block(seed + 1)])
    found = decode_batch(encode_batch(Batch(expected, {"disk full": 3})))
    assert_same(found.block, expected)
    assert found.lost == {"disk full": 3}


def test_joining_sorts_by_channel_and_keeps_the_order_of_arrival_within_it() -> None:
    one = block_of([2, 0, 2], [1.0, 2.0, 3.0], [0, 0, 0], [30, 20, 10])
    other = block_of([0, 2], [4.0, 5.0], [0, 0], [5, 4])
    block = joined([one, other])
    assert block.channel.tolist() == [0, 0, 2, 2, 2]
    assert block.source_timestamp_us.tolist() == [20, 5, 30, 10, 4]
    assert block.value.tolist() == [2, 4, 1, 3, 5]


@given(nps.arrays(np.int64, st.integers(0, 50)))
def test_integers_come_back(numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    assert np.array_equal(unpack_integers(pack_integers(numbers), len(numbers)), numbers)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ([1.0, 2.0, -3.0], 2),
        ([0.3, 0.1, 2.0], 3),
        ([3 * 0.1, 7 * 0.1], 7),
        ([21.37, 0.01], 4),
        ([float(np.float32(0.1)), 5.0], FLOAT32),
        ([0.1234567, 1.0], FLOAT64),
        ([-0.0, 1.0], FLOAT32),
        ([float("inf"), 1.0], FLOAT32),
        ([1e300, 1.0], FLOAT64),
    ],
)
def test_values_take_the_smallest_form_that_loses_nothing(values: list[float], form: int) -> None:
    runs = Runs.of_counts(np.array([len(values)]))
    assert forms_of(np.array(values), runs).tolist() == [form]


def test_a_channel_that_differs_takes_its_own_form() -> None:
    values = np.array([1.0, 2.0, 3.0, 0.5, np.pi, 0.5])
    assert forms_of(values, Runs.of_counts(np.array([3, 3]))).tolist() == [2, FLOAT64]


@pytest.mark.parametrize(
    ("kind", "bytes_per_sample"), [("decimals", 1.5), ("states", 0.8), ("float32", 3.7)]
)
def test_what_machines_send_takes_few_bytes(kind: str, bytes_per_sample: float) -> None:
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.normal(0, 0.05, (100, 20)), axis=0)
    value = {
        "decimals": np.round(walk, 2),
        "states": np.repeat(rng.integers(0, 3, (5, 20)), 20, axis=0).astype(float),
        "float32": walk.astype(np.float32).astype(float),
    }[kind]
    at_us = np.repeat(np.arange(100) * 100_000 + rng.integers(-3, 4, 100) * 1000, 20)
    block = block_of(np.tile(np.arange(20), 100), value.reshape(-1), np.zeros(2000), at_us)
    assert len(encode_batch(Batch(joined([block])))) / 2000 < bytes_per_sample


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_changed_bytes_of_a_batch_give_a_batch_or_an_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    good = encode_batch(Batch(joined([a_block(seed)])))
    bad = bytearray(good)
    for _ in range(int(rng.integers(1, 4))):
        bad[int(rng.integers(len(bad)))] = int(rng.integers(256))
    for changed in (bytes(bad), good[: int(rng.integers(len(good) + 1))]):
        with contextlib.suppress(ValueError):
            assert isinstance(decode_batch(changed), Batch)


@given(st.binary(max_size=300))
def test_any_bytes_are_no_batch_and_no_header(data: bytes) -> None:
    for decode in (decode_batch, decode_header):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
            decode(data)


def test_a_bomb_is_not_inflated() -> None:
    with pytest.raises(ValueError, match="announced"):
        unpack_bytes(zlib.compress(bytes(10_000_000)), 10)


def test_a_header_comes_back_and_a_changed_one_is_refused() -> None:
    data = encode_header(HEADER)
    assert decode_header(data + b"records") == (HEADER, len(data))
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 4
        with pytest.raises(ValueError, match=r"header|segment"):
            decode_header(bytes(changed))
        with pytest.raises(ValueError, match=r"header|shorter"):
            decode_header(data[:at])


def file_of(bodies: list[bytes], header: Header = HEADER) -> bytes:
    data = encode_header(header)
    for body in bodies:
        data += encode_record(header, len(data), 9, NOTHING, body)
    return data


def bodies_in(data: bytes, header: Header = HEADER) -> list[bytes]:
    found = scan(data, header, len(encode_header(header)))
    return [bytes(record.body) for record in found.records]


def test_every_record_is_found_and_a_torn_one_is_not() -> None:
    bodies = [b"first", b"", b"third" * 100]
    data = file_of(bodies)
    found = scan(data, HEADER, len(encode_header(HEADER)))
    assert [bytes(record.body) for record in found.records] == bodies
    assert (found.end, found.holes) == (len(data), ())
    last = len(file_of(bodies[:2]))
    for end in range(last, len(data)):
        found = scan(data[:end], HEADER, len(encode_header(HEADER)))
        assert (len(found.records), found.end, found.holes) == (2, last, ())


def test_a_changed_byte_costs_its_record_and_no_other() -> None:
    bodies = [b"first", b"second", b"third"]
    data = file_of(bodies)
    start, end = len(file_of(bodies[:1])), len(file_of(bodies[:2]))
    for at in range(start, end):
        changed = bytearray(data)
        changed[at] ^= 1
        found = scan(bytes(changed), HEADER, len(encode_header(HEADER)))
        assert [bytes(record.body) for record in found.records] == [b"first", b"third"]
        (hole,) = found.holes
        assert (hole.at, hole.end, hole.after) == (start, end, 1)


def test_what_another_file_left_on_the_disk_is_no_record() -> None:
    other = msgspec.structs.replace(HEADER, id=b"another!")
    stale = file_of([b"old" * 50, b"old"], other)
    assert bodies_in(stale, other) == [b"old" * 50, b"old"]
    data = file_of([b"new"]) + stale[len(file_of([b"new"])) :]
    assert bodies_in(data) == [b"new"]
    moved = file_of([b"one", b"two"])
    first = len(file_of([]))
    assert bodies_in(moved[:first] + b"x" + moved[first:]) == []


def golden_block() -> Block:
    """What the golden file holds, and FORMAT.md explains."""
    at_us = 1_763_800_000_000_000 + np.arange(6) * 100_000
    return block_of(
        [0, 1] * 3 + [2] * 6,
        [21.37, 1.0, 21.38, 2.0, 0.0, 3.0, *(float(np.float32(at) / 3) for at in range(6))],
        [0, 0, 0, 0x40000000, 0x80310000, 0, *[0] * 6],
        [*np.repeat(at_us[:3], 2), *at_us],
        arrays=(
            ArraySample(3, np.arange(6, dtype=np.float32).reshape(2, 3), 0, int(at_us[0])),
            ArraySample(3, np.full((2, 3), np.nan, np.float32), 0x80310000, int(at_us[1])),
        ),
        gaps=(Gap(1, int(at_us[0]) - 5_000_000, int(at_us[0]), "connection lost", 4),),
    )


GOLDEN_NAMES = ("temperature", "count", "flow", "waveform")


def golden_store(folder: Path) -> SampleStore:
    return SampleStore(folder, GOLDEN_NAMES, StoreTable(), lambda: 1_763_800_001_000_000)


def test_the_golden_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "samples", ignore=shutil.ignore_patterns("*.json"))
    store = golden_store(tmp_path / "samples")
    found = [block for block in store.read(0, 1 << 62) if block.samples]
    assert len(found) == 2
    for block in found:
        order = np.argsort(block.channel, kind="stable")
        again = Block(
            block.channel[order],
            block.value[order],
            block.status[order],
            block.source_timestamp_us[order],
            block.arrays,
            block.gaps,
        )
        if block is found[1]:
            assert [gap.reason for gap in block.gaps] == ["agent stopped"] * 4
            again = replace(again, gaps=())
            moved = joined([golden_block()])
            assert_same(
                replace(
                    again,
                    source_timestamp_us=again.source_timestamp_us - 1_000_000,
                    arrays=(),
                ),
                replace(moved, arrays=(), gaps=()),
            )
        else:
            assert_same(again, joined([golden_block()]))
    expected = json.loads((GOLDEN / "counters.json").read_text())
    counters = store.counters()
    assert {name: getattr(counters, name) for name in expected} == expected


def test_the_same_samples_are_written_as_the_same_bytes_still() -> None:
    file = GOLDEN / "0000000001.samples"
    header, start = decode_header(file.read_bytes())
    first = scan(file.read_bytes(), header, start).records[0]
    assert decode_batch(first.body).block.gaps == golden_block().gaps
    body = encode_batch(Batch(joined([golden_block()])))
    # zlib versions may pack differently: what is packed must be the same.
    assert_same(decode_batch(body).block, decode_batch(first.body).block)
    assert first.extent.samples == 14
    assert header.names == GOLDEN_NAMES


def main() -> None:
    """Make the golden file: one batch, a stop, another batch a second later."""
    GOLDEN.mkdir(parents=True)
    block = golden_block()
    later = replace(
        block,
        source_timestamp_us=block.source_timestamp_us + 1_000_000,
        arrays=tuple(
            replace(each, source_timestamp_us=each.source_timestamp_us + 1_000_000)
            for each in block.arrays
        ),
        gaps=(),
    )
    for each in (block, later):
        store = golden_store(GOLDEN)
        store.append(each)
        store.close()
    counters = store.counters()
    facts = {name: getattr(counters, name) for name in ("stored", "lost", "bytes_used", "written")}
    (GOLDEN / "counters.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

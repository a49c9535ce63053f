"""Numbers of a batch as columns of bytes, and back: which column is packed how.

Pure.  Lossless for value, status and source timestamp; the NaN of a Bad sample follows from its
status.  FORMAT.md explains each column.
"""

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.samples.columns import (
    FIRST_SCALED,
    FLOAT32,
    FLOAT64,
    SCALES,
    Floats,
    Int64s,
    Runs,
    forms_of,
    from_integers,
    from_planes,
    pack_bytes,
    pack_integers,
    pack_reals,
    planes,
    to_integers,
    unpack_bytes,
    unpack_integers,
    unpack_reals,
)
from agent.signals.block import BAD, SEVERITY_SHIFT, Block

MOST_SAMPLES = 1 << 24
"""In one batch; more is no batch of ours."""
_RESOLUTIONS_US = (1000, 1)
_SCALED = range(FIRST_SCALED, FIRST_SCALED + len(SCALES))

Count = Annotated[int, msgspec.Meta(ge=1, le=MOST_SAMPLES)]
Packed = tuple[int, bytes]


class PackedNumbers(msgspec.Struct, array_like=True, frozen=True):
    """N samples in R runs, each of one channel.

    Attributes:
      count: N.
      runs: R.
      channels: differences, (R,).
      counts: samples of each run, differences, (R,).
      forms: uint8 (R,), how the values of each are packed (`columns.SCALES`).
      resolution_us: unit of `bends`.
      firsts: source timestamp of each run's first sample, differences, (R,).
      steps: time from its first to its second sample, or 0, (R,).
      bends: differences of the differences of source timestamps, (N,), 0 for a run's first two.
      statuses: uint32 (N,), planes; nothing when all are 0.
      scaled: integers of all scaled runs, differences within each.
      float32: values of all such runs, planes.
      float64: the same, planes or not.
    """

    count: Count
    runs: Count
    channels: Packed
    counts: Packed
    forms: bytes
    resolution_us: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    firsts: Packed
    steps: Packed
    bends: Packed
    statuses: bytes
    scaled: Packed
    float32: bytes
    float64: tuple[bool, bytes]


def pack_numbers(block: Block) -> PackedNumbers:
    """Pack the numbers of a block that is sorted by channel and has some."""
    runs = Runs.of_equal(block.channel)
    statuses = block.status
    values = _filled(block, runs) if statuses.any() else block.value
    forms = forms_of(values, runs)
    of_sample = runs.spread(forms)
    times, firsts, steps = block.source_timestamp_us, runs.starts, _second(runs)
    bends = runs.differences(times)
    step = np.where(runs.counts > 1, bends[steps], 0)
    bends[firsts] = step
    bends = runs.differences(bends)
    bends[firsts] = 0
    resolution = next(us for us in _RESOLUTIONS_US if us == 1 or not (bends % us).any())
    scaled = runs.chosen(forms >= FIRST_SCALED)
    return PackedNumbers(
        count=len(block),
        runs=len(runs.counts),
        channels=pack_integers(_steps(block.channel[firsts].astype(np.int64))),
        counts=pack_integers(_steps(runs.counts)),
        forms=pack_bytes(forms.tobytes()),
        resolution_us=resolution,
        firsts=pack_integers(_steps(times[firsts])),
        steps=pack_integers(step),
        bends=pack_integers(bends // resolution),
        statuses=pack_bytes(planes(statuses)) if statuses.any() else b"",
        scaled=pack_integers(scaled.differences(_integers(values, of_sample))),
        float32=pack_bytes(planes(values[of_sample == FLOAT32].astype(np.float32))),
        float64=pack_reals(values[of_sample == FLOAT64]),
    )


def unpack_numbers(numbers: PackedNumbers) -> Block:
    """Undo `pack_numbers`.

    Raises:
      ValueError: these are none.
    """
    runs, channel = _runs_of(numbers)
    forms = np.frombuffer(unpack_bytes(numbers.forms, numbers.runs), np.uint8)
    if (forms >= _SCALED.stop).any():
        raise ValueError("values of a form that this version does not know")
    status = np.zeros(numbers.count, np.uint32)
    if numbers.statuses:
        status = from_planes(unpack_bytes(numbers.statuses, 4 * numbers.count), "<u4")
        status = status.astype(np.uint32)
    value = _values(numbers, runs, forms)
    value[status >> SEVERITY_SHIFT >= BAD] = np.nan
    bends = unpack_integers(numbers.bends, numbers.count) * numbers.resolution_us
    bends[runs.starts] = unpack_integers(numbers.steps, numbers.runs)
    bends = runs.sums(bends)
    bends[runs.starts] = np.cumsum(unpack_integers(numbers.firsts, numbers.runs))
    return Block(runs.spread(channel), value, status, runs.sums(bends))


def _runs_of(numbers: PackedNumbers) -> tuple[Runs, NDArray[np.uint32]]:
    counts = np.cumsum(unpack_integers(numbers.counts, numbers.runs))
    if (counts < 1).any() or (counts > numbers.count).any() or counts.sum() != numbers.count:
        raise ValueError("its runs do not add up to its samples")
    channels = np.cumsum(unpack_integers(numbers.channels, numbers.runs))
    if (channels < 0).any() or (channels >= 1 << 32).any():
        raise ValueError("a channel that is none")
    return Runs.of_counts(counts), channels.astype(np.uint32)


def _values(numbers: PackedNumbers, runs: Runs, forms: NDArray[np.uint8]) -> Floats:
    value = np.empty(numbers.count)
    of_sample = runs.spread(forms)
    scaled = runs.chosen(forms >= FIRST_SCALED)
    count = int(scaled.counts.sum())
    integers = unpack_integers(numbers.scaled, count)
    if count:
        integers = scaled.sums(integers)
        form_of_integer = of_sample[of_sample >= FIRST_SCALED]
        for form in _SCALED:
            value[of_sample == form] = from_integers(integers[form_of_integer == form], form)
    narrow = of_sample == FLOAT32
    raw = unpack_bytes(numbers.float32, 4 * int(narrow.sum()))
    value[narrow] = from_planes(raw, "<f4")
    wide = of_sample == FLOAT64
    value[wide] = unpack_reals(numbers.float64, int(wide.sum()))
    return value


def _integers(values: Floats, of_sample: NDArray[np.uint8]) -> Int64s:
    """The integers of all scaled runs, in order."""
    result = np.zeros(len(values), np.int64)
    for form in _SCALED:
        chosen = of_sample == form
        if chosen.any():
            result[chosen] = to_integers(values[chosen], form).astype(np.int64)
    return result[of_sample >= FIRST_SCALED]


def _steps(numbers: Int64s) -> Int64s:
    """The first number, then differences; `cumsum` undoes it."""
    steps = numbers.copy()
    steps[1:] -= numbers[:-1]
    return steps


def _second(runs: Runs) -> Int64s:
    """Index of each run's second sample; of its first where it has one only."""
    return runs.starts + (runs.counts > 1)


def _filled(block: Block, runs: Runs) -> Floats:
    """Values whose Bad samples repeat the one before, so that they cost nothing."""
    bad = ~block.is_usable
    start = runs.spread(runs.starts)
    source = np.maximum.accumulate(np.where(bad, start, np.arange(len(block))))
    return np.where(bad[source], 0.0, block.value[source])

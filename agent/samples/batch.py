"""A batch of samples as bytes: numbers in columns, arrays, gaps, and what was lost meanwhile.

Numbers are sorted by channel; within a channel they keep their order of arrival.

Pure.  Decoder invariant: any bytes yield a batch or `ValueError`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec
import numpy as np

from agent.samples.columns import from_planes, pack_bytes, planes, unpack_bytes
from agent.samples.packing import PackedNumbers, pack_numbers, unpack_numbers
from agent.samples.segment import Extent
from agent.signals.block import BAD, EMPTY, SEVERITY_SHIFT, ArraySample, Block, Gap

MOST_VALUES = 1 << 26
"""Of one array."""

Channel = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
Status = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]


@dataclass(frozen=True, eq=False)
class Batch:
    """What one record holds.

    Attributes:
      block: its samples and gaps.
      lost: samples that did not come into the store since the record before, by reason.
    """

    block: Block
    lost: dict[str, int] = field(default_factory=dict)


class _Array(msgspec.Struct, array_like=True, frozen=True):
    channel: Channel
    status: Status
    source_timestamp_us: int
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(max_length=8)]
    data: bytes


class _Gap(msgspec.Struct, array_like=True, frozen=True):
    channel: Channel
    from_us: int
    until_us: int
    reason: str
    lost: int | None


class _Body(msgspec.Struct, array_like=True, frozen=True):
    numbers: PackedNumbers | None
    arrays: tuple[_Array, ...]
    gaps: tuple[_Gap, ...]
    lost: dict[str, int]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Body)


def encode_batch(batch: Batch) -> bytes:
    """The bytes of a batch whose numbers are sorted (`joined`)."""
    block = batch.block
    return _encoder.encode(
        _Body(
            pack_numbers(block) if len(block) else None,
            tuple(_packed_array(each) for each in block.arrays),
            tuple(
                _Gap(each.channel, each.from_us, each.until_us, each.reason, each.lost)
                for each in block.gaps
            ),
            batch.lost,
        )
    )


def decode_batch(data: bytes | memoryview) -> Batch:
    """Read the bytes of a batch.

    Raises:
      ValueError: they are none.
    """
    try:
        body = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a batch: {error}") from None
    numbers = unpack_numbers(body.numbers) if body.numbers is not None else EMPTY
    block = Block(
        numbers.channel,
        numbers.value,
        numbers.status,
        numbers.source_timestamp_us,
        tuple(_unpacked_array(each) for each in body.arrays),
        tuple(Gap(*msgspec.structs.astuple(each)) for each in body.gaps),
        is_replayed=True,
    )
    return Batch(block, body.lost)


def joined(blocks: Sequence[Block]) -> Block:
    """Blocks, in order of arrival, as one, sorted by channel; each channel keeps its order."""
    channel = np.concatenate([EMPTY.channel, *(block.channel for block in blocks)])
    narrow = channel.astype(np.uint16) if channel.max(initial=0) < 1 << 16 else channel
    order = np.argsort(narrow, kind="stable")  # of 16 bits: by radix
    return Block(
        channel[order],
        np.concatenate([EMPTY.value, *(block.value for block in blocks)])[order],
        np.concatenate([EMPTY.status, *(block.status for block in blocks)])[order],
        np.concatenate(
            [EMPTY.source_timestamp_us, *(block.source_timestamp_us for block in blocks)]
        )[order],
        tuple(each for block in blocks for each in block.arrays),
        tuple(each for block in blocks for each in block.gaps),
    )


def largest_channel(block: Block) -> int:
    """The largest index of a channel in it; -1 when there is none."""
    largest = int(block.channel.max()) if len(block) else -1
    arrays = max((each.channel for each in block.arrays), default=-1)
    return max(largest, arrays, max((each.channel for each in block.gaps), default=-1))


def extent_of_block(block: Block) -> Extent:
    """What the record of a block covers."""
    times = [sample.source_timestamp_us for sample in block.arrays]
    if len(block):
        times += [int(block.source_timestamp_us.min()), int(block.source_timestamp_us.max())]
    extent = Extent(block.samples)
    if times:
        extent = replace(extent, from_us=min(times), until_us=max(times))
    if block.gaps:
        extent = replace(
            extent,
            gaps_from_us=min(gap.from_us for gap in block.gaps),
            gaps_until_us=max(gap.until_us for gap in block.gaps),
        )
    return extent


def _packed_array(sample: ArraySample) -> _Array:
    is_bad = sample.status >> SEVERITY_SHIFT >= BAD
    value = np.asarray(sample.value, np.float32)
    data = b"" if is_bad else pack_bytes(planes(value.reshape(-1)))
    return _Array(sample.channel, sample.status, sample.source_timestamp_us, value.shape, data)


def _unpacked_array(array: _Array) -> ArraySample:
    count = math.prod(array.shape)
    if count > MOST_VALUES:
        raise ValueError(f"an array of {count} values")
    if array.status >> SEVERITY_SHIFT >= BAD:
        value = np.full(array.shape, np.nan, np.float32)
    else:
        flat = from_planes(unpack_bytes(array.data, 4 * count), "<f4")
        value = flat.astype(np.float32).reshape(array.shape)
    return ArraySample(array.channel, value, array.status, array.source_timestamp_us)

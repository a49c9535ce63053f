"""One file of the ring as bytes: a header, then records, each with its length and its CRC-32.

A check covers the segment's own random id and the record's place, so that what an earlier file
left on the same sectors is never taken for a record.  FORMAT.md has every byte.

Pure.  Refuses nothing silently: `scan` says where it could not read.  Decoder invariant: any bytes
yield a header or `ValueError`, and any bytes can be scanned.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Annotated

import msgspec

MAGIC = b"JMSAMP1\n"
_RECORD_MAGIC = b"JMr1"
_PREFIX = struct.Struct("<8sII")
_RECORD = struct.Struct("<4sIIIqqqqq")
_PLACE = struct.Struct("<8sQ")
_CHECKED_FROM = 8
"""Of a record: behind the magic and the check itself."""
LARGEST_HEADER = 32 << 20
LARGEST_RECORD = 64 << 20
MOST_NAMES = 100_000
NEVER = -(1 << 63)
"""In place of a source timestamp: the channel has none yet."""

Number = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Extent:
    """What a record, or a whole segment, covers; all times are microseconds since 1970 UTC.

    Attributes:
      samples: how many.
      from_us: oldest source timestamp of a sample; more than `until_us` when there is none.
      until_us: newest one.
      gaps_from_us: where the first gap begins; more than `gaps_until_us` when there is none.
      gaps_until_us: where the last one ends.
    """

    samples: int = 0
    from_us: int = (1 << 63) - 1
    until_us: int = NEVER
    gaps_from_us: int = (1 << 63) - 1
    gaps_until_us: int = NEVER

    def __or__(self, other: "Extent") -> "Extent":
        return Extent(
            self.samples + other.samples,
            min(self.from_us, other.from_us),
            max(self.until_us, other.until_us),
            min(self.gaps_from_us, other.gaps_from_us),
            max(self.gaps_until_us, other.gaps_until_us),
        )

    def touches(self, from_us: int, until_us: int) -> bool:
        """Whether something of it may lie in `from_us` <= time < `until_us`."""
        return (self.from_us < until_us and self.until_us >= from_us) or (
            self.gaps_from_us < until_us and self.gaps_until_us >= from_us
        )


NOTHING = Extent()
"""No sample, no gap."""


class Totals(msgspec.Struct, array_like=True, frozen=True):
    """Counted since the ring was made, up to the segment that says so.

    Attributes:
      stored: samples written to the ring.
      lost: samples that did not come into it, or were damaged in it, by reason.
      written: bytes by day, `2026-11-22`, of the last days.
    """

    stored: Number = 0
    lost: dict[str, Number] = {}
    written: dict[str, Number] = {}


class Header(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """How a segment begins.

    Attributes:
      id: random, eight bytes; part of every record's check.
      number: one more than that of the segment before.
      created_us: wall clock.
      names: of the channels; a record's channel is an index into them.  Those that are not
        configured any more stand last.
      last_us: of each, newest source timestamp in the ring before this segment; NEVER: none.
      late_us: of each, by how much a sample came after a newer one, at most.
      totals: before this segment.
      previous: extent of the segment before, as numbers; None when that is not known.
    """

    id: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    number: Number
    created_us: int
    names: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_NAMES)]
    last_us: tuple[int, ...]
    late_us: tuple[int, ...]
    totals: Totals
    previous: tuple[int, int, int, int, int] | None


@dataclass(frozen=True)
class Record:
    """One record in a segment's bytes.

    Attributes:
      at: where it begins.
      end: where the next one begins.
      written_us: wall clock.
      extent: what it covers.
      body: a batch, encoded.
    """

    at: int
    end: int
    written_us: int
    extent: Extent
    body: memoryview


@dataclass(frozen=True)
class Hole:
    """Bytes that should be records and are none; `before` and `after` are indices of records."""

    at: int
    end: int
    after: int


@dataclass(frozen=True)
class Scan:
    """What a segment holds.

    Attributes:
      records: the sound ones, in order.
      holes: what is damaged: sound records follow each of them.
      end: end of the last sound record; what follows was never finished, or can be cut off.
    """

    records: tuple[Record, ...]
    holes: tuple[Hole, ...]
    end: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Header)


def encode_header(header: Header) -> bytes:
    """The bytes with which a segment begins."""
    body = _encoder.encode(header)
    return _PREFIX.pack(MAGIC, zlib.crc32(body), len(body)) + body


def decode_header(data: bytes) -> tuple[Header, int]:
    """Read a segment's header; returns also where its records begin.

    Raises:
      ValueError: the bytes do not begin with one.
    """
    if len(data) < _PREFIX.size:
        raise ValueError("shorter than a header")
    magic, check, length = _PREFIX.unpack_from(data)
    end = _PREFIX.size + length
    if magic != MAGIC:
        raise ValueError("not a segment of samples of this version")
    if length > LARGEST_HEADER or end > len(data):
        raise ValueError("its header is cut")
    body = memoryview(data)[_PREFIX.size : end]
    if zlib.crc32(body) != check:
        raise ValueError("its header was changed: the CRC-32 differs")
    try:
        header = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"its header is none: {error}") from None
    if not len(header.names) == len(header.last_us) == len(header.late_us):
        raise ValueError("its header has not one time for each channel")
    return header, end


def encode_record(header: Header, at: int, written_us: int, extent: Extent, body: bytes) -> bytes:
    """The bytes of a record that begins at byte `at` of its segment."""
    head = bytearray(
        _RECORD.pack(
            _RECORD_MAGIC,
            0,
            len(body),
            extent.samples,
            written_us,
            extent.from_us,
            extent.until_us,
            extent.gaps_from_us,
            extent.gaps_until_us,
        )
    )
    check = _check(header, at, head, body)
    struct.pack_into("<I", head, 4, check)
    return bytes(head) + body


def scan(data: bytes, header: Header, start: int) -> Scan:
    """Find every sound record from byte `start` on."""
    records: list[Record] = []
    holes: list[Hole] = []
    at, end = start, start
    while at < len(data):
        record = _record_at(data, header, at)
        if record is None:
            at = data.find(_RECORD_MAGIC, at + 1)
            if at < 0:
                break
            continue
        if at > end:
            holes.append(Hole(end, at, len(records)))
        records.append(record)
        at = end = record.end
    return Scan(tuple(records), tuple(holes), end)


def _record_at(data: bytes, header: Header, at: int) -> Record | None:
    if len(data) - at < _RECORD.size or data[at : at + 4] != _RECORD_MAGIC:
        return None
    _, check, length, samples, written_us, *times = _RECORD.unpack_from(data, at)
    end = at + _RECORD.size + length
    if length > LARGEST_RECORD or end > len(data):
        return None
    view = memoryview(data)
    body = view[at + _RECORD.size : end]
    if _check(header, at, view[at : at + _RECORD.size], body) != check:
        return None
    return Record(at, end, written_us, Extent(samples, *times), body)


def _check(
    header: Header, at: int, head: bytes | bytearray | memoryview, body: bytes | memoryview
) -> int:
    place = zlib.crc32(_PLACE.pack(header.id, at))
    return zlib.crc32(body, zlib.crc32(memoryview(head)[_CHECKED_FROM:], place))

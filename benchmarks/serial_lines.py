"""Damaged serial lines: what is accepted that was never sent, and what is lost that was intact.

A million lines and frames, one in a hundred damaged: one to eight flipped bits, one to four bytes
dropped, one to eight inserted, or the tail cut off.  Each holds a sequence number and values that
follow from it.  The stream is cut into pieces at random and goes through the decoders that the
agent uses.

`false`     frames delivered with values that were never sent.
`bound`     how many that may be.  A CRC of w bits lets a candidate of random bytes pass with
            2^-w: the number of candidates refused times that, rounded up.  An XOR of bytes does so
            with 2^-8, but misses two flipped bits in one column, 1 in 8 of such pairs: an eighth
            of the damaged.  A line without a checksum is checked for its form only: all damaged.
`missing`   intact frames not delivered.  A frame must be found wherever it is intact; a line also
            needs the terminator before it (two lines that became one are one damaged line),
            unless lines have a start mark.

The last line is JSON; `value` is the number of false accepts where there is a CRC.
"""

import argparse
import itertools
import json
import math
import random
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from agent.sensors.lines.binary import BinaryDecoder
from agent.sensors.lines.checksums import checksum
from agent.sensors.lines.settings import (
    BinaryChannel,
    BinarySettings,
    DelimitedChannel,
    DelimitedSettings,
    KeyValueChannel,
    KeyValueSettings,
    RegexChannel,
    RegexSettings,
)
from agent.sensors.lines.text import TextDecoder

FRAMES, REDUCED_FRAMES = 1_000_000, 50_000
DAMAGED_SHARE = 0.01
SEED = 20_240_601
_LARGEST_PIECE = 4096
Make = Callable[[int], bytes]
Open = Callable[[], BinaryDecoder | TextDecoder]


@dataclass(frozen=True)
class Case:
    """One format.

    Attributes:
      name: for the table.
      share: of all frames.
      make: the frame of a sequence number.
      open: a decoder whose channels are the number and its values, as `values_of` gives them.
      crc_bits: of its checksum; 0 if that is no CRC.
      has_xor: its checksum is an XOR of bytes.
      terminator: of lines that need the one before them; empty where frames begin with a mark.
    """

    name: str
    share: float
    make: Make
    open: Open
    crc_bits: int = 0
    has_xor: bool = False
    terminator: bytes = b""


@dataclass(frozen=True)
class Outcome:
    """What came of one case.

    Attributes:
      frames: sent.
      damaged: of them.
      delivered: frames out of the decoder.
      false: delivered, and never sent.
      bound: on `false`.
      required: intact frames that must be delivered.
      missing: of them, not delivered.
      cpu_s: of the decoder.
    """

    frames: int
    damaged: int
    delivered: int
    false: int
    bound: int
    required: int
    missing: int
    cpu_s: float

    @property
    def frame_us(self) -> float:
        """CPU per frame, in microseconds."""
        return 1e6 * self.cpu_s / self.frames


def values_of(sequence: NDArray[np.int64]) -> NDArray[np.float64]:
    """What frames of these numbers say: the number, a temperature, a count: float64 (n, 3)."""
    temperature = sequence * 7919 % 20_001 - 10_000
    count = sequence * 104_729 % 65_521
    return np.stack([sequence, temperature, count], axis=1).astype(np.float64)


def _values(sequence: int) -> tuple[int, int, int]:
    return sequence, sequence * 7919 % 20_001 - 10_000, sequence * 104_729 % 65_521


def _fixed_frame(sequence: int) -> bytes:
    body = b"\xaa\x55" + struct.pack("<IhH6x", *_values(sequence))
    return body + checksum("crc16-modbus").of(body).to_bytes(2, "little")


def _sized_frame(sequence: int) -> bytes:
    filling = bytes(sequence % 23)
    payload = struct.pack(">IhH", *_values(sequence)) + filling
    body = b"\x7e" + bytes((len(payload),)) + payload
    return body + zlib.crc32(body).to_bytes(4, "big")


def _csv_line(sequence: int) -> bytes:
    return b"%d;%d;%d\r\n" % _values(sequence)


def _marked_line(algorithm: str, sequence: int) -> bytes:
    body = b"LINE,%d,%d,%d" % _values(sequence)
    if algorithm == "xor8":
        return b"$%b*%02X\r\n" % (body, checksum("xor8").of(body))
    return b"$%b*%04X\r\n" % (body, checksum("crc16-modbus").of(body))


def _pairs_line(sequence: int) -> bytes:
    return b"N=%d T=%d C=%d\n" % _values(sequence)


NAMES = ("n", "t", "c")
_BINARY = tuple(BinaryChannel(name=name, field=name) for name in NAMES)
FIXED = BinarySettings(
    device="/dev/null",
    sync="AA 55",
    byte_order="little",
    fields={"n": "I", "t": "h", "c": "H", "_": "6x"},
    checksum="crc16-modbus",
    channel=_BINARY,
)
SIZED = BinarySettings(
    device="/dev/null",
    sync="7E",
    byte_order="big",
    fields={"n": "I", "t": "h", "c": "H"},
    length_at=1,
    length_adds=6,
    checksum="crc32",
    channel=_BINARY,
)
TABLE = DelimitedSettings(
    device="/dev/null",
    delimiter=";",
    columns=3,
    channel=tuple(DelimitedChannel(name=name, column=at) for at, name in enumerate(NAMES)),
)
MARKED_CRC = DelimitedSettings(
    device="/dev/null",
    columns=4,
    start="$",
    checksum="crc16-modbus",
    channel=tuple(DelimitedChannel(name=name, column=at) for at, name in enumerate(NAMES, 1)),
)
MARKED_XOR = RegexSettings(
    device="/dev/null",
    pattern=r"LINE,(?P<n>\d+),(?P<t>-?\d+),(?P<c>\d+)",
    start="$",
    checksum="xor8",
    channel=tuple(RegexChannel(name=name, group=name) for name in NAMES),
)
PAIRS = KeyValueSettings(
    device="/dev/null",
    pair_separator=" ",
    channel=tuple(KeyValueChannel(name=name, key=name.upper()) for name in NAMES),
)
CASES = (
    Case("binary, crc16", 0.4, _fixed_frame, partial(BinaryDecoder, FIXED), crc_bits=16),
    Case("binary with length, crc32", 0.2, _sized_frame, partial(BinaryDecoder, SIZED), 32),
    Case("text, crc16", 0.1, partial(_marked_line, "crc"), partial(TextDecoder, MARKED_CRC), 16),
    Case(
        "text, xor8",
        0.1,
        partial(_marked_line, "xor8"),
        partial(TextDecoder, MARKED_XOR),
        has_xor=True,
    ),
    Case("CSV", 0.1, _csv_line, partial(TextDecoder, TABLE), terminator=b"\n"),
    Case("key=value", 0.1, _pairs_line, partial(TextDecoder, PAIRS), terminator=b"\n"),
)


def damaged(rng: random.Random, frame: bytes) -> bytes:
    """The frame with one damage, never the same bytes."""
    kind = rng.randrange(4)
    changed = bytearray(frame)
    if kind == 0:
        for bit in rng.sample(range(8 * len(frame)), rng.randint(1, 8)):
            changed[bit // 8] ^= 1 << bit % 8
    elif kind == 1:
        at = rng.randrange(len(frame))
        del changed[at : at + rng.randint(1, 4)]
    elif kind == 2:
        at = rng.randrange(1, len(frame))
        changed[at:at] = rng.randbytes(rng.randint(1, 8))
    else:
        del changed[rng.randrange(len(frame)) :]
    return bytes(changed)


def run_case(case: Case, frames: int, seed: int) -> Outcome:
    """Send so many frames through a decoder and compare."""
    rng = random.Random(seed)
    sent: list[bytes] = []
    is_intact = np.ones(frames, np.bool_)
    is_required = np.ones(frames, np.bool_)
    for at in range(frames):
        frame = case.make(at)
        if rng.random() < DAMAGED_SHARE:
            frame = damaged(rng, frame)
            is_intact[at] = False
        is_required[at] = is_intact[at] and (at == 0 or sent[-1].endswith(case.terminator))
        sent.append(frame)
    if case.terminator:
        sent.insert(0, case.terminator)  # what a decoder hears before is the rest of a line
    stream = b"".join(sent)
    ends = np.cumsum([len(frame) for frame in sent])[-frames:]
    values, delivered_ends, cpu_s, refused = _decoded(case, stream, rng)
    sequence = values[:, 0]
    is_number = np.isfinite(sequence) & (sequence >= 0) & (sequence < frames)
    expected = values_of(np.where(is_number, sequence, 0).astype(np.int64))
    is_true = is_number & (values == expected).all(axis=1)
    # A value that is no number is Bad, and nothing false was accepted.
    is_false = ~is_true & np.isfinite(values).all(axis=1)
    found = np.isin(ends, delivered_ends[is_true])
    count = int((~is_intact).sum())
    bound = count
    if case.crc_bits:
        bound = math.ceil(refused / 2**case.crc_bits)
    elif case.has_xor:
        bound = math.ceil(count / 8)
    return Outcome(
        frames=frames,
        damaged=count,
        delivered=len(values),
        false=int(is_false.sum()),
        bound=bound,
        required=int(is_required.sum()),
        missing=int((is_required & ~found).sum()),
        cpu_s=cpu_s,
    )


def _decoded(
    case: Case, stream: bytes, rng: random.Random
) -> tuple[NDArray[np.float64], NDArray[np.int64], float, int]:
    """Values, stream offsets of their ends, CPU seconds, and the candidates refused."""
    decoder = case.open()
    at, pieces = 0, []
    while at < len(stream):
        pieces.append(stream[at : at + rng.randint(1, _LARGEST_PIECE)])
        at += len(pieces[-1])
    started = time.process_time()
    readings = [decoder.push(piece) for piece in pieces]
    readings.append(decoder.flush())
    cpu_s = time.process_time() - started
    names = ("bad_frames", "bad_checksums", "refused_lines")
    refused = sum(each.counters.get(name, 0) for each in readings for name in names)
    values = np.concatenate([each.values for each in readings])
    return values, np.concatenate([each.ends for each in readings]), cpu_s, refused


def main() -> int:
    """Run; 0 when nothing false was accepted beyond the bound, and nothing intact is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serial_lines", description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--reduced", action="store_true", help=f"{REDUCED_FRAMES} frames")
    options = parser.parse_args()
    frames = REDUCED_FRAMES if options.reduced else options.frames
    outcomes = {
        case: run_case(case, round(frames * case.share), seed)
        for case, seed in zip(CASES, itertools.count(options.seed))
    }
    print(f"{frames} lines and frames, {DAMAGED_SHARE:.0%} damaged, seed {options.seed}\n")
    print(f"{'':26}  frames damaged delivered false bound required missing  us/frame")
    for case, each in outcomes.items():
        print(
            f"{case.name:26} {each.frames:7} {each.damaged:7} {each.delivered:9} {each.false:5}"
            f" {each.bound:5} {each.required:8} {each.missing:7} {each.frame_us:9.2f}"
        )
    return _conclude(outcomes)


def _conclude(outcomes: dict[Case, Outcome]) -> int:
    with_crc = [each for case, each in outcomes.items() if case.crc_bits]
    missing = sum(each.missing for each in outcomes.values())
    holds = not missing and all(each.false <= each.bound for each in outcomes.values())
    result = {
        "name": "serial_lines",
        "value": sum(each.false for each in with_crc),
        "unit": "false accepts with a CRC",
        "target": sum(each.bound for each in with_crc),
        "holds": holds,
        "frames": sum(each.frames for each in outcomes.values()),
        "damaged": sum(each.damaged for each in outcomes.values()),
        "intact_missing": missing,
        "false_by_format": {case.name: each.false for case, each in outcomes.items()},
        "bound_by_format": {case.name: each.bound for case, each in outcomes.items()},
        "us_per_frame": {case.name: round(each.frame_us, 2) for case, each in outcomes.items()},
    }
    print(json.dumps(result))
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""Checksums of frames and lines: for one message, and for many of one length at once.

Parameters and check values of the CRCs are those of the "Catalogue of parametrised CRC
algorithms" (G. Cook, reveng.sourceforge.io/crc-catalogue): crc16-modbus is CRC-16/MODBUS,
crc16-ccitt is CRC-16/IBM-3740 (often called CCITT-FALSE), crc16-xmodem is CRC-16/XMODEM, crc32 is
CRC-32/ISO-HDLC (zlib's).  lrc8 is the two's complement of the sum (Modbus over serial line 1.02,
2.5.2.2).

Many at once.  The register of a CRC is linear over XOR: after m more bytes it is A^m(register)
XOR the sum over the bytes of A^(distance to the end) B(byte).  So the bytes of a chunk of columns
are looked up in one table per distance and reduced by XOR, with no loop over the bytes.

Pure.
"""

import binascii
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ChecksumName = Literal[
    "none", "sum8", "lrc8", "xor8", "crc16-modbus", "crc16-ccitt", "crc16-xmodem", "crc32"
]
Rows = NDArray[np.uint8]
"""uint8 (n, m): n messages of m bytes."""

_CHUNK = 64
"""Columns looked up at once: 64 tables of 1 KiB stay in a small core's cache."""


@dataclass(frozen=True)
class Checksum:
    """One algorithm.

    Attributes:
      size: bytes of the value; 0 for none.
      of: the checksum of one message.
      of_rows: the checksums of n messages of one length: uint32 (n,).
    """

    size: int
    of: Callable[[bytes], int]
    of_rows: Callable[[Rows], NDArray[np.uint32]]


@dataclass(frozen=True)
class _Crc:
    """Width in bits, polynomial, first register, bit order, and what is added at the end."""

    width: int
    polynomial: int
    initial: int
    is_reflected: bool
    final_xor: int = 0

    @property
    def mask(self) -> int:
        return (1 << self.width) - 1


_MODBUS = _Crc(16, 0x8005, 0xFFFF, is_reflected=True)
_CCITT = _Crc(16, 0x1021, 0xFFFF, is_reflected=False)
_XMODEM = _Crc(16, 0x1021, 0x0000, is_reflected=False)
_CRC32 = _Crc(32, 0x04C11DB7, 0xFFFFFFFF, is_reflected=True, final_xor=0xFFFFFFFF)


def checksum(name: ChecksumName) -> Checksum:
    """The algorithm of this name."""
    return _ALGORITHMS[name]


@cache
def _step_table(crc: _Crc) -> NDArray[np.uint32]:
    """B: what one byte adds to an empty register: uint32 (256,)."""
    polynomial = crc.polynomial
    if crc.is_reflected:
        polynomial = int(f"{polynomial:0{crc.width}b}"[::-1], 2)
    table = np.zeros(256, np.uint32)
    for byte in range(256):
        register = byte if crc.is_reflected else byte << (crc.width - 8)
        for _ in range(8):
            if crc.is_reflected:
                register = (register >> 1) ^ (polynomial if register & 1 else 0)
            else:
                is_high = register >> (crc.width - 1) & 1
                register = ((register << 1) & crc.mask) ^ (polynomial if is_high else 0)
        table[byte] = register
    return table


def _advanced(crc: _Crc, register: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A: the registers after one zero byte."""
    table = _step_table(crc)
    if crc.is_reflected:
        return np.asarray((register >> 8) ^ table[register & 0xFF], np.uint32)
    high = register >> (crc.width - 8)
    return np.asarray(((register << 8) & crc.mask) ^ table[high], np.uint32)


@cache
def _distance_tables(crc: _Crc) -> NDArray[np.uint32]:
    """What a byte adds to the register from each distance to the end: uint32 (_CHUNK, 256)."""
    tables = [_step_table(crc)]
    for _ in range(_CHUNK - 1):
        tables.append(_advanced(crc, tables[-1]))
    return np.stack(tables)


@cache
def _chunk_tables(crc: _Crc) -> NDArray[np.uint32]:
    """A^_CHUNK of each byte of a register: uint32 (width / 8, 256)."""
    tables = []
    for at in range(0, crc.width, 8):
        register = np.arange(256, dtype=np.uint32) << np.uint32(at)
        for _ in range(_CHUNK):
            register = _advanced(crc, register)
        tables.append(register)
    return np.stack(tables)


@cache
def _begun(crc: _Crc, zeros: int) -> np.uint32:
    """The first register after so many zero bytes."""
    register = np.array([crc.initial], np.uint32)
    for _ in range(zeros):
        register = _advanced(crc, register)
    return np.uint32(register[0])


def _crc_of_rows(crc: _Crc, rows: Rows) -> NDArray[np.uint32]:
    count, length = rows.shape
    first = length % _CHUNK
    registers = np.full(count, _begun(crc, first), np.uint32)
    if first:
        registers ^= _added(crc, rows[:, :first])
    for start in range(first, length, _CHUNK):
        moved = np.zeros(count, np.uint32)
        for at, table in enumerate(_chunk_tables(crc)):
            moved ^= table[(registers >> np.uint32(8 * at)) & 0xFF]
        registers = moved ^ _added(crc, rows[:, start : start + _CHUNK])
    return registers ^ np.uint32(crc.final_xor)


def _added(crc: _Crc, rows: Rows) -> NDArray[np.uint32]:
    """What at most _CHUNK columns add to the register: uint32 (n,)."""
    distances = np.arange(rows.shape[1] - 1, -1, -1)
    return np.asarray(np.bitwise_xor.reduce(_distance_tables(crc)[distances, rows], axis=1))


def _modbus(message: bytes) -> int:
    table, register = _modbus_steps(), _MODBUS.initial
    for byte in message:
        register = (register >> 8) ^ table[(register ^ byte) & 0xFF]
    return register


@cache
def _modbus_steps() -> tuple[int, ...]:
    return tuple(_step_table(_MODBUS).tolist())


def _xor8(message: bytes) -> int:
    return int(np.bitwise_xor.reduce(np.frombuffer(message, np.uint8)))


def _xor8_of_rows(rows: Rows) -> NDArray[np.uint32]:
    return np.asarray(np.bitwise_xor.reduce(rows, axis=1), np.uint32)


def _sum8_of_rows(rows: Rows) -> NDArray[np.uint32]:
    return np.asarray(rows.sum(axis=1, dtype=np.uint32) & np.uint32(0xFF))


def _lrc8_of_rows(rows: Rows) -> NDArray[np.uint32]:
    return np.asarray((np.uint32(0x100) - _sum8_of_rows(rows)) & np.uint32(0xFF))


_ALGORITHMS: dict[ChecksumName, Checksum] = {
    "none": Checksum(0, lambda _: 0, lambda rows: np.zeros(len(rows), np.uint32)),
    "sum8": Checksum(1, lambda message: sum(message) & 0xFF, _sum8_of_rows),
    "lrc8": Checksum(1, lambda message: -sum(message) & 0xFF, _lrc8_of_rows),
    "xor8": Checksum(1, _xor8, _xor8_of_rows),
    "crc16-modbus": Checksum(2, _modbus, lambda rows: _crc_of_rows(_MODBUS, rows)),
    "crc16-ccitt": Checksum(
        2,
        lambda message: binascii.crc_hqx(message, _CCITT.initial),
        lambda rows: _crc_of_rows(_CCITT, rows),
    ),
    "crc16-xmodem": Checksum(
        2,
        lambda message: binascii.crc_hqx(message, _XMODEM.initial),
        lambda rows: _crc_of_rows(_XMODEM, rows),
    ),
    "crc32": Checksum(4, zlib.crc32, lambda rows: _crc_of_rows(_CRC32, rows)),
}

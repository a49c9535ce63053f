"""Frames: finding the one answer that a request allows among whatever a line brings.

A read request fixes its answer but for the data: the unit, the function code, the count of bytes
and, over TCP, the transaction identifier.  So the bytes that arrived are searched for exactly that
(or for an exception to it), and noise before it, the echo of a two-wire adapter, a late answer to
another request and the answer of a wrong unit are passed over instead of spoiling the read.

RTU frames: Modbus over Serial Line V1.02, section 2.5.1; TCP frames: Modbus Messaging on TCP/IP
Implementation Guide V1.0b, section 3.1.3.  Pure.  Invariant: what is returned is b"" or a whole
frame of the expected shape whose CRC, where it has one, is right.
"""

import struct
from typing import Literal

Framing = Literal["tcp", "rtu"]

REQUEST_CHARACTERS = 8
"""Unit, function, address, count, CRC: what a read request takes on a serial line."""
ANSWER_CHARACTERS = 5
"""The same of an answer, without its data."""
_CRC_BYTES = 2
_EXCEPTION = 0x80
_READ_BITS = (1, 2)


def answer_in(buffer: bytes, request: bytes, framing: Framing) -> bytes:
    """The first answer to `request` in `buffer`; b"" while there is none.

    Args:
      buffer: all bytes received since the request, oldest first.
      request: the frame that was sent, of function 1, 2, 3 or 4.
      framing: of both.
    """
    body = request[6:12] if framing == "tcp" else request[:6]
    unit, function, _address, count = struct.unpack(">BBHH", body)
    size = -(-count // 8) if function in _READ_BITS else 2 * count
    answer = bytes((unit, function, size))
    refusal = bytes((unit, function | _EXCEPTION))
    if framing == "tcp":
        transaction = request[:2]
        header = transaction + struct.pack(">HH", 0, 3 + size)
        refused = transaction + struct.pack(">HH", 0, 3)
        heads = (header + answer, 9 + size), (refused + refusal, 9)
    else:
        heads = (answer, 3 + size + _CRC_BYTES), (refusal, 3 + _CRC_BYTES)
    found = [frame for head, length in heads if (frame := _find(buffer, head, length, framing))]
    return found[0] if found else b""


def _find(buffer: bytes, head: bytes, length: int, framing: Framing) -> bytes:
    at = buffer.find(head)
    while 0 <= at <= len(buffer) - length:
        frame = buffer[at : at + length]
        if framing == "tcp" or _has_right_crc(frame):
            return frame
        at = buffer.find(head, at + 1)
    return b""


def _has_right_crc(frame: bytes) -> bool:
    crc = int.from_bytes(frame[-_CRC_BYTES:], "big")
    from pymodbus.framer import FramerRTU  # noqa: PLC0415 - only where a line is configured

    return FramerRTU.check_CRC(frame[:-_CRC_BYTES], crc)


def character_s(baudrate: int, parity: str, stopbits: int) -> float:
    """Seconds that one character takes on the line: start, 8 data, parity and stop bits."""
    return (9 + (parity != "N") + stopbits) / baudrate


def quiet_s(character: float) -> float:
    """The silence between two frames: 3.5 characters, at least 1.75 ms (V1.02, section 2.5.1.1)."""
    return max(3.5 * character, 0.00175)

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.lines.checksums import ChecksumName, checksum

NAMES: tuple[ChecksumName, ...] = get_args(ChecksumName)
CRCS = {  # width, polynomial, first register, reflected, final XOR: the catalogue's columns
    "crc16-modbus": (16, 0x8005, 0xFFFF, True, 0),
    "crc16-ccitt": (16, 0x1021, 0xFFFF, False, 0),
    "crc16-xmodem": (16, 0x1021, 0, False, 0),
    "crc32": (32, 0x04C11DB7, 0xFFFFFFFF, True, 0xFFFFFFFF),
}


def reversed_bits(value: int, width: int) -> int:
    return int(f"{value:0{width}b}"[::-1], 2)


def bit_by_bit(name: str, message: bytes) -> int:
    """The definition: one shift per bit of the message."""
    width, polynomial, register, is_reflected, final = CRCS[name]
    for byte in message:
        bits = reversed_bits(byte, 8) if is_reflected else byte
        for at in range(7, -1, -1):
            carry = (register >> (width - 1) ^ bits >> at) & 1
            register = (register << 1 & (1 << width) - 1) ^ (polynomial if carry else 0)
    return (reversed_bits(register, width) if is_reflected else register) ^ final


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("crc16-modbus", 0x4B37),
        ("crc16-ccitt", 0x29B1),
        ("crc16-xmodem", 0x31C3),
        ("crc32", 0xCBF43926),
        ("sum8", 0xDD),
        ("lrc8", 0x23),
        ("xor8", 0x31),
    ],
)
def test_the_check_values_are_those_of_the_catalogue(name: ChecksumName, expected: int) -> None:
    assert checksum(name).of(b"123456789") == expected


@given(name=st.sampled_from(sorted(CRCS)), message=st.binary(max_size=200))
def test_a_crc_is_what_its_definition_says(name: ChecksumName, message: bytes) -> None:
    assert checksum(name).of(message) == bit_by_bit(name, message)


@given(
    name=st.sampled_from(NAMES),
    count=st.integers(0, 9),
    length=st.integers(0, 200),
    seed=st.integers(0, 999),
)
def test_many_at_once_are_each_as_one_alone(
    name: ChecksumName, count: int, length: int, seed: int
) -> None:
    rows = np.random.default_rng(seed).integers(0, 256, (count, length), np.uint8)
    algorithm = checksum(name)
    assert algorithm.of_rows(rows).tolist() == [algorithm.of(row.tobytes()) for row in rows]

"""Answers are picked out of what a line brings; frames are built by pymodbus' own framers."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU

from agent.sensors.modbus.frames import Framing, answer_in, character_s, quiet_s

FRAMERS = {"rtu": FramerRTU(DecodePDU(False)), "tcp": FramerSocket(DecodePDU(False))}
UNIT, FUNCTION, ADDRESS, TRANSACTION = 7, 3, 100, 41
framings = st.sampled_from(("rtu", "tcp"))


def frame(framing: Framing, pdu: bytes, unit: int = UNIT, transaction: int = TRANSACTION) -> bytes:
    return FRAMERS[framing].encode(pdu, unit, transaction)


def request(framing: Framing, count: int, function: int = FUNCTION) -> bytes:
    return frame(framing, struct.pack(">BHH", function, ADDRESS, count))


def answer(framing: Framing, registers: list[int]) -> bytes:
    data = struct.pack(f">{len(registers)}H", *registers)
    return frame(framing, bytes((FUNCTION, len(data))) + data)


registers = st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=60)


@settings(deadline=None)
@given(framings, registers, st.binary(max_size=40), st.binary(max_size=40))
def test_the_answer_is_found_among_noise(
    framing: Framing, words: list[int], before: bytes, after: bytes
) -> None:
    whole = answer(framing, words)
    found = answer_in(before + whole + after, request(framing, len(words)), framing)
    # Noise may hold a valid frame of its own only by the CRC's chance of 1 in 65,536.
    assert found == whole


@settings(deadline=None)
@given(framings, registers, st.data())
def test_nothing_is_taken_before_the_answer_is_whole(
    framing: Framing, words: list[int], data: st.DataObject
) -> None:
    whole = answer(framing, words)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert answer_in(whole[:cut], request(framing, len(words)), framing) == b""


@settings(deadline=None)
@given(framings, st.binary(max_size=300), st.integers(1, 125), st.sampled_from((1, 2, 3, 4)))
def test_any_bytes_yield_nothing_or_a_frame_of_the_right_shape(
    framing: Framing, noise: bytes, count: int, function: int
) -> None:
    asked = request(framing, count, function)
    found = answer_in(noise, asked, framing)
    if found:
        body = found[6:] if framing == "tcp" else found[:-2]
        size = -(-count // 8) if function < 3 else 2 * count
        assert body[0] == UNIT
        assert (body[1] == function and body[2] == size and len(body) == 3 + size) or (
            body[1] == function | 0x80 and len(body) == 3
        )


@settings(deadline=None)
@given(registers, st.data())
def test_a_flipped_bit_in_an_rtu_answer_makes_it_none(
    words: list[int], data: st.DataObject
) -> None:
    whole = bytearray(answer("rtu", words))
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[at // 8] ^= 1 << at % 8
    assert answer_in(bytes(whole), request("rtu", len(words)), "rtu") == b""


@pytest.mark.parametrize("framing", ["rtu", "tcp"])
def test_an_exception_is_an_answer(framing: Framing) -> None:
    refused = frame(framing, bytes((FUNCTION | 0x80, 2)))
    assert answer_in(refused, request(framing, 5), framing) == refused


@pytest.mark.parametrize("framing", ["rtu", "tcp"])
def test_the_answer_of_another_unit_or_of_another_length_is_passed_over(framing: Framing) -> None:
    pdu = bytes((FUNCTION, 4, 1, 2, 3, 4))
    wrong_unit = frame(framing, pdu, unit=UNIT + 1)
    wrong_length = frame(framing, bytes((FUNCTION, 2, 1, 2)))
    right = frame(framing, pdu)
    asked = request(framing, 2)
    assert answer_in(wrong_unit + wrong_length, asked, framing) == b""
    assert answer_in(wrong_unit + wrong_length + right, asked, framing) == right


def test_over_tcp_a_late_answer_is_told_by_its_transaction() -> None:
    pdu = bytes((FUNCTION, 2, 1, 2))
    late = frame("tcp", pdu, transaction=TRANSACTION - 1)
    right = frame("tcp", pdu)
    assert answer_in(late, request("tcp", 1), "tcp") == b""
    assert answer_in(late + right, request("tcp", 1), "tcp") == right


def test_the_echo_of_a_two_wire_adapter_is_no_answer() -> None:
    asked = request("rtu", 2)
    whole = answer("rtu", [1, 2])
    assert answer_in(asked, asked, "rtu") == b""
    assert answer_in(asked + whole, asked, "rtu") == whole


def test_characters_and_silences_take_what_the_standard_says() -> None:
    # 11 bits at 9600 baud; 3.5 characters, but never under 1.75 ms.
    assert character_s(9600, "E", 1) == pytest.approx(11 / 9600)
    assert character_s(9600, "N", 1) == pytest.approx(10 / 9600)
    assert quiet_s(11 / 9600) == pytest.approx(3.5 * 11 / 9600)
    assert quiet_s(11 / 115_200) == 0.00175

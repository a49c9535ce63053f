"""What a device may answer to SMP: anything, and the bridge knows only three ends."""

import asyncio
import random
from collections import Counter

import pytest

pytest.importorskip("smpclient")

import cbor2

from firmware_bridge.firmware_slots import RefusedError, SilentError
from firmware_bridge.smp_device import open_device
from shopfloor import smp_board
from shopfloor.mcuboot import build_image
from shopfloor.smp_server import to_lines

VALUES = [1, -1, 2**70, "x" * 200, b"\xff" * 5, None, True, [1, [2]], {"a": {}}, 1.5, "\x1b[31m"]


def damaged(message: bytes, chance: random.Random) -> bytes:
    """An answer as the line brings it: a wrong value, header, body or line, or right."""
    kind = chance.randrange(5)
    if kind == 0:
        at = chance.randrange(len(message))
        return to_lines(message[:at] + bytes([chance.randrange(256)]) + message[at + 1 :])
    if kind == 1:
        return to_lines(message[: chance.randrange(len(message))])
    if kind == 2:
        line = bytearray(to_lines(message))
        line[chance.randrange(len(line))] = chance.randrange(256)
        return bytes(line)
    if kind == 3:
        body = cbor2.loads(message[8:])
        body[chance.choice([*body, "other"])] = chance.choice(VALUES)
        data = cbor2.dumps(body)
        return to_lines(message[:2] + len(data).to_bytes(2, "big") + message[4:8] + data)
    return b"boot\x06\r\n" + to_lines(message)


def test_whatever_a_device_answers_a_question_ends_in_an_answer_or_one_of_two_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(8)
    ends: Counter[str] = Counter()
    said: list[str] = []
    monkeypatch.setattr(smp_board, "to_lines", lambda message: damaged(message, chance))

    async def ask_often(port: str) -> None:
        async with open_device(port, 115_200, request_s=0.05, erase_s=0.05) as device:
            for _ in range(100):
                question = chance.choice([device.slots, device.echo, device.require_revert])
                try:
                    await question()
                    ends["answer"] += 1
                except (SilentError, RefusedError) as error:
                    ends[type(error).__name__] += 1
                    said.append(str(error))

    with smp_board.running_board(build_image((1, 0, 0, 0))) as board:
        asyncio.run(ask_often(board.port))
    assert ends["answer"] > 10
    assert ends["SilentError"] > 10
    assert all(words.isprintable() for words in said)

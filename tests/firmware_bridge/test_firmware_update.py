"""`journeyman-bridge firmware` and a simulated board with MCUboot, over real pseudo-terminals."""

import argparse
import asyncio
import importlib.util
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import serial

pytest.importorskip("smpclient")

from firmware_bridge import firmware_command
from firmware_bridge.firmware_slots import Outcome, Patience, RefusedError, SilentError
from firmware_bridge.firmware_update import Updater
from firmware_bridge.mcuboot_image import parse_image
from firmware_bridge.smp_device import SmpDevice, open_device
from shopfloor.mcuboot import SLOT_BYTES, Firmware, build_image
from shopfloor.smp_board import Board, running_board
from shopfloor.smp_server import OVERWRITE

OLD = build_image((1, 0, 0, 0))
NEW = build_image((1, 1, 0, 0))
BAUD = 115_200
QUICK = Patience(request_s=0.3, erase_s=0.5, tries=3, boot_s=5.0, healthy_s=5.0)


@pytest.fixture
def board() -> Iterator[Board]:
    with running_board(OLD) as running:
        yield running


@pytest.fixture
def new(tmp_path: Path) -> str:
    return written(tmp_path, NEW)


def written(folder: Path, image: bytes) -> str:
    path = folder / "image.bin"
    path.write_bytes(image)
    return str(path)


def firmware(action: str, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    firmware_command.add_to(parser.add_subparsers())
    return firmware_command.run(parser.parse_args(["firmware", action, *arguments]))


def on(board: Board, work: Callable[[SmpDevice, Updater], Awaitable[Outcome | None]]) -> list[str]:
    """What is said during some work on a board, with little patience."""
    said: list[str] = []

    async def job() -> None:
        async with open_device(board.port, BAUD, QUICK.request_s, QUICK.erase_s) as device:
            await work(device, Updater(device, 0, QUICK, said.append))

    asyncio.run(job())
    return said


def cut_power_until_reverted(board: Board) -> None:
    board.cut_power()
    while board.flash.running.version != "1.0.0":
        time.sleep(0.01)


async def well() -> bool:
    return True


def test_an_update_is_uploaded_tried_checked_and_confirmed_and_can_be_reverted(
    board: Board, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert firmware("update", board.port, new, "--bridge-port", board.port) == Outcome.DONE
    assert "it answers the bridge: firmware '1.1.0'" in capsys.readouterr().out
    assert board.flash.slots == [NEW, OLD]
    board.flash.reset()
    assert board.flash.running.version == "1.1.0"
    assert firmware("revert", board.port) == Outcome.DONE
    assert board.flash.slots == [OLD, NEW]
    assert board.flash.is_confirmed
    assert board.flash.log == ["tries 1.1.0", "tries 1.0.0"]


def test_a_device_whose_usb_port_goes_away_in_a_reset_is_updated(tmp_path: Path, new: str) -> None:
    with running_board(OLD, tmp_path / "ttyACM0") as board:
        assert firmware("update", board.port, new) == Outcome.DONE
        assert board.flash.running.version == "1.1.0"
        assert board.flash.is_confirmed


def test_firmware_that_crashes_leaves_the_old_one_running(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = written(tmp_path, build_image((1, 1, 0, 0), Firmware.CRASHES))
    assert firmware("update", board.port, image) == Outcome.UNCHANGED
    assert "the device is back with the firmware that it had" in capsys.readouterr().out
    assert board.flash.log == ["tries 1.1.0", "1.1.0 crashes", "reverts to 1.0.0"]


def test_firmware_that_does_not_answer_the_bridge_is_reverted(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = written(tmp_path, build_image((1, 1, 0, 0), Firmware.HAS_NO_BRIDGE))
    options = ("--bridge-port", board.port, "--healthy-within", "0.3")
    assert firmware("update", board.port, image, *options) == Outcome.UNCHANGED
    assert "REVERTED: the device runs version 1.0.0" in capsys.readouterr().out
    assert board.flash.log == ["tries 1.1.0", "reverts to 1.0.0"]


def test_firmware_that_has_confirmed_itself_is_reverted_too(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = written(tmp_path, build_image((1, 1, 0, 0), Firmware.CONFIRMS_ITSELF))
    options = ("--bridge-port", board.port, "--healthy-within", "0.3")
    assert firmware("update", board.port, image, *options) == Outcome.UNCHANGED
    assert "it has confirmed itself" in capsys.readouterr().out
    assert board.flash.log == ["tries 1.1.0", "tries 1.0.0"]
    assert board.flash.is_confirmed


def test_a_bootloader_that_can_not_revert_is_left_alone(
    board: Board, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    board.server.mode = OVERWRITE
    assert firmware("update", board.port, new) == Outcome.UNCHANGED
    assert "works by overwriting and can not revert a trial" in capsys.readouterr().out
    assert board.flash.slots == [OLD, b""]
    board.server.mode = None  # most firmware does not tell
    assert firmware("update", board.port, new) == Outcome.DONE


def test_firmware_that_hangs_is_reported_and_gone_after_a_power_cut(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = written(tmp_path, build_image((1, 1, 0, 0), Firmware.HANGS))
    assert firmware("update", board.port, image, "--boot-within", "0.5") == Outcome.UNKNOWN
    assert "cut its power for a moment" in capsys.readouterr().out
    cut_power_until_reverted(board)
    assert firmware("list", board.port) == Outcome.DONE
    assert "slot 0: version 1.0.0, runs, confirmed" in capsys.readouterr().out


def test_a_lost_and_a_damaged_answer_do_not_start_the_upload_again(board: Board) -> None:
    board.faults.lost_answers = 1
    board.faults.damaged_answers = 2
    said = on(board, lambda _, updater: updater.update(parse_image(NEW), well))
    assert said[-1] == "DONE: version 1.1.0 is confirmed and stays"
    assert any("upload interrupted" in line for line in said)
    assert board.server.written_bytes == len(NEW)


def test_an_upload_over_a_cut_link_goes_on_with_the_next_command(board: Board) -> None:
    board.faults.cut_after_bytes = 3000
    with pytest.raises(SilentError) as cut:
        on(board, lambda _, updater: updater.update(parse_image(NEW), well))
    taken = board.server.written_bytes
    assert f"upload cut at {taken:,} of 6,072 bytes" in str(cut.value)
    assert 3000 <= taken < len(NEW)
    assert (board.flash.slots[0], board.flash.is_pending) == (OLD, False)
    board.faults.cut_after_bytes = None
    said = on(board, lambda _, updater: updater.update(parse_image(NEW), well))
    assert f"the device has {taken:,} bytes of it already; going on from there" in said
    assert board.server.written_bytes == len(NEW)
    assert board.flash.slots == [NEW, OLD]


def test_an_upload_that_never_gets_ahead_ends(board: Board) -> None:
    board.server.is_stuck = True
    with pytest.raises(RefusedError, match="does not get ahead in the upload"):
        on(board, lambda _, updater: updater.update(parse_image(NEW), well))


def test_a_device_that_reverts_right_before_the_confirmation_is_not_called_updated(
    board: Board,
) -> None:
    async def healthy() -> bool:
        await asyncio.to_thread(cut_power_until_reverted, board)
        return True

    said = on(board, lambda _, updater: updater.update(parse_image(NEW), healthy))
    assert said[-1] == "FAILED: the device has gone back to version 1.0.0 by itself"


def test_what_flash_stored_wrongly_is_never_tried(board: Board) -> None:
    board.server.damages = True
    with pytest.raises(RefusedError, match="not what was sent"):
        on(board, lambda _, updater: updater.update(parse_image(NEW), well))
    assert (board.flash.is_pending, board.flash.log) == (False, [])


def test_an_image_that_the_bootloader_refuses_is_sent_anew_by_the_next_command(
    board: Board, new: str
) -> None:
    board.flash.slots[1] = NEW[:1000] + b"?" + NEW[1001:]
    assert firmware("update", board.port, new) == Outcome.UNCHANGED
    assert board.flash.log == ["erases a damaged image"]
    assert firmware("update", board.port, new) == Outcome.DONE


def test_a_port_that_another_program_holds_is_left_alone(
    board: Board, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serial.Serial(board.port, exclusive=True):
        assert firmware("update", board.port, new) == Outcome.REFUSED
    assert f"{board.port}: another program uses it" in capsys.readouterr().err
    assert board.flash.slots == [OLD, b""]


def test_nobody_else_gets_the_port_between_the_steps(board: Board) -> None:
    async def held(device: SmpDevice, updater: Updater) -> None:
        await updater.upload(parse_image(NEW))
        await device.slots()
        with pytest.raises(serial.SerialException, match="exclusively lock"):
            serial.Serial(board.port, exclusive=True)

    on(board, held)


def test_a_file_that_is_no_image_is_refused_before_the_port_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = written(tmp_path, NEW[:-1])
    assert firmware("update", "/dev/no-such-port", image) == Outcome.REFUSED
    assert "image.bin: cut: its TLVs end" in capsys.readouterr().err
    assert firmware("update", "/dev/no-such-port", "no-such-file") == Outcome.REFUSED
    assert "cannot read no-such-file" in capsys.readouterr().err


def test_a_port_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert firmware("list", "/dev/no-such-port") == Outcome.REFUSED
    assert "/dev/no-such-port: there is no such device" in capsys.readouterr().err


def test_without_the_extra_the_command_says_how_to_install_it(
    new: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert firmware("check", new) == Outcome.DONE
    assert firmware("update", "/dev/null", new) == Outcome.REFUSED
    assert "pip install 'journeyman[firmware]'" in capsys.readouterr().err


def test_an_image_larger_than_the_slot_is_refused_by_the_device(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = written(tmp_path, build_image((1, 1, 0, 0), program_bytes=SLOT_BYTES))
    assert firmware("update", board.port, image) == Outcome.UNCHANGED
    assert "the image is larger than the device's slot" in capsys.readouterr().out


def test_a_dry_run_and_a_second_update_change_nothing(
    board: Board, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert firmware("update", board.port, new, "--dry-run") == Outcome.DONE
    assert "gets 1.1.0: upload 6,072 bytes" in capsys.readouterr().out
    assert board.flash.slots == [OLD, b""]
    assert firmware("update", board.port, new) == Outcome.DONE
    sent = board.server.written_bytes
    assert firmware("update", board.port, new) == Outcome.DONE
    assert "there is nothing to do" in capsys.readouterr().out
    assert (board.server.written_bytes, board.flash.log) == (sent, ["tries 1.1.0"])


def test_upload_test_and_confirm_are_the_steps_of_an_update_one_by_one(
    board: Board, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = parse_image(NEW).hash.hex()
    assert firmware("upload", board.port, new) == Outcome.DONE
    assert (board.flash.slots, board.flash.is_pending) == ([OLD, NEW], False)
    assert firmware("test", board.port, "0123456789") == Outcome.UNCHANGED
    assert firmware("test", board.port, wanted[:8]) == Outcome.DONE
    assert (board.flash.running.version, board.flash.is_confirmed) == ("1.1.0", False)
    other = written(tmp_path, build_image((9, 0, 0, 0)))
    assert firmware("update", board.port, other) == Outcome.UNCHANGED
    assert "version 1.1.0 is on trial" in capsys.readouterr().out
    assert firmware("confirm", board.port) == Outcome.DONE
    assert board.flash.is_confirmed


def test_a_trial_is_ended_by_revert_and_finished_by_the_same_update(board: Board, new: str) -> None:
    wanted = parse_image(NEW).hash.hex()
    assert firmware("upload", board.port, new) == Outcome.DONE
    assert firmware("test", board.port, wanted) == Outcome.DONE
    assert firmware("revert", board.port) == Outcome.DONE
    assert board.flash.running.version == "1.0.0"
    assert firmware("test", board.port, wanted) == Outcome.DONE
    assert firmware("update", board.port, new) == Outcome.DONE
    assert (board.flash.running.version, board.flash.is_confirmed) == ("1.1.0", True)


def test_an_image_that_waits_for_its_trial_is_not_overwritten(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board.flash.slots[1], board.flash.is_pending = NEW, True
    other = written(tmp_path, build_image((9, 0, 0, 0)))
    assert firmware("update", board.port, other) == Outcome.UNCHANGED
    assert "version 1.1.0 waits for its trial" in capsys.readouterr().out
    assert board.flash.slots == [OLD, NEW]


def test_the_program_shows_what_a_device_runs(board: Board, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "firmware_bridge.main", "firmware", "list", board.port],
        cwd=repository, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "image 0 slot 0: version 1.0.0, runs, confirmed" in done.stdout

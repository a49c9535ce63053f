"""`journeyman-bridge` as a process, on a real pseudo-terminal."""

import os
import pty
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from firmware_bridge.frames import Frame, FrameType, encode

COMMAND = [sys.executable, "-m", "firmware_bridge.main"]
DEADLINE_S = 30.0


@contextmanager
def closing_descriptor(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


@dataclass
class Monitor:
    """A running monitor and the device end of its line."""

    process: subprocess.Popen[str]
    device: int

    def wait_for(self, wanted: str) -> str:
        """Return the first line with `wanted` in it."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + DEADLINE_S
        seen = []
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while selector.select(timeout=max(0.0, deadline - time.monotonic())):
                # One byte at a time: a buffered reader would hide lines from the selector.
                line = self._line()
                seen.append(line)
                if wanted in line:
                    return line
                if not line:
                    break
        pytest.fail(f"no line with {wanted!r} among {seen}")

    def _line(self) -> str:
        assert self.process.stdout is not None
        raw = bytearray()
        while not raw.endswith(b"\n"):
            byte = os.read(self.process.stdout.fileno(), 1)
            if not byte:
                break
            raw += byte
        return raw.decode()


@pytest.fixture
def monitor(repository: Path) -> Iterator[Monitor]:
    device, port = pty.openpty()
    command = [*COMMAND, "monitor", os.ttyname(port), "--baud", "921600"]
    process = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    running = Monitor(process, device)
    running.wait_for("watching")
    os.close(port)
    yield running
    process.kill()
    process.communicate()
    os.close(device)


def test_the_monitor_shows_frames_between_garbage_and_cut_frames(monitor: Monitor) -> None:
    first = encode(Frame(FrameType.SENSOR, 1, b"\x01\x02", 0x80))
    second = encode(Frame(FrameType.LOG, 2, b"hello \x1b[31m", 0x80))
    fifth = encode(Frame(FrameType.SENSOR, 5, bytes(100), 0x85))
    os.write(monitor.device, first)
    assert "SENSOR   from 0 seq 1 len 2  01 02  |..|" in monitor.wait_for("seq 1")
    os.write(monitor.device, b"\xde\xad\xbe\xef" * 300 + b"\0" + first[:7] + b"\0")
    assert "oversize" in monitor.wait_for("error ")
    monitor.wait_for("bytes discarded")
    os.write(monitor.device, second)
    assert "|hello .[31m|" in monitor.wait_for("seq 2")
    os.write(monitor.device, encode(Frame(FrameType.SENSOR, 2, b"", 0x85)) + fifth)
    assert "(+68 bytes)" in monitor.wait_for("from 5 seq 5")
    assert "errors 2" in monitor.wait_for("missing 2")


def test_the_monitor_ends_with_its_totals_when_asked_to(monitor: Monitor) -> None:
    os.write(monitor.device, encode(Frame(FrameType.HELLO, 0, b"")))
    monitor.wait_for("HELLO")
    monitor.process.send_signal(signal.SIGTERM)
    assert "frames 1, errors 0, missing 0, restarts 0" in monitor.wait_for("frames ")
    assert monitor.process.wait(timeout=DEADLINE_S) == 0


def test_an_unplugged_port_is_waited_for(repository: Path, tmp_path: Path) -> None:
    # A stable name that points to one pseudo-terminal, then to another, as udev does when a
    # USB adapter is pulled and plugged in again.
    name = tmp_path / "ttyUSB"
    first_device, first_port = pty.openpty()
    second_device, second_port = pty.openpty()
    name.symlink_to(os.ttyname(first_port))
    command = [*COMMAND, "monitor", str(name)]
    process = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    with closing_descriptor(second_device), closing_descriptor(second_port):
        try:
            running = Monitor(process, second_device)
            running.wait_for("watching")
            name.unlink()
            os.close(first_port)
            os.close(first_device)
            running.wait_for("port lost")
            name.symlink_to(os.ttyname(second_port))
            running.wait_for("port is back")
            os.write(second_device, encode(Frame(FrameType.SENSOR, 9, b"")))
            assert "SENSOR" in running.wait_for("seq 9")
        finally:
            process.kill()
            process.communicate()


def test_a_port_that_cannot_be_opened_is_an_error_that_says_what_to_do(repository: Path) -> None:
    command = [*COMMAND, "monitor", "/dev/no-such-port"]
    ended = subprocess.run(
        command, cwd=repository, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert ended.returncode == 1
    assert "cannot open /dev/no-such-port at 115200 baud" in ended.stderr
    assert "/dev/serial/by-id" in ended.stderr


def test_a_recording_is_decoded_with_its_errors_and_its_cut_end(
    repository: Path, tmp_path: Path
) -> None:
    recording = tmp_path / "line.bin"
    frame = encode(Frame(FrameType.LOG, 7, b"hello"))
    recording.write_bytes(frame[4:] + frame + encode(Frame(FrameType.LOG, 9, b"")) + frame[:5])
    ended = subprocess.run(
        [*COMMAND, "decode", str(recording)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[1:] == [
        "LOG      to 0 seq 7 len 5  68 65 6c 6c 6f  |hello|",
        "LOG      to 0 seq 9 len 0    ||",
        "the last 5 bytes have no delimiter: cut recording?",
        "frames 2, errors 1 (cobs 1), missing 1, restarts 0",
    ]

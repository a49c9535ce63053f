"""A board with MCUboot, an SMP server and the bridge's protocol on one port: a pseudo-terminal.

Responsible for the time between a reset and the firmware's first answer, and for what can go wrong
on the way: a link that is cut in the middle of an upload, an answer that is lost, flash that takes
a wrong bit, firmware that crashes, hangs or has forgotten how to talk with the bridge.
"""

import contextlib
import os
import pty
import select
import threading
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.frames import Address, Decoder, Frame, encode
from firmware_bridge.messages import ANSWER, Request, Status
from shopfloor.mcuboot import Firmware, Flash
from shopfloor.smp_server import Lines, SmpServer, to_lines

_BOOT_S = 0.05
_RESET_DELAY_S = 0.05
"""Zephyr answers, and resets later: what ran before still answers in between."""
_LOOK_S = 0.02
_READ_BYTES = 4096
_SHELL = b"*** Booting ***\r\nuart:~$ "
_CONNECTED = bytes.fromhex("01 04 0002 07000000 00") + bytes(16) + bytes(12)
"""Protocol 1, window 4, 512 bytes, boot 7, no slots; FRAMING.md, CONNECT."""


@dataclass
class Faults:
    """What goes wrong; may be changed at any time.

    Attributes:
      cut_after_bytes: so many uploaded bytes are taken; then nothing is heard until it is None.
      lost_answers: so many answers to uploads are not sent.
      damaged_answers: so many answers arrive with a wrong byte.
    """

    cut_after_bytes: int | None = None
    lost_answers: int = 0
    damaged_answers: int = 0


class Board:
    """A board; made by `running_board`.

    Args:
      image: that it runs, confirmed.
      usb_path: where its port appears, as a link; away while it resets, like a USB device's. None
        for a port that stays, like a UART's.

    Attributes:
      flash: its slots.
      server: answers SMP.
      faults: see there.
    """

    def __init__(self, image: bytes, usb_path: Path | None) -> None:
        self.flash = Flash([image, b""])
        self.server = SmpServer(self.flash)
        self.faults = Faults()
        self._usb_path = usb_path
        self._lines, self._frames = Lines(), Decoder()
        self._reset_at_s: float | None = None
        self._plug_in()

    @property
    def port(self) -> str:
        """The path that a client opens."""
        return str(self._usb_path or os.ttyname(self._far_end))

    def cut_power(self) -> None:
        """And switch it on again; the bootloader decides anew."""
        self._reset_at_s = time.monotonic()

    def serve(self, stop: threading.Event) -> None:
        """Answer what comes until told to stop."""
        while not stop.is_set():
            if self._reset_at_s is not None and time.monotonic() >= self._reset_at_s:
                self._reset()
            if select.select([self._line], [], [], _LOOK_S)[0]:
                self._take(os.read(self._line, _READ_BYTES))
        self._unplug()

    def _plug_in(self) -> None:
        # The far end stays open here too, so that a client may come and go.
        self._line, self._far_end = pty.openpty()
        tty.setraw(self._far_end)
        if self._usb_path is not None:
            self._usb_path.symlink_to(os.ttyname(self._far_end))

    def _unplug(self) -> None:
        if self._usb_path is not None:
            self._usb_path.unlink()
        os.close(self._line)
        os.close(self._far_end)

    def _reset(self) -> None:
        self._reset_at_s = None
        self.flash.reset()
        self.server.was_reset()
        self._lines, self._frames = Lines(), Decoder()
        if self._usb_path is not None:
            self._unplug()
        time.sleep(_BOOT_S)
        if self._usb_path is not None:
            self._plug_in()
        os.write(self._line, _SHELL)

    def _take(self, data: bytes) -> None:
        if self.flash.running.firmware is Firmware.HANGS:
            return
        for message in self._lines.feed(data):
            cut = self.faults.cut_after_bytes
            if cut is None or self.server.written_bytes < cut:
                self._answer(message)
        for frame in self._frames.feed(data):
            if isinstance(frame, Frame):
                self._answer_bridge(frame)

    def _answer(self, message: bytes) -> None:
        before = self.server.written_bytes
        answer = self.server.answer(message)
        if answer is None:
            return
        line = to_lines(answer)
        if self.server.written_bytes > before and self.faults.lost_answers:
            self.faults.lost_answers -= 1
        elif self.faults.damaged_answers:
            self.faults.damaged_answers -= 1
            os.write(self._line, line[:5] + b"!" + line[6:])
        else:
            os.write(self._line, line)
        if self.server.must_reset:
            self.server.must_reset = False
            self._reset_at_s = time.monotonic() + _RESET_DELAY_S

    def _answer_bridge(self, frame: Frame) -> None:
        if frame.type != Request.CONNECT or self.flash.running.firmware is not Firmware.WORKS:
            return
        payload = bytes([Status.OK]) + _CONNECTED + self.flash.running.version.encode()
        address = frame.address | Address.FROM_DEVICE
        answer = Frame(frame.type + ANSWER, frame.sequence, payload, address)
        os.write(self._line, encode(answer))


@contextlib.contextmanager
def running_board(image: bytes, usb_path: Path | None = None) -> Iterator[Board]:
    """A board until the end of the block; arguments as `Board`'s."""
    board = Board(image, usb_path)
    stop = threading.Event()
    thread = threading.Thread(target=board.serve, args=(stop,), name="board")
    thread.start()
    try:
        yield board
    finally:
        stop.set()
        thread.join()

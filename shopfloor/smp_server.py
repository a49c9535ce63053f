"""The SMP server of a simulated board: what Zephyr's MCUmgr answers, from two MCUboot slots.  Pure.

Responsible for the serial framing ("SMP over console": lines of base64 behind 06 09 or 04 14, with
length and CRC-16/XMODEM) and for the requests that an update needs: image state, upload and erase,
echo, reset, parameters.  Written from the protocol's specification (docs.zephyrproject.org,
"MCU management", SMP protocol, groups 0 and 1) and from what Zephyr's img_mgmt.c and
img_mgmt_state.c accept and refuse; it shares no code with the client, but for the CBOR of `cbor2`,
which comes with the extra `firmware`.

Refuses, as Zephyr does: an upload while an image is pending or on trial, what is too large or has
no MCUboot header, a trial of what is not there.  Like there, an upload that was cut goes on where
it was as long as the board was not reset.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cbor2

from shopfloor.mcuboot import SLOT_BYTES, Flash, look_at

START, GO_ON = b"\x06\x09", b"\x04\x14"
NETBUF_BYTES = 1024
"""As a board configures it that is to be updated quickly; Zephyr's default is 384."""
_LINE_BYTES = 124
_HEADER = struct.Struct(">BBHHBB")  # version and operation, flags, length, group, sequence, command
_LENGTH = struct.Struct(">H")
_MAGIC = (0x96F3B83D).to_bytes(4, "little")
_READ, _WRITE = 0, 2
_OS, _IMAGE = 0, 1
_ECHO, _RESET, _PARAMETERS, _BOOTLOADER = 0, 5, 6, 8
SWAP, OVERWRITE = 1, 2
"""Modes of MCUboot, as the OS group numbers them."""
_STATE, _UPLOAD, _ERASE = 0, 1, 5
_MGMT_EINVAL, _MGMT_ENOTSUP = 3, 8
_NO_FREE_SLOT, _BAD_HEADER, _BAD_MAGIC, _HASH_NOT_FOUND = 9, 22, 23, 8
_ALREADY_PENDING, _TOO_LARGE, _OVERRUN, _TEST_OF_ACTIVE = 28, 30, 31, 33

Body = dict[str, Any]  # CBOR as it came; each use checks what it takes


class Refusal(Exception):  # noqa: N818  an answer, not an error of this program
    """The request is answered with a group's return code."""

    def __init__(self, group: int | None, code: int) -> None:
        super().__init__(group, code)
        self.group, self.code = group, code


def to_lines(message: bytes) -> bytes:
    """A message as it goes over the line."""
    checked = message + _LENGTH.pack(binascii.crc_hqx(message, 0))
    text = base64.b64encode(_LENGTH.pack(len(checked)) + checked)
    pieces = [text[at : at + _LINE_BYTES] for at in range(0, len(text), _LINE_BYTES)]
    starts = [START] + [GO_ON] * (len(pieces) - 1)
    return b"".join(start + piece + b"\n" for start, piece in zip(starts, pieces, strict=True))


class Lines:
    """Finds messages in what arrives; whatever else there is, a shell's words too, is ignored."""

    def __init__(self) -> None:
        self._line = b""
        self._message = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes, give the messages that they complete."""
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[-4 * _LINE_BYTES :]
        for line in lines:
            if message := self._take(line):
                yield message

    def _take(self, line: bytes) -> bytes:
        if (at := line.find(START)) >= 0:
            self._message = b""
        elif (at := line.find(GO_ON)) < 0 or not self._message:
            return b""
        try:
            self._message += base64.b64decode(line[at + len(START) :], validate=True)
        except binascii.Error:
            self._message = b""
            return b""
        if len(self._message) < _LENGTH.size:
            return b""
        (length,) = _LENGTH.unpack_from(self._message)
        checked = self._message[_LENGTH.size :]
        if len(checked) < length:
            return b""
        self._message = b""
        is_right = binascii.crc_hqx(checked[:length], 0) == 0 and length == len(checked)
        return checked[: -_LENGTH.size] if is_right and len(checked) <= NETBUF_BYTES else b""


@dataclass
class Upload:
    """What is being uploaded.

    Attributes:
      size: of the file.
      sha: of the file; empty when the client did not tell.
      data: so far.
    """

    size: int = 0
    sha: bytes = b""
    data: bytearray = field(default_factory=bytearray)


class SmpServer:
    """Answers requests.

    Args:
      flash: the two slots.

    Attributes:
      must_reset: a reset was accepted; whoever runs this does it after the answer is out.
      mode: of the bootloader, as it is told; None: it is not. The flash swaps anyway.
      is_stuck: an upload never gets ahead.
      damages: flash gets a wrong bit at the end of each upload.
      written_bytes: uploaded since the start, repeated ones counted again.
    """

    def __init__(self, flash: Flash) -> None:
        self._flash = flash
        self._upload = Upload()
        self.must_reset = False
        self.mode: int | None = SWAP
        self.is_stuck = False
        self.damages = False
        self.written_bytes = 0
        self._commands: dict[tuple[int, int, int], Callable[[Body], Body]] = {
            (_OS, _ECHO, _WRITE): lambda body: {"r": _taken(body, "d", str)},
            (_OS, _RESET, _WRITE): self._reset,
            (_OS, _PARAMETERS, _READ): lambda _: {"buf_size": NETBUF_BYTES, "buf_count": 4},
            (_OS, _BOOTLOADER, _READ): self._bootloader,
            (_IMAGE, _STATE, _READ): lambda _: self._state(),
            (_IMAGE, _STATE, _WRITE): self._set_state,
            (_IMAGE, _UPLOAD, _WRITE): self._take_chunk,
            (_IMAGE, _ERASE, _WRITE): self._erase,
        }

    def was_reset(self) -> None:
        """What was in RAM is gone."""
        self._upload = Upload()
        self.must_reset = False

    def answer(self, message: bytes) -> bytes | None:
        """The answer to a message; None to what is none."""
        if len(message) < _HEADER.size:
            return None
        first, _, length, group, sequence, command = _HEADER.unpack_from(message)
        version, operation = first >> 3 & 3, first & 7
        if length != len(message) - _HEADER.size or operation not in (_READ, _WRITE):
            return None
        try:
            said = self._carry_out(group, command, operation, _decoded(message[_HEADER.size :]))
        except Refusal as refusal:
            said = _refused(refusal, version)
        body = cbor2.dumps(said)
        head = (version << 3) | (operation + 1)
        return _HEADER.pack(head, 0, len(body), group, sequence, command) + body

    def _carry_out(self, group: int, command: int, operation: int, body: Body) -> Body:
        known = self._commands.get((group, command, operation))
        if known is None:
            raise Refusal(None, _MGMT_ENOTSUP)
        return known(body)

    def _reset(self, _: Body) -> Body:
        self.must_reset = True
        return {}

    def _bootloader(self, body: Body) -> Body:
        if self.mode is None:
            raise Refusal(None, _MGMT_ENOTSUP)
        return {"mode": self.mode} if body.get("query") == "mode" else {"bootloader": "MCUboot"}

    def _state(self) -> Body:
        flash = self._flash
        flags = (
            {"active": True, "confirmed": flash.is_confirmed},
            {
                "pending": flash.is_pending,
                "permanent": flash.is_pending and flash.is_permanent,
                "confirmed": not flash.is_confirmed,
            },
        )
        images = []
        for slot, known in enumerate(flags):
            if image := flash.image(slot):
                place = {"slot": slot, "version": image.version, "hash": image.hash}
                images.append({**place, "bootable": True, **known})
        return {"images": images, "splitStatus": 0}

    def _set_state(self, body: Body) -> Body:
        flash = self._flash
        confirm = _taken(body, "confirm", bool, default=False)
        wanted = _taken(body, "hash", bytes, default=b"")
        hashes = [image.hash if (image := flash.image(slot)) else None for slot in (0, 1)]
        if not wanted and not confirm:
            raise Refusal(_IMAGE, _HASH_NOT_FOUND)
        if wanted and wanted not in hashes:
            raise Refusal(_IMAGE, _HASH_NOT_FOUND)
        if not wanted or wanted == hashes[0]:
            self._confirm(confirm=confirm)
        elif not flash.is_confirmed:
            raise Refusal(_IMAGE, _ALREADY_PENDING)
        else:
            flash.is_pending, flash.is_permanent = True, confirm
        return self._state()

    def _confirm(self, *, confirm: bool) -> None:
        if not confirm:
            raise Refusal(_IMAGE, _TEST_OF_ACTIVE)
        if self._flash.is_pending:
            raise Refusal(_IMAGE, _ALREADY_PENDING)
        self._flash.is_confirmed = True

    def _take_chunk(self, body: Body) -> Body:
        offset, data = _taken(body, "off", int), _taken(body, "data", bytes)
        if self.is_stuck:
            return {"off": 0}
        if offset == 0 and not self._goes_on(body):
            self._begin(body, data)
        upload = self._upload
        if offset != len(upload.data) or not upload.size:
            return {"off": len(upload.data)}
        if offset + len(data) > upload.size:
            raise Refusal(_IMAGE, _OVERRUN)
        upload.data += data
        self.written_bytes += len(data)
        self._flash.slots[1] = bytes(upload.data)
        if len(upload.data) < upload.size:
            return {"off": len(upload.data)}
        return self._finish(upload)

    def _goes_on(self, body: Body) -> bool:
        """Whether a first chunk is of the upload that was cut."""
        upload = self._upload
        is_same = body.get("sha") == upload.sha and body.get("len") == upload.size
        return bool(upload.data) and bool(upload.sha) and is_same

    def _begin(self, body: Body, data: bytes) -> None:
        size = _taken(body, "len", int)
        if len(data) < 32:
            raise Refusal(_IMAGE, _BAD_HEADER)
        if not data.startswith(_MAGIC):
            raise Refusal(_IMAGE, _BAD_MAGIC)
        if not self._flash.may_overwrite:
            raise Refusal(_IMAGE, _NO_FREE_SLOT)
        if size > SLOT_BYTES:
            raise Refusal(_IMAGE, _TOO_LARGE)
        self._upload = Upload(size, _taken(body, "sha", bytes, default=b""))
        self._flash.slots[1] = b""

    def _finish(self, upload: Upload) -> Body:
        stored = bytearray(upload.data)
        if self.damages:
            stored[len(stored) // 2] ^= 0x10
        self._flash.slots[1] = bytes(stored)
        self._upload = Upload()
        said: Body = {"off": upload.size}
        if upload.sha:
            said["match"] = hashlib.sha256(stored).digest() == upload.sha
        return said

    def _erase(self, _: Body) -> Body:
        if look_at(self._flash.slots[1]) and not self._flash.may_overwrite:
            raise Refusal(_IMAGE, _NO_FREE_SLOT)
        self._flash.slots[1] = b""
        self._upload = Upload()
        return {}


def _decoded(body: bytes) -> Body:
    try:
        value = cbor2.loads(body)
    except (cbor2.CBORError, ValueError):
        raise Refusal(None, _MGMT_EINVAL) from None
    if not isinstance(value, dict):
        raise Refusal(None, _MGMT_EINVAL)
    return value


def _taken(body: Body, key: str, kind: type, *, default: object = None) -> Any:  # noqa: ANN401
    """A value of a type; EINVAL where it is missing or another."""
    value = body.get(key, default)
    if not isinstance(value, kind):
        raise Refusal(None, _MGMT_EINVAL)
    return value


def _refused(refusal: Refusal, version: int) -> Body:
    """Version 2 names the group that the code is of; version 1, and the protocol itself, do not."""
    if version and refusal.group is not None:
        return {"err": {"group": refusal.group, "rc": refusal.code}}
    return {"rc": refusal.code}

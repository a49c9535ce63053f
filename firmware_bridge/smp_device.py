"""One device's SMP server on a serial port, through `smpclient` (the extra `firmware`).

Responsible for turning what `smpclient` does into questions with one kind of failure each: a
request gets its answer, is refused by the device (`RefusedError`), or is not answered
(`SilentError`).  The port is opened exclusively and stays open from the first question to the end:
another program can not come in between, and the modem lines, to which many boards have wired their
reset, do not move in the middle of a trial.

What the device says is checked here (`smpclient` validates types with pydantic) and only then used.
"""

import logging
import struct
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import cbor2
from pydantic import ConfigDict
from smp import os_management
from smp.error import ErrorV1, ErrorV2
from smp.exceptions import SMPException
from smp.header import CommandId, GroupId
from smp.image_management import ImageState
from smp.message import ReadResponse
from smpclient import SMPClient
from smpclient.exceptions import SMPClientException, SMPUploadError
from smpclient.generics import SMPRequest, TEr1, TEr2, TRep, success
from smpclient.requests.image_management import ImageStatesRead, ImageStatesWrite
from smpclient.requests.os_management import EchoWrite, ResetWrite
from smpclient.transport import SMPTransportDisconnected
from smpclient.transport.serial import SMPSerialTransport

from firmware_bridge.firmware_slots import RefusedError, SilentError, Slot
from firmware_bridge.port import open_port
from wire.errors import one_line

_OPEN_S: Final = 0.1
"""`smpclient` tries again for so long; once is enough, who holds the port will not give it."""
_WRITE_S: Final = 5.0
"""A port that takes nothing for so long has nobody behind it."""
_ECHO: Final = "journeyman"
_WRONG_BYTES: Final = (
    SMPClientException,
    SMPException,
    cbor2.CBORError,
    struct.error,
    ValueError,
    TypeError,
    AssertionError,
)
"""What the libraries raise for a damaged answer: its lines, header, CBOR or types are wrong."""
_GONE: Final = (SMPTransportDisconnected, OSError, termios.error)
"""What they raise when no answer comes (TimeoutError is an OSError), or the port is lost."""
_CFLAG: Final = 2
_ADVICE: Final = {
    "NO_FREE_SLOT": "an image waits for its trial, or is on trial: `firmware list` shows which",
    "INVALID_IMAGE_TOO_LARGE": "the image is larger than the device's slot",
    "CURRENT_VERSION_IS_NEWER": "the device takes newer versions only",
    "HASH_NOT_FOUND": "no slot holds that image",
    "NO_IMAGE": "no slot holds that image",
    "IMAGE_ALREADY_PENDING": "an image waits for its trial: reset the device first",
    "ENOTSUP": "its firmware was built without this; Zephyr: CONFIG_MCUMGR_GRP_IMG, _GRP_OS",
    "EACCESSDENIED": "its application does not allow it",
}
_MOST_STUCK: Final = 16
"""Answers in a row to an upload that do not get ahead."""
_NO_REVERT: Final = {
    0: "a single slot",
    2: "overwriting",
    4: "direct execution without revert",
    6: "loading to RAM",
}
"""MCUboot's modes, by the numbers of Zephyr's OS group, that can not bring an image back."""


class _Mode(ReadResponse):
    """The answer to the query "mode"; what smp 4.2 expects is not what Zephyr sends (os_mgmt.c)."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    _GROUP_ID = GroupId.OS_MANAGEMENT
    _COMMAND_ID = CommandId.OSManagement.BOOTLOADER_INFO

    mode: int


class _ModeRead(os_management.BootloaderInformationReadRequest):
    _Response = _Mode
    _ErrorV1 = os_management.OSManagementErrorV1
    _ErrorV2 = os_management.OSManagementErrorV2


class _Transport(SMPSerialTransport):
    """`smpclient`'s, that can forget late answers without closing the port."""

    async def connect(self, address: str, timeout_s: float) -> None:
        """Open the port, and leave DTR as it is when it is closed: it may reset the board."""
        await super().connect(address, timeout_s)
        attributes = termios.tcgetattr(self._conn.fileno())
        attributes[_CFLAG] &= ~termios.HUPCL
        termios.tcsetattr(self._conn.fileno(), termios.TCSANOW, attributes)

    def forget(self) -> None:
        """Drop what has arrived, and what was not sent."""
        self._conn.reset_input_buffer()
        self._conn.reset_output_buffer()
        self._reset_state()


class SmpDevice:
    """A device; made by `open_device`.

    Args:
      port: path.
      baudrate: of the line.
      request_s: how long an answer may take.
      erase_s: and the first of an upload: a slot may be erased before it.
    """

    def __init__(self, port: str, baudrate: int, request_s: float, erase_s: float) -> None:
        self.port, self.baudrate = port, baudrate
        self._request_s, self._erase_s = request_s, erase_s
        self._transport = _Transport(
            baudrate=baudrate, exclusive=True, write_timeout=_WRITE_S, timeout=0
        )
        self._client = SMPClient(self._transport, port, request_s)
        self._is_open = False

    @property
    def request_bytes(self) -> int:
        """The largest request that the device takes; an upload goes in pieces below it."""
        return self._transport.max_unencoded_size

    async def open(self) -> None:
        """Open the port, and ask how long a request may be.

        Raises:
          PortError: it can not be opened; says why and what to do.
          SilentError: it was open, and is gone.
        """
        if self._is_open:
            return
        try:
            await self._client.connect(_OPEN_S)
        except TimeoutError:
            # smpclient keeps the reason to itself; opening it our way tells.
            (await open_port(self.port, self.baudrate, lambda _: None, lambda _: None)).close()
            raise SilentError(f"{self.port} could not be opened just now") from None
        except (*_GONE, *_WRONG_BYTES) as problem:
            await self.close()
            raise SilentError(_words(problem)) from None
        self._is_open = True

    async def close(self) -> None:
        """Give the port back."""
        self._is_open = False
        await self._client.disconnect()

    async def slots(self) -> tuple[Slot, ...]:
        """What the device has, in its order.

        Raises:
          PortError, SilentError, RefusedError: see there.
        """
        return _slots((await self._ask(ImageStatesRead())).images)

    async def require_revert(self) -> None:
        """Have the bootloader say how it works, if it can; raises as `slots`.

        Raises:
          RefusedError: its way of updating can not bring back what ran before.
        """
        try:
            mode = (await self._ask(_ModeRead(query="mode"))).mode
        except RefusedError:
            return  # optional in Zephyr: CONFIG_MCUMGR_GRP_OS_BOOTLOADER_INFO
        if mode in _NO_REVERT:
            raise RefusedError(
                f"its MCUboot works by {_NO_REVERT[mode]} and can not revert a trial; "
                "build it for swapping"
            )

    async def try_next(self, image_hash: bytes) -> tuple[Slot, ...]:
        """Have an image tried at the next reset; raises as `slots`."""
        return _slots((await self._ask(ImageStatesWrite(hash=image_hash))).images)

    async def confirm(self) -> tuple[Slot, ...]:
        """Have what runs now stay; raises as `slots`."""
        return _slots((await self._ask(ImageStatesWrite(confirm=True))).images)

    async def reset(self) -> None:
        """Have the device reset; it does a little later; raises as `slots`."""
        await self._ask(ResetWrite())

    async def echo(self) -> None:
        """Have a word sent back; raises as `slots`."""
        if (await self._ask(EchoWrite(d=_ECHO))).r != _ECHO:
            raise SilentError("the device echoes something else than it was sent")

    async def upload(self, data: bytes, image: int, told: Callable[[int], None]) -> None:
        """Send an image file; the device goes on where an upload of the same file was cut.

        Args:
          data: the file.
          image: number of the image; 0 on a device with one.
          told: called with how many bytes the device has.

        Raises:
          PortError, SilentError: as `slots`; call it again to go on.
          RefusedError: as `slots`, or what the device has is another file in the end.
        """
        await self.open()
        best = stuck = 0
        try:
            async for offset in self._client.upload(
                data,
                slot=image,
                first_timeout_s=self._erase_s,
                subsequent_timeout_s=self._request_s,
            ):
                stuck = 0 if offset > best else stuck + 1
                if offset > len(data) or stuck > _MOST_STUCK:
                    raise RefusedError(f"the device does not get ahead in the upload ({offset})")
                best = offset
                told(offset)
        except SMPUploadError as problem:
            raise RefusedError(_refusal_of(problem)) from None
        except (*_GONE, *_WRONG_BYTES) as problem:
            await self._after(problem)
            raise SilentError(_words(problem)) from None

    async def _ask(self, request: SMPRequest[TRep, TEr1, TEr2]) -> TRep:
        await self.open()
        try:
            answer = await self._client.request(request)
        except (*_GONE, *_WRONG_BYTES) as problem:
            await self._after(problem)
            raise SilentError(_words(problem)) from None
        if success(answer):
            return answer
        raise RefusedError(_refusal(answer))

    async def _after(self, problem: Exception) -> None:
        """Make the next question's answer the next that comes."""
        is_lost = isinstance(problem, _GONE) and not isinstance(problem, TimeoutError)
        try:
            if not is_lost:
                self._transport.forget()
        except _GONE:
            is_lost = True
        if is_lost:
            await self.close()


@asynccontextmanager
async def open_device(
    port: str, baudrate: int, request_s: float, erase_s: float
) -> AsyncIterator[SmpDevice]:
    """A device, until the end of the block; arguments as `SmpDevice`'s.

    The first question opens its port.
    """
    # Its complaints are in the errors that are raised here.
    for library in ("smp", "smpclient"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    device = SmpDevice(port, baudrate, request_s, erase_s)
    try:
        yield device
    finally:
        await device.close()


def _words(problem: Exception) -> str:
    """Why there is no answer, for people."""
    if isinstance(problem, TimeoutError):
        return "the device does not answer"
    if isinstance(problem, _GONE):
        return one_line(f"the port was lost ({problem})")
    first_line = str(problem).strip().partition("\n")[0]
    return one_line(f"the answer is damaged ({type(problem).__name__}: {first_line})")


def _refusal_of(problem: SMPUploadError) -> str:
    answer = problem.args[0] if problem.args else ""
    if isinstance(answer, ErrorV1 | ErrorV2):
        return _refusal(answer)
    return "what it has stored is not what was sent (its check of the upload's SHA-256 failed)"


def _refusal(answer: object) -> str:
    """What the device's return code says."""
    if isinstance(answer, ErrorV2):
        name = answer.err.rc.name
    elif isinstance(answer, ErrorV1):
        name = answer.rc.name
    else:
        return one_line(f"the device refuses: {answer}")
    advice = f"; {_ADVICE[name]}" if name in _ADVICE else ""
    return f"the device refuses: {name}{advice}"


def _slots(images: list[ImageState]) -> tuple[Slot, ...]:
    return tuple(
        Slot(
            each.image or 0,
            each.slot,
            one_line(each.version),
            bytes(each.hash or b""),
            bool(each.active),
            bool(each.confirmed),
            bool(each.pending),
        )
        for each in images
    )

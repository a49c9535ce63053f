"""Updates a device's firmware so that it always ends with one that was seen to work.

    upload ─► try at the next reset ─► reset ─► runs it? ─► healthy? ─► confirm
                                                  └─ no ─────┴─ no ──► reset: MCUboot reverts

Responsible for the order of the steps and for what each answer means.  What runs is decided by the
hashes that the device tells, never by time: after an accepted reset the old firmware goes on
answering for a while, and still shows the image as pending.  Nothing is confirmed that has not been
seen to run; so wherever this stops, by a cut link or a lost gateway, the next reset brings the
old firmware back, and the same command again goes on where it stopped.

Refuses: to begin while another image is on trial or waits for its trial.
MCUboot's design document, "Image swapping"; the SMP specification, image management group.
"""

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from firmware_bridge.firmware_slots import (
    Outcome,
    Patience,
    Plan,
    RefusedError,
    SilentError,
    Slot,
    plan_update,
    running,
)
from firmware_bridge.mcuboot_image import McubootImage
from firmware_bridge.port import PortError
from firmware_bridge.smp_device import SmpDevice

Answer = TypeVar("Answer")
Say = Callable[[str], None]
Healthy = Callable[[], Awaitable[bool]]

_LOOK_EVERY_S: Final = 0.2
_SHOWN_HASH: Final = 16
_BASE64, _BITS_A_BYTE = 4 / 3, 10


class Boot(enum.Enum):
    """What runs after a reset."""

    RUNS = "runs"
    BACK = "back"
    """Another image runs, and the wanted one does not wait for its trial any more."""
    WAITS = "waits"
    """It still waits for its trial: there was no reset."""
    SILENT = "silent"


class Updater:
    """The steps, on one device.

    Args:
      device: open.
      number: of the image on it; 0 on a device with one.
      patience: see there.
      say: gets a line for people at each step.
    """

    def __init__(self, device: SmpDevice, number: int, patience: Patience, say: Say) -> None:
        self._device, self._number = device, number
        self._patience, self._say = patience, say

    async def ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask again while there is no answer.

        Raises:
          SilentError: none came.
          RefusedError, PortError: see there.
        """
        for _ in range(self._patience.tries - 1):
            try:
                return await question()
            except SilentError:
                await asyncio.sleep(0)
        return await question()

    async def update(self, image: McubootImage, healthy: Healthy) -> Outcome:
        """Bring an image on the device and have it stay if it works; raises as `ask`."""
        await self.require_revert()
        slots = await self.ask(self._device.slots)
        before = running(slots, self._number)
        plan = plan_update(slots, self._number, image.hash)
        self._say(f"the device runs version {before.version}, {self.plan_words(image, plan)}")
        if plan.is_done:
            return Outcome.DONE
        if plan.uploads:
            await self.upload(image)
        if plan.tries:
            outcome = await self.try_image(image.hash)
            if outcome is not Outcome.DONE:
                return outcome
        return await self.keep_or_revert(image.hash, healthy)

    async def require_revert(self) -> None:
        """Refuse a bootloader that can not revert; raises as `ask`."""
        await self.ask(self._device.require_revert)

    def plan_words(self, image: McubootImage, plan: Plan) -> str:
        """What `update` is going to do."""
        if plan.is_done:
            return "which is this image, confirmed: there is nothing to do"
        if not plan.tries:
            return "which is this image, on trial; it is checked and confirmed, or reverted"
        seconds = len(image.data) * _BASE64 * _BITS_A_BYTE / self._device.baudrate
        first = (
            f"upload {len(image.data):,} bytes (at least {seconds:.0f} s on a serial line)"
            if plan.uploads
            else "it has the image already"
        )
        return f"and gets {image.version}: {first}, reset into it, check it, confirm or revert"

    async def upload(self, image: McubootImage) -> None:
        """Send an image; goes on where a cut upload stopped.

        Raises:
          SilentError: the link is cut for longer.
          RefusedError: the device does not take it, or stored something else.
          PortError: see there.
        """
        progress = _Progress(len(image.data), self._device.request_bytes, self._say)
        while True:
            had = progress.has
            try:
                await self._device.upload(image.data, self._number, progress.told)
                break
            except SilentError as problem:
                self._say(f"upload interrupted ({problem}); asking the device again")
                if progress.has == had:
                    progress.failed += 1
                if progress.failed >= self._patience.tries:
                    raise SilentError(progress.words_of_cut(str(problem))) from None
                await self._find_again(progress)
        slots = await self.ask(self._device.slots)
        if all(each.hash != image.hash for each in slots if each.image == self._number):
            raise RefusedError("the image is uploaded, and the device does not show it in a slot")

    async def _find_again(self, progress: "_Progress") -> None:
        # An upload's first answer may take as long as erasing flash; an echo does not.
        try:
            await self.ask(self._device.echo)
        except SilentError as problem:
            raise SilentError(progress.words_of_cut(str(problem))) from None

    async def try_image(self, wanted: bytes) -> Outcome:
        """Mark an image, reset the device and see what runs; DONE: that image does.

        Raises:
          SilentError, RefusedError, PortError: before the reset.
        """
        slots = await self.ask(self._device.slots)
        if not any(each.is_pending and each.hash == wanted for each in slots):
            await self.ask(lambda: self._device.try_next(wanted))
        self._say(f"image {wanted.hex()[:_SHOWN_HASH]} is marked for a trial; resetting the device")
        await self._reset()
        match await self._boot(wanted):
            case Boot.RUNS:
                self._say("the device is back and runs it, on trial")
                return Outcome.DONE
            case Boot.BACK:
                self._say(
                    "FAILED: the device is back with the firmware that it had; its bootloader "
                    "refused the image (signature?), or the new firmware crashed"
                )
                return Outcome.UNCHANGED
            case Boot.WAITS:
                self._say("UNKNOWN: the device answers and was not reset; reset it by hand")
            case Boot.SILENT:
                self._say(
                    f"UNKNOWN: the device does not answer {self._patience.boot_s:.0f} s after its "
                    "reset; cut its power for a moment: MCUboot then starts the firmware before"
                )
        return Outcome.UNKNOWN

    async def keep_or_revert(self, wanted: bytes, healthy: Healthy) -> Outcome:
        """Confirm what runs on trial if it is healthy; else bring back what ran before."""
        if not await self._is_healthy(wanted, healthy):
            return await self.revert_trial(wanted, "it is not healthy")
        try:
            return await self.confirm(wanted)
        except RefusedError as refusal:
            return await self.revert_trial(wanted, str(refusal))
        except SilentError as silence:
            self._say(f"UNKNOWN: healthy, and not seen confirmed ({silence}); `firmware list`")
            return Outcome.UNKNOWN

    async def _is_healthy(self, wanted: bytes, healthy: Healthy) -> bool:
        clock = asyncio.get_running_loop().time
        end_s = clock() + self._patience.healthy_s
        while True:
            try:
                await self._device.echo()
                slots = await self._device.slots()
                if running(slots, self._number).hash != wanted:
                    self._say("the device runs another image again")
                    return False
                if await healthy():
                    return True
            except (SilentError, RefusedError, PortError) as problem:
                self._say(f"not healthy yet: {problem}")
            if clock() >= end_s:
                return False
            await asyncio.sleep(_LOOK_EVERY_S)

    async def confirm(self, wanted: bytes = b"") -> Outcome:
        """Have what runs stay; raises as `ask`.

        Args:
          wanted: the image that is to run; empty for any.  It is not sent: MCUboot would take the
            confirmation of an image that does not run any more for an order to start it for good.
        """
        await self.ask(self._device.confirm)
        active = running(await self.ask(self._device.slots), self._number)
        if wanted and active.hash != wanted:
            self._say(f"FAILED: the device has gone back to version {active.version} by itself")
            return Outcome.UNCHANGED
        if not active.is_confirmed:
            raise RefusedError("the device took the confirmation, and does not show it")
        self._say(f"DONE: version {active.version} is confirmed and stays")
        return Outcome.DONE

    async def revert_trial(self, unwanted: bytes, reason: str) -> Outcome:
        """Reset a device that has something on trial, so that MCUboot reverts; see that it did."""
        self._say(f"FAILED: {reason}; resetting the device, so that MCUboot reverts")
        try:
            await self._undo_confirmation(unwanted)
            await self._reset()
            after = await self._other_than(unwanted)
            if after is not None and not after.is_confirmed:
                await self.confirm()
        except (SilentError, RefusedError, PortError) as problem:
            self._say(f"reverting did not go through: {problem}")
            after = None
        if after is None:
            self._say(
                "UNKNOWN: the device was not seen with the firmware before; cut its power for a "
                "moment, then look with `firmware list`"
            )
            return Outcome.UNKNOWN
        self._say(f"REVERTED: the device runs version {after.version}, as before")
        return Outcome.UNCHANGED

    async def _undo_confirmation(self, unwanted: bytes) -> None:
        """For firmware that confirms itself: have the other image run, for good, again."""
        slots = await self.ask(self._device.slots)
        active = running(slots, self._number)
        if active.hash != unwanted or not active.is_confirmed:
            return
        self._say("it has confirmed itself, which is the updater's to do; marking the one before")
        others = [each for each in slots if each.image == self._number and not each.is_active]
        if not others:
            raise RefusedError("the device has no other image")
        await self.ask(lambda: self._device.try_next(others[0].hash))

    async def _reset(self) -> None:
        """Ask for a reset; it may come before its answer is out, so that silence is no refusal."""
        try:
            await self._device.reset()
        except SilentError:
            self._say("no answer to the reset; looking what runs")

    async def _boot(self, wanted: bytes) -> Boot:
        """Wait for a device that was reset."""
        clock = asyncio.get_running_loop().time
        end_s = clock() + self._patience.boot_s
        last = Boot.SILENT
        while clock() < end_s:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                slots = await self._device.slots()
                active = running(slots, self._number)
            except (SilentError, RefusedError, PortError):
                continue  # it boots; a USB device's port is away meanwhile
            if active.hash == wanted:
                return Boot.RUNS
            if not any(each.is_pending and each.hash == wanted for each in slots):
                return Boot.BACK
            last = Boot.WAITS
        return last

    async def _other_than(self, unwanted: bytes) -> Slot | None:
        """What runs once it is not that image; None when it stays so long."""
        clock = asyncio.get_running_loop().time
        end_s = clock() + self._patience.boot_s
        while clock() < end_s:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                active = running(await self._device.slots(), self._number)
            except (SilentError, RefusedError, PortError):
                continue
            if active.hash != unwanted:
                return active
        return None


class _Progress:
    """Says each tenth of an upload, and whether it goes on where another stopped.

    Args:
      size: of the file, in bytes.
      piece: what one request carries at most.
      say: gets the lines.
    """

    def __init__(self, size: int, piece: int, say: Say) -> None:
        self.has, self.failed = 0, 0
        self._size, self._piece, self._say, self._tenth = size, piece, say, 0

    def told(self, offset: int) -> None:
        """The device has so many bytes."""
        if not self.has and offset > self._piece:
            self._say(f"the device has {offset:,} bytes of it already; going on from there")
        if offset > self.has:
            self.has, self.failed = offset, 0
        if (tenth := 10 * offset // self._size) > self._tenth:
            self._tenth = tenth
            self._say(f"uploaded {offset:,} of {self._size:,} bytes ({10 * tenth} %)")

    def words_of_cut(self, reason: str) -> str:
        """What is to be known about an upload that stopped."""
        return (
            f"upload cut at {self.has:,} of {self._size:,} bytes ({reason}); the device runs what "
            "it ran. The same command again goes on from there, if the device is not reset"
        )

"""What each action of `journeyman-bridge firmware` does with a device."""

import string
from dataclasses import dataclass
from typing import Final

from firmware_bridge.firmware_health import connected_device
from firmware_bridge.firmware_slots import (
    Outcome,
    Patience,
    RefusedError,
    SilentError,
    Slot,
    plan_update,
    running,
    slot_lines,
)
from firmware_bridge.firmware_update import Say, Updater
from firmware_bridge.mcuboot_image import McubootImage
from firmware_bridge.port import PortError
from firmware_bridge.smp_device import SmpDevice, open_device
from wire.errors import one_line

_SHORTEST_HASH: Final = 8
_BRIDGE_S: Final = 3.0
"""For one CONNECT and its repetitions; whoever asks does so again."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which device, and how.

    Attributes:
      port: path.
      baudrate: of the line.
      number: of the image; 0 on a device with one.
      boot_s: how long a reset may take.
      healthy_s: how long new firmware may take to be healthy.
      bridge_port: where it must answer the bridge; None where it need not.
      hash: hexadecimal, of the image to test, or how it begins.
      is_dry: only say what would be done.
    """

    port: str
    baudrate: int
    number: int
    boot_s: float
    healthy_s: float
    bridge_port: str | None
    hash: str
    is_dry: bool


async def carry_out(action: str, target: Target, image: McubootImage | None, say: Say) -> int:
    """Carry out one action; return its `Outcome`.

    Raises:
      PortError: the port can not be opened; says why and what to do.
    """
    patience = Patience(boot_s=target.boot_s, healthy_s=target.healthy_s)
    try:
        async with open_device(
            target.port, target.baudrate, patience.request_s, patience.erase_s
        ) as device:
            job = _Job(device, target, Updater(device, target.number, patience, say), say)
            slots = await job.look()
            return await job.act(action, image, slots)
    except (SilentError, RefusedError) as problem:
        say(f"STOPPED: {problem}")
        return Outcome.UNCHANGED


class _Job:
    """One action on one device."""

    def __init__(self, device: SmpDevice, target: Target, updater: Updater, say: Say) -> None:
        self._device, self._target = device, target
        self._updater, self._say = updater, say

    async def look(self) -> tuple[Slot, ...]:
        """What the device has; raises as `Updater.ask`."""
        return await self._updater.ask(self._device.slots)

    async def act(
        self, action: str, image: McubootImage | None, slots: tuple[Slot, ...]
    ) -> Outcome:
        """Carry it out; raises as `Updater.ask`, but for PortError."""
        try:
            return await self._act(action, image, slots)
        except PortError as problem:
            self._say(f"UNKNOWN: the port was lost on the way ({problem}); `firmware list`")
            return Outcome.UNKNOWN

    async def _act(
        self, action: str, image: McubootImage | None, slots: tuple[Slot, ...]
    ) -> Outcome:
        match action:
            case "list":
                self._say("\n".join(slot_lines(slots)) or "the device has no image")
                return Outcome.DONE
            case "test":
                return await self._test(slots)
            case "confirm":
                return await self._updater.confirm()
            case "revert":
                return await self._revert(slots)
        if image is None:
            raise RefusedError(f"{action} needs an image")
        if action == "upload":
            await self._upload(slots, image)
            return Outcome.DONE
        return await self._update(slots, image)

    async def _update(self, slots: tuple[Slot, ...], image: McubootImage) -> Outcome:
        if self._target.is_dry:
            await self._updater.require_revert()
            plan = plan_update(slots, self._target.number, image.hash)
            active = running(slots, self._target.number)
            words = self._updater.plan_words(image, plan)
            self._say(f"the device runs version {active.version}, {words}")
            self._say("nothing was done (--dry-run)")
            return Outcome.DONE
        return await self._updater.update(image, self._is_healthy)

    async def _upload(self, slots: tuple[Slot, ...], image: McubootImage) -> None:
        if plan_update(slots, self._target.number, image.hash).uploads:
            await self._updater.upload(image)
        self._say(f"DONE: the device has it; `firmware test` with {image.hash.hex()[:16]} tries it")

    async def _test(self, slots: tuple[Slot, ...]) -> Outcome:
        wanted = _find(slots, self._target.number, self._target.hash)
        plan = plan_update(slots, self._target.number, wanted.hash)
        await self._updater.require_revert()
        outcome = await self._updater.try_image(wanted.hash) if plan.tries else Outcome.DONE
        if outcome is Outcome.DONE:
            self._say("DONE: it runs until the next reset; `firmware confirm` has it stay")
        return outcome

    async def _revert(self, slots: tuple[Slot, ...]) -> Outcome:
        number = self._target.number
        active = running(slots, number)
        if not active.is_confirmed:
            outcome = await self._updater.revert_trial(active.hash, f"{active.version} is unwanted")
            return Outcome.DONE if outcome is Outcome.UNCHANGED else outcome
        others = [each for each in slots if each.image == number and not each.is_active]
        if not others or not others[0].hash:
            raise RefusedError(f"version {active.version} is confirmed, and there is no other")
        previous = others[0].hash
        plan_update(slots, number, previous)
        self._say(f"version {active.version} is confirmed; trying the other, {others[0].version}")
        outcome = await self._updater.try_image(previous)
        if outcome is not Outcome.DONE:
            return outcome
        return await self._updater.keep_or_revert(previous, self._is_healthy)

    async def _is_healthy(self) -> bool:
        """The echo was answered; the bridge's protocol too, where that is asked for."""
        port = self._target.bridge_port
        if port is None:
            return True
        if port == self._target.port:
            await self._device.close()  # opened again with the next question
        within_s = min(_BRIDGE_S, self._target.healthy_s)
        known = await connected_device(port, self._target.baudrate, within_s)
        if known is None:
            self._say(f"not healthy yet: no answer to the bridge's CONNECT on {port}")
            return False
        self._say(f"it answers the bridge: firmware {one_line(known.firmware)!r}")
        return True


def _find(slots: tuple[Slot, ...], number: int, digits: str) -> Slot:
    """The image that a hash means.

    Raises:
      RefusedError: none or several, or it is no hash.
    """
    text = digits.lower()
    if len(text) < _SHORTEST_HASH or set(text) - set(string.hexdigits):
        raise RefusedError(f"a hash is at least {_SHORTEST_HASH} hexadecimal digits of it")
    found = [each for each in slots if each.image == number and each.hash.hex().startswith(text)]
    if len(found) != 1:
        raise RefusedError(f"{len(found)} images of the device have that hash; `firmware list`")
    return found[0]

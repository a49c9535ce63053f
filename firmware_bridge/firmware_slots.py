"""What a device has in its firmware slots, and what an update has left to do with them.  Pure."""

import enum
from dataclasses import dataclass


class SilentError(Exception):
    """No answer, or none that can be read; asking again may help."""


class RefusedError(Exception):
    """The device answered, and does not do it; asking again does not help."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An image that the device has.

    Attributes:
      image: 0, or the number of another core's image.
      slot: 0 or 1.
      version: as the device writes it, printable.
      hash: MCUboot's; empty where the device does not tell.
      is_active: it runs.
      is_confirmed: it runs after a reset too, or would come back.
      is_pending: it is tried at the next reset.
    """

    image: int
    slot: int
    version: str
    hash: bytes
    is_active: bool
    is_confirmed: bool
    is_pending: bool


class Outcome(enum.IntEnum):
    """How a command ended; its exit status."""

    DONE = 0
    UNCHANGED = 1
    """The device runs what it ran before."""
    REFUSED = 2
    """Nothing was sent that could change the device."""
    UNKNOWN = 3
    """The device has to be looked at; the last line says how."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited.

    Attributes:
      request_s: for an answer.
      erase_s: for the first answer of an upload.
      tries: how often a question is asked that is not answered.
      boot_s: for a device that was reset, a swap of its slots included.
      healthy_s: for a firmware that runs to be healthy.
    """

    request_s: float = 2.5
    erase_s: float = 40.0
    tries: int = 5
    boot_s: float = 90.0
    healthy_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left to do for an update.

    Attributes:
      uploads: the image has to be sent.
      tries: it has to be marked, and the device reset.
      is_done: it runs already, confirmed.
    """

    uploads: bool = True
    tries: bool = True
    is_done: bool = False


def running(slots: tuple[Slot, ...], image: int) -> Slot:
    """The image that runs.

    Raises:
      RefusedError: the device does not say.
    """
    for each in slots:
        if each.image == image and each.is_active and each.hash:
            return each
    raise RefusedError("the device does not say what it runs; it may be in its bootloader")


def plan_update(slots: tuple[Slot, ...], number: int, wanted: bytes) -> Plan:
    """What is left to do.  Pure.

    Args:
      slots: what the device has.
      number: of the image.
      wanted: hash.

    Raises:
      RefusedError: another image is on trial, or waits for its trial.
    """
    active = running(slots, number)
    if active.hash == wanted:
        return Plan(uploads=False, tries=False, is_done=active.is_confirmed)
    if not active.is_confirmed:
        raise RefusedError(
            f"version {active.version} is on trial on the device: "
            "`firmware confirm` or `firmware revert` first"
        )
    others = [each for each in slots if each.image == number and not each.is_active]
    for other in others:
        if other.is_pending and other.hash != wanted:
            raise RefusedError(
                f"version {other.version} waits for its trial on the device: reset the device, "
                "then `firmware confirm` or `firmware revert`"
            )
    return Plan(uploads=all(other.hash != wanted for other in others))


def slot_lines(slots: tuple[Slot, ...]) -> list[str]:
    """A line for each image, for people."""
    lines = []
    for each in slots:
        words = {"runs": each.is_active, "confirmed": each.is_confirmed}
        words |= {"on trial": each.is_active and not each.is_confirmed}
        words |= {"tried at the next reset": each.is_pending}
        said = ", ".join(word for word, holds in words.items() if holds) or "at rest"
        lines.append(
            f"image {each.image} slot {each.slot}: version {each.version}, {said}\n"
            f"    hash {each.hash.hex() or 'not told'}"
        )
    return lines

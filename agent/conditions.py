"""What feeds the gateway and how hot it is, from Linux's sysfs; both decide who trains.

Read are `class/power_supply/*` (kernel: Documentation/ABI/testing/sysfs-class-power) and
`class/thermal/thermal_zone*` (sysfs-class-thermal).  Files of this kind are written by drivers of
any quality, so whatever is missing, unreadable or beyond belief counts as not told, and no reading
is an error.  Seen in the field, and behaved for:

- A Raspberry Pi and most gateways have no supply at all; a desktop has only the USB-C outlet of
  its graphics card, offline (systemd issue 21988).  Without a battery it is mains.
- Laptops on a USB-C charger that the kernel does not know have no supply online, and a battery
  that does not discharge (laptop-mode-tools issue 191).
- A USB outlet may say `online` for ever while the battery runs empty (AsahiLinux issue 626).
- Batteries of mice and pens have `scope` "Device" (rust-battery issue 18).
- The gauge of many UPS boards, MAX17040, tells a charge and the status "Unknown"
  (drivers/power/supply/max17040_battery.c); and a charge that may be above 100.
- A Jetson's zone "PMIC-Die" always says 100 degrees (balena-jetson issue 142), a zone without
  power -256 (jetson_stats_node_exporter issue 29), an early Raspberry Pi -650788984 millidegrees
  (raspberrypi/firmware issue 133); Allwinner's kernel says degrees where the ABI wants
  millidegrees (build-pine64-image issue 21); elsewhere reading ends with EINVAL (linux-sunxi 288).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

SYS = Path("/sys")

_MAX_BYTES = 4096
"""One page, which is the most that an attribute of sysfs has."""
_MAX_ENTRIES = 256
_BATTERIES = ("battery", "ups")
_CHARGES = {"critical": 0.05, "low": 0.2, "normal": 0.5, "high": 0.8, "full": 1.0}
"""Of `capacity_level`, where a driver has no percentage."""
_PLAUSIBLE_C = (-60.0, 150.0)
_CONSTANT_ZONES = ("pmic-die", "pmic")


@dataclass(frozen=True)
class Conditions:
    """What a training would be paid from; fields as in `wire/messages.py`, Readiness."""

    power: Literal["mains", "battery"] = "mains"
    battery: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True)
class _Supply:
    """One power supply of the whole machine; words in lower case, empty when not told.

    Attributes:
      kind: "mains", "usb", "usb_pd", "wireless", "battery", "ups" and more.
      status: of a battery: "charging", "discharging", "not charging", "full", "unknown".
      charge: of a battery, in [0, 1].
    """

    kind: str
    status: str
    is_online: bool
    charge: float | None

    @property
    def is_battery(self) -> bool:
        return self.kind in _BATTERIES


def read_conditions(root: Path = SYS) -> Conditions:
    """Read what the kernel tells now; some drivers take milliseconds to answer.

    Args:
      root: where sysfs is mounted.
    """
    found = (_supply(entry) for entry in _entries(root / "class" / "power_supply", "*"))
    supplies = [supply for supply in found if supply is not None]
    if not _is_on_battery(supplies):
        return Conditions("mains", None, hottest_c(root))
    charges = [supply.charge for supply in supplies if supply.charge is not None]
    return Conditions("battery", sum(charges) / len(charges) if charges else None, hottest_c(root))


def hottest_c(root: Path = SYS) -> float | None:
    """Degrees Celsius of the hottest thermal zone; None when none tells.

    Args:
      root: where sysfs is mounted.
    """
    zones = _entries(root / "class" / "thermal", "thermal_zone*")
    return max((zone_c for zone in zones if (zone_c := _zone_c(zone)) is not None), default=None)


def _is_on_battery(supplies: list[_Supply]) -> bool:
    """Whether a battery is being emptied, as far as the supplies tell.

    When nothing tells, it is: to be wrong in this way costs an agent turns while its charge is low,
    to be wrong in the other empties it.
    """
    statuses = {supply.status for supply in supplies if supply.is_battery}
    online = {supply.kind for supply in supplies if supply.is_online and not supply.is_battery}
    if not statuses or online & {"mains", "wireless"}:
        return False
    if "discharging" in statuses:
        return True
    return not (online or statuses & {"charging", "full", "not charging"})


def _supply(entry: Path) -> _Supply | None:
    """What one folder tells; None for another device's battery and for an empty bay."""
    kind = text_of(entry / "type")
    if text_of(entry / "scope") == "device" or text_of(entry / "present") == "0":
        return None
    return _Supply(
        kind=kind,
        status=text_of(entry / "status"),
        is_online=number_of(entry / "online") in (1, 2),
        charge=_charge(entry) if kind in _BATTERIES else None,
    )


def _charge(entry: Path) -> float | None:
    percent = number_of(entry / "capacity")
    if percent is not None and 0 <= percent <= 120:
        return min(percent / 100, 1.0)
    return _CHARGES.get(text_of(entry / "capacity_level"))


def _zone_c(zone: Path) -> float | None:
    """A thermal zone's temperature in degrees Celsius; None when it can not be one."""
    reading = number_of(zone / "temp")
    if reading is None or text_of(zone / "type") in _CONSTANT_ZONES:
        return None
    # Nothing that computes has between .001 and .15 degrees: these are whole ones.
    degrees = float(reading) if 0 < reading <= _PLAUSIBLE_C[1] else reading / 1000
    return degrees if _PLAUSIBLE_C[0] <= degrees <= _PLAUSIBLE_C[1] else None


def _entries(folder: Path, pattern: str) -> Iterator[Path]:
    return islice(folder.glob(pattern), _MAX_ENTRIES)


def text_of(path: Path) -> str:
    """An attribute in lower case; empty when it is not there or its driver gives an error."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("ascii", errors="replace").strip().lower()
    except OSError:
        return ""


def number_of(path: Path) -> int | None:
    """An attribute that is an integer; None when it is not."""
    text = text_of(path)
    digits = text.removeprefix("-")
    if not digits.isdecimal() or not digits.isascii() or len(digits) > 12:
        return None
    return int(text)

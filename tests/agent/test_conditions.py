"""What the gateway runs on, from sysfs trees in the shapes of real machines.

Values are of the kinds that Documentation/ABI/testing/sysfs-class-power and sysfs-class-thermal of
the kernel allow, and of those that drivers give all the same.
"""

from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.conditions import Conditions, read_conditions
from wire.messages import Readiness

CHARGER = {"type": "Mains", "online": "1"}
UNPLUGGED = {"type": "Mains", "online": "0"}
BATTERY = {"type": "Battery", "present": "1", "capacity": "81", "status": "Discharging"}
MOUSE = {"type": "Battery", "scope": "Device", "capacity": "3", "status": "Discharging"}


def sysfs(
    root: Path, supplies: dict[str, dict[str, str]], zones: list[tuple[str, str]] | None = None
) -> Path:
    """A tree with these attributes; each is a line, as the kernel writes it."""
    folders = {f"power_supply/{name}": attributes for name, attributes in supplies.items()}
    for number, (kind, temp) in enumerate(zones or []):
        folders[f"thermal/thermal_zone{number}"] = {"type": kind, "temp": temp}
    for folder, attributes in folders.items():
        path = root / "class" / folder
        path.mkdir(parents=True)
        for name, value in attributes.items():
            (path / name).write_text(f"{value}\n")
    return root


def test_a_raspberry_pi_has_no_supply_and_one_zone(tmp_path: Path) -> None:
    root = sysfs(tmp_path, {}, [("cpu-thermal", "48312")])
    assert read_conditions(root) == Conditions("mains", None, 48.312)


def test_a_jetson_is_as_hot_as_its_hottest_zone_but_for_the_one_that_never_changes(
    tmp_path: Path,
) -> None:
    zones = [
        ("AO-therm", "42500"),
        ("CPU-therm", "36500"),
        ("GPU-therm", "35000"),
        ("PMIC-Die", "100000"),
        ("gpu-thermal", "-256000"),
    ]
    root = sysfs(tmp_path, {"ucsi-source-psy-ucsi_ccg1": {"type": "USB", "online": "0"}}, zones)
    assert read_conditions(root) == Conditions("mains", None, 42.5)


def test_a_laptop_on_its_charger_is_on_mains(tmp_path: Path) -> None:
    charging = BATTERY | {"status": "Charging"}
    zones = [("acpitz", "25000"), ("x86_pkg_temp", "61000"), ("INT3400 Thermal", "20000")]
    root = sysfs(tmp_path, {"AC": CHARGER, "BAT0": charging, "hidpp_battery_0": MOUSE}, zones)
    assert read_conditions(root) == Conditions("mains", None, 61.0)


def test_a_laptop_without_its_charger_runs_on_the_mean_of_its_batteries(tmp_path: Path) -> None:
    second = BATTERY | {"capacity": "41", "status": "Unknown"}
    empty_bay = {"type": "Battery", "present": "0", "capacity": "0"}
    supplies = {"AC": UNPLUGGED, "BAT0": BATTERY, "BAT1": second, "BAT2": empty_bay, "mouse": MOUSE}
    assert read_conditions(sysfs(tmp_path, supplies)) == Conditions("battery", 0.61, None)


def test_a_ups_board_that_can_not_tell_is_on_its_battery(tmp_path: Path) -> None:
    """MAX17040 without a charger described to it: online is the battery's own, always 1."""
    gauge = {"type": "Battery", "online": "1", "capacity": "104", "status": "Unknown"}
    root = sysfs(tmp_path, {"battery": gauge}, [("cpu-thermal", "55017")])
    assert read_conditions(root) == Conditions("battery", 1.0, 55.017)


@pytest.mark.parametrize(
    ("supplies", "power"),
    [
        ({"psy": {"type": "USB", "online": "0"}}, "mains"),
        ({"mouse": MOUSE}, "mains"),
        ({"AC": UNPLUGGED}, "mains"),
        ({"BAT0": {"type": "Battery", "present": "0"}}, "mains"),
        ({"AC": CHARGER, "BAT0": BATTERY}, "mains"),
        ({"AC": UNPLUGGED, "BAT0": BATTERY}, "battery"),
        ({"AC": UNPLUGGED, "BAT0": BATTERY | {"status": "Not charging"}}, "mains"),
        ({"AC": UNPLUGGED, "BAT0": BATTERY | {"status": "Unknown"}}, "battery"),
        ({"usb": {"type": "USB_PD", "online": "2"}, "b": BATTERY | {"status": "Unknown"}}, "mains"),
        ({"usb": {"type": "USB", "online": "1"}, "BAT0": BATTERY}, "battery"),
        ({"dock": {"type": "Wireless", "online": "1"}, "BAT0": BATTERY}, "mains"),
        ({"BAT0": BATTERY | {"status": "Full"}}, "mains"),
        ({"ups": {"type": "UPS", "status": "Discharging", "capacity": "20"}}, "battery"),
        ({"ups": {"type": "UPS", "status": "Charging"}}, "mains"),
        ({"bms": {"type": "Battery"}}, "battery"),
    ],
)
def test_what_feeds_the_gateway(
    supplies: dict[str, dict[str, str]], power: str, tmp_path: Path
) -> None:
    assert read_conditions(sysfs(tmp_path, supplies)).power == power


@pytest.mark.parametrize(
    ("told", "charge"),
    [
        ({"capacity": "0"}, 0.0),
        ({"capacity": "100"}, 1.0),
        ({"capacity": "120"}, 1.0),
        ({"capacity": "255"}, None),
        ({"capacity": "-1"}, None),
        ({"capacity": "-22", "capacity_level": "Low"}, 0.2),
        ({"capacity_level": "Critical"}, 0.05),
        ({"capacity_level": "Unknown"}, None),
        ({"capacity": "full of bytes"}, None),
        ({"capacity": ""}, None),
        ({}, None),
    ],
)
def test_the_charge_is_a_share_or_not_told(
    told: dict[str, str], charge: float | None, tmp_path: Path
) -> None:
    root = sysfs(tmp_path, {"BAT0": {"type": "Battery", "status": "Discharging"} | told})
    assert read_conditions(root) == Conditions("battery", charge, None)


@pytest.mark.parametrize(
    ("temp", "degrees"),
    [
        ("31", 31.0),
        ("31000", 31.0),
        ("-12500", -12.5),
        ("0", 0.0),
        ("150000", 150.0),
        ("150001", None),
        ("-650788984", None),
        ("85.0", None),
        ("9" * 5000, None),
        ("٤٨٠٠٠", None),
        ("", None),
    ],
)
def test_a_temperature_is_one_that_something_that_computes_can_have(
    temp: str, degrees: float | None, tmp_path: Path
) -> None:
    root = sysfs(tmp_path, {}, [("cpu-thermal", temp)])
    assert read_conditions(root).temperature_c == degrees


def test_a_machine_without_sysfs_is_on_mains(tmp_path: Path) -> None:
    assert read_conditions(tmp_path) == Conditions("mains", None, None)


def test_what_can_not_be_read_is_not_told(tmp_path: Path) -> None:
    root = sysfs(tmp_path, {"AC": CHARGER}, [("cpu-thermal", "40000"), ("acpitz", "1")])
    broken = root / "class" / "thermal" / "thermal_zone1" / "temp"
    broken.unlink()
    broken.mkdir()  # reading it fails, as EINVAL of a driver does
    (root / "class" / "power_supply" / "file").write_text("no folder")
    (root / "class" / "power_supply" / "gone").symlink_to(root / "nowhere")
    assert read_conditions(root) == Conditions("mains", None, 40.0)


WORDS = st.sampled_from(
    [
        "Battery",
        "UPS",
        "Mains",
        "USB",
        "Discharging",
        "Full",
        "Unknown",
        "0",
        "1",
        "50",
        "-5",
        "99999",
    ]
) | st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=10)
SUPPLY = st.dictionaries(
    st.sampled_from(["type", "status", "online", "present", "scope", "capacity", "capacity_level"]),
    WORDS,
)


@given(supplies=st.lists(SUPPLY, max_size=3), temps=st.lists(WORDS, max_size=3))
@settings(max_examples=40)
def test_whatever_drivers_write_an_ask_can_carry_it(
    supplies: list[dict[str, str]], temps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    named = {f"supply-{at}": supply for at, supply in enumerate(supplies)}
    root = sysfs(tmp_path_factory.mktemp("sys"), named, [("zone", temp) for temp in temps])
    found = read_conditions(root)
    assert found.battery is None or found.power == "battery"
    assert found.temperature_c is None or -60 <= found.temperature_c <= 150
    asked = Readiness(base_version=0, examples=0, **asdict(found))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=Readiness) == asked

"""The Modbus tables: what is refused, with the key it stands on, and what is planned."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from agent.sensors import modbus
from agent.sensors.modbus import ModbusSettings, problems
from agent.sensors.modbus.settings import plan, unit_of
from wire.errors import SettingsError
from wire.settings import parse_settings

SAMPLE = Path(modbus.__file__).parent / "sample.toml"
HOST = 'host = "192.0.2.1"'
DEVICE = 'device = "/dev/serial/by-id/usb-x"'
PLAIN = 'table = "holding"\naddress = 1\ntype = "int16"'


def settings(line: str, *channels: str, units: tuple[str, ...] = ()) -> ModbusSettings:
    parts = [line]
    parts += [f"[[unit]]\n{unit}" for unit in units]
    parts += [f'[[channel]]\nname = "c{at}"\n{each}' for at, each in enumerate(channels)]
    return parse_settings("\n".join(parts), ModbusSettings, "test")


def problem_keys(line: str, *channels: str, units: tuple[str, ...] = ()) -> list[str]:
    return [key for key, _ in problems(settings(line, *channels, units=units))]


def test_the_sample_is_sound_and_names_every_key() -> None:
    text = SAMPLE.read_text()
    lines = tomllib.loads(text)["source"]["modbus"]
    for line in lines:
        assert list(problems(msgspec.convert(line, ModbusSettings))) == []
    named = {key for line in lines for key in line}
    named |= {key for line in lines for each in line["channel"] for key in each}
    named |= {key for line in lines for each in line.get("unit", []) for key in each}
    structs = (modbus.ModbusSettings, modbus.ModbusUnit, modbus.ModbusChannel)
    keys = {key for struct in structs for key in struct.__struct_fields__}
    assert keys - named == {"shape", "states"}


@pytest.mark.parametrize(
    ("channel", "key"),
    [
        ('table = "holding"\naddress = 1', "channel[0].type"),
        ('table = "holding"\naddress = 1\ntype = "bool"', "channel[0].bit"),
        (f"{PLAIN}\nbit = 3", "channel[0].bit"),
        (f"{PLAIN}\nscale = 0.0", "channel[0].scale"),
        (f"{PLAIN}\nscale = nan", "channel[0].scale"),
        (f"{PLAIN}\noffset = inf", "channel[0].offset"),
        (f"{PLAIN}\ninvalid = [0x8000, 0x10000]", "channel[0].invalid"),
        (f"{PLAIN}\nshape = [4]", "channel[0].shape"),
        (f'{PLAIN}\nstates = {{"ON" = 1}}', "channel[0].states"),
        ('table = "coil"\naddress = 1\ntype = "int16"', "channel[0].type"),
        ('table = "coil"\naddress = 1\nbit = 0', "channel[0].bit"),
        ('table = "discrete"\naddress = 1\nbyte_order = "big"', "channel[0].byte_order"),
        ('table = "discrete"\naddress = 1\ninvalid = [1]', "channel[0].invalid"),
    ],
)
def test_what_a_channel_can_not_be_is_refused_at_its_key(channel: str, key: str) -> None:
    assert problem_keys(HOST, channel) == [key]


def test_both_orders_are_required_for_values_of_several_registers() -> None:
    channel = 'table = "input"\naddress = 1\ntype = "float32"'
    assert problem_keys(HOST, channel) == ["channel[0].byte_order", "channel[0].word_order"]
    assert problem_keys(HOST, f'{channel}\nbyte_order = "big"') == ["channel[0].word_order"]


def test_a_value_may_end_at_the_last_register_and_not_beyond() -> None:
    orders = 'type = "float32"\nbyte_order = "big"\nword_order = "big"\ntable = "input"'
    assert problem_keys(HOST, f"{orders}\naddress = 65534") == []
    assert problem_keys(HOST, f"{orders}\naddress = 65535") == ["channel[0].address"]


def test_a_line_is_either_a_host_or_a_device() -> None:
    assert problem_keys("", PLAIN) == ["host"]
    assert problem_keys(f"{HOST}\n{DEVICE}", PLAIN) == ["host"]


def test_units_0_and_255_exist_over_tcp_only() -> None:
    for unit in (0, 255):
        channel = f"{PLAIN}\nunit_id = {unit}"
        assert problem_keys(HOST, channel) == []
        assert problem_keys(DEVICE, channel) == ["channel[0].unit_id"]
        assert problem_keys(f'{HOST}\nframing = "rtu"', channel) == ["channel[0].unit_id"]


def test_a_unit_that_is_described_twice_or_not_used_is_refused() -> None:
    keys = problem_keys(HOST, PLAIN, units=("unit_id = 1", "unit_id = 1", "unit_id = 8"))
    assert keys == ["unit[1].unit_id", "unit[2].unit_id"]


def test_a_serial_line_that_would_be_busy_all_the_time_is_refused() -> None:
    # 8 + 5 + 250 characters of 11 bits and two silences: 309 ms at 9600 baud.
    channels = [f'table = "holding"\naddress = {at}\ntype = "int16"' for at in range(125)]
    slow = f"{DEVICE}\nbaudrate = 9600\npoll_interval_ms = "
    assert problem_keys(f"{slow}300", *channels) == ["poll_interval_ms"]
    assert problem_keys(f"{slow}320", *channels) == []


def test_a_channel_goes_before_its_unit_and_the_unit_before_the_line() -> None:
    line = settings(
        f"{HOST}\npoll_interval_ms = 1000",
        PLAIN,
        f"{PLAIN}\nunit_id = 2",
        f"{PLAIN}\nunit_id = 2\npoll_interval_ms = 100",
        units=('unit_id = 2\nname = "press"\npoll_interval_ms = 500\nretries = 0',),
    )
    found = {read.spans[0].channel: read.interval_s for read in plan(line)}
    assert found == {0: 1.0, 1: 0.5, 2: 0.1}
    assert (unit_of(line, 2).name, unit_of(line, 2).retries) == ("press", 0)
    assert (unit_of(line, 1).name, unit_of(line, 1).retries) == ("unit 1", 2)


def test_a_units_limits_shape_its_reads() -> None:
    channels = [f'table = "holding"\naddress = {at}\ntype = "int16"' for at in (0, 3, 6)]
    assert [read.count for read in plan(settings(HOST, *channels))] == [7]
    narrow = settings(HOST, *channels, units=("unit_id = 1\nmax_gap = 0",))
    assert [read.count for read in plan(narrow)] == [1, 1, 1]
    short = settings(HOST, *channels, units=("unit_id = 1\nmax_registers = 4",))
    assert [read.count for read in plan(short)] == [4, 1]


def test_frames_of_seven_bits_are_refused() -> None:
    with pytest.raises(SettingsError, match="bytesize"):
        settings(f"{DEVICE}\nbytesize = 7", PLAIN)

"""`journeyman-agent test`: a person sees what each source gives, and what is wrong with it."""

import argparse
import os
import pty
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import serial

from agent.live.screen import Table
from agent.live.seen import Seen
from agent.live.watch import harmless
from agent.live.words import age_text, cells, quality_text, time_text, value_text
from agent.live_command import add_test
from agent.sensors.opcua.trust_store import pki_directory
from agent.sensors.source import ChannelSettings
from agent.signals.block import ArraySample, block_of
from agent.sources import SourceTable, sources_of
from shopfloor.ports import free_port
from tests.agent.federation import Federation, agent_toml
from tests.modbus.slaves import build_slave, running
from wire.errors import SettingsError
from wire.settings import parse_settings

S_US = 1_000_000
NOBODY = 65_534


def live(config: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--verbose", action="store_true")
    add_test(parser.add_subparsers())
    options = parser.parse_args(["test", str(config), *words])
    return int(options.command(options))


def until(text: str, config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Test again until this is said, on a slow machine too; returns all that was said with it."""
    for _ in range(20):
        live(config, "--seconds", "0.7", *words)
        shown = capsys.readouterr().out
        if text in shown:
            return shown
    pytest.fail(f"{text!r} is not in {shown}")


def configured(federation: Federation, folder: Path, sources: str) -> Path:
    """A configuration file with these sources instead of a milling machine."""
    whole = agent_toml(federation)
    head = whole[: whole.index("[source.opcua]")].replace(
        'trigger = "product_count"', "every_s = 1"
    )
    path = folder / "agent.toml"
    path.write_text(head + sources)
    return path


def nodes(endpoint: str, *names: str, security: str = "") -> str:
    channels = "".join(
        f'[[source.opcua.channel]]\nname = "{name}"\nnode = "s={name}"\nunit = "u"\n'
        for name in names
    )
    return (
        f'[source.opcua]\nendpoint = "{endpoint}"\nnamespace_uri = "urn:journeyman:test"\n'
        f"publishing_interval_ms = 50\n{security}\n{channels}"
    )


@pytest.fixture(scope="module")
def slave_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program, port = build_slave(tmp_path_factory.mktemp("modbus")), free_port()
    with running(program, "tcp", str(port)):
        yield port


def test_samples_of_an_opcua_server_are_shown_with_quality_and_what_is_missing_is_named(
    node_opcua_server: str,
    federation: Federation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources = nodes(node_opcua_server, "Temperature", "Stale", "Broken")
    config = configured(federation, tmp_path, sources)
    assert live(config, "--seconds", "60", "--once") == 1
    shown = capsys.readouterr().out
    assert re.search(r"Temperature  \d\d\.?\d* u  Good  20\d\d-.*Z  age ", shown)
    assert "Uncertain (UncertainLastUsableValue)" in shown
    assert "Bad (BadSensorFailure)" in shown
    assert "source.opcua (opcua opc.tcp://127.0.0.1" in shown
    assert "gave only Bad samples: Broken" in shown
    assert not (tmp_path / "state").exists()
    assert live(config, "--seconds", "60", "--once", "--channel", "Temperature") == 0
    assert "Stale" not in capsys.readouterr().out
    config = configured(federation, tmp_path, nodes(node_opcua_server, "Nowhere"))
    until("problem: Nowhere:", config, capsys)
    assert live(config, "--seconds", "0.1") == 1


def test_an_untrusted_server_lands_in_the_agents_own_trust_list(
    node_opcua_server: str,
    federation: Federation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    security = '[source.opcua.security]\npolicy = "Basic256Sha256"\n'
    sources = nodes(node_opcua_server, "Temperature", security=security)
    config = configured(federation, tmp_path, sources)
    state = tmp_path / "state"
    state.mkdir()
    if os.geteuid() == 0:
        os.chown(state, NOBODY, NOBODY)  # as systemd does, whose unit has a user of its own
    until("journeyman-agent trust add CONFIG", config, capsys)
    pki = pki_directory(state)
    (rejected,) = (pki / "rejected").iterdir()
    owners = {path.stat().st_uid for path in state.rglob("*")}
    assert owners == {state.stat().st_uid}, "root left nothing that the agent can not use"
    (pki / "trusted").mkdir(exist_ok=True)
    shutil.copy(rejected, pki / "trusted" / "line.der")
    assert live(config, "--seconds", "60", "--once") == 0
    assert {path.name for path in state.iterdir()} == {"sources"}
    assert (pki / "own" / "certificate.der").exists()


def test_modbus_values_and_dead_devices_are_told_apart(
    slave_port: int,
    federation: Federation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    channel = '[[source.modbus.channel]]\nname = "{}"\ntable = "holding"\naddress = 5\n'
    channel += 'type = "uint16"\nunit = "bar"\n'
    line = "[[source.modbus]]\nhost = '127.0.0.1'\nport = {}\npoll_interval_ms = 50\n"
    sources = line.format(slave_port) + channel.format("steady")
    sources += line.format(free_port()) + channel.format("dead")
    config = configured(federation, tmp_path, sources)
    shown = until("Connection refused", config, capsys)
    assert "steady  15 bar  Good" in shown
    assert "Bad (BadNoCommunication)" in shown
    assert "source.modbus[1]" in shown
    assert "gave only Bad samples: dead" in shown
    assert live(config, "--seconds", "60", "--once", "--source", "source.modbus[0]") == 0
    assert "dead" not in capsys.readouterr().out
    with pytest.raises(SettingsError, match=r"there are: source.modbus\[0\], source.modbus\[1\]"):
        live(config, "--source", "opcua")
    with pytest.raises(SettingsError, match="no channel 'x'; there are: steady, dead"):
        live(config, "--channel", "x")


def test_orders_shows_the_right_reading_of_registers_whose_orders_the_file_does_not_know_yet(
    slave_port: int,
    federation: Federation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources = f"""
[[source.modbus]]
host = "127.0.0.1"
port = {slave_port}
[[source.modbus.channel]]
name = "swapped"
table = "holding"
address = 106
type = "float32"
scale = 2
[[source.modbus.channel]]
name = "one_register"
table = "holding"
address = 5
type = "uint16"
"""
    config = configured(federation, tmp_path, sources)
    with pytest.raises(SettingsError, match="byte_order"):
        live(config)
    assert live(config, "--orders") == 0
    shown = capsys.readouterr().out
    (right,) = [line for line in shown.splitlines() if "  123.45" in line]
    assert "float32 DCBA (byte_order little, word_order little)" in right
    assert "scaled 246.9" in right
    assert "one_register" not in shown
    config.write_text(config.read_text().replace(str(slave_port), str(free_port())))
    assert live(config, "--orders") == 1
    assert "can not open 127.0.0.1" in capsys.readouterr().out


def test_a_recording_is_shown_with_the_texts_of_its_states_and_ends_the_test_early(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "day.csv").write_text("t,state,torque\n1000,RUN,1.5\n1001,STOP,2.5\n")
    sources = """
[[source.replay]]
file = "day.csv"
time_column = "t"
time_format = "s"
speed = 0
[[source.replay.channel]]
name = "state"
column = "state"
states = { RUN = 1, STOP = 0 }
[[source.replay.channel]]
name = "torque"
column = "torque"
unit = "Nm"
"""
    config = configured(federation, tmp_path, sources)
    assert live(config, "--seconds", "300") == 0
    shown = capsys.readouterr().out
    assert "state  STOP (0)  Good  1970-01-01T00:16:41.000Z" in shown
    assert "torque  2.5 Nm  Good" in shown
    assert "finished; 4 samples" in shown
    assert live(config, "--seconds", "300") == 0, "nothing was kept, so it plays again"
    assert not (tmp_path / "state").exists()


def test_a_serial_port_that_the_running_agent_holds_is_named_with_what_to_do(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    master, slave = pty.openpty()
    device = os.ttyname(slave)
    sources = f"""
[[source.lines]]
format = "delimited"
device = "{device}"
[[source.lines.channel]]
name = "oven"
column = 0
"""
    config = configured(federation, tmp_path, sources)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "status.json").write_text("{}")  # as an agent that runs writes it
    try:
        with serial.Serial(device, exclusive=True):
            shown = until("another program uses it", config, capsys)
            assert f"the agent is running and holds {device}" in shown
            assert "systemctl stop journeyman-agent" in shown
            assert "gave nothing at all: oven" in shown or "only Bad samples: oven" in shown
        os.write(master, b"1.5\n2.5\n")
    finally:
        os.close(master)
        os.close(slave)


def test_images_stay_where_they_are_and_settings_are_otherwise_the_same() -> None:
    text = """
[[images]]
folder = "in"
after = "delete"
[[images.channel]]
name = "camera"
shape = [1, 2, 2]
[modbus]
host = "h"
[[modbus.channel]]
name = "m"
table = "coil"
address = 1
"""
    table = parse_settings(text, SourceTable, "test")
    safe = harmless(table)
    assert next(each.settings for each in sources_of(safe)) == table.modbus
    images = safe.images
    assert isinstance(images, tuple)
    assert images[0].after == "leave"
    assert images[0].folder == "in"


def test_the_newest_sample_counts_and_the_rate_leaves_the_first_burst_out() -> None:
    seen = Seen(3)
    seen.take(block_of([0, 1, 0], [1, 2, 3], [0, 0x80000000, 0], [1, 2, 3]), 10.0)
    first = seen.newest(0, 10.0)
    assert first is not None
    assert (first.value, first.source_timestamp_us, first.count, first.rate_hz) == (3, 3, 2, None)
    bad = seen.newest(1, 10.0)
    assert bad is not None
    assert bad.usable == 0
    assert list(seen.news()) == [0, 1]
    assert list(seen.news()) == []
    seen.take(block_of([0] * 10, range(10), [0] * 10, range(10)), 12.0)
    later = seen.newest(0, 15.0)
    assert later is not None
    assert (later.count, later.usable, later.rate_hz) == (12, 12, 2.0)
    assert seen.newest(2, 15.0) is None


def test_arrays_are_told_by_shape_extremes_and_rms() -> None:
    seen = Seen(1)
    wave = np.array([[3, -4], [np.nan, 0]], np.float32)
    seen.take(block_of([], [], [], [], arrays=(ArraySample(0, wave, 0, 5),)), 1.0)
    newest = seen.newest(0, 2.0)
    assert newest is not None
    text = value_text(ChannelSettings(name="wave", shape=(2, 2)), newest)
    assert text == "[2x2] min -4 max 3 rms 2.8868"
    seen.take(block_of([], [], [], [], arrays=(ArraySample(0, wave * np.nan, 0x80000000, 6),)), 3.0)
    newest = seen.newest(0, 3.0)
    assert newest is not None
    assert "no numbers" in value_text(ChannelSettings(name="wave", shape=(2, 2)), newest)
    assert newest.usable == 1


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "Good"),
        (0x400, "Good"),
        (0x408F0000, "Uncertain (UncertainNoCommunicationLastUsableValue)"),
        (0x808C0480, "Bad (BadSensorFailure)"),
        (0x80000000, "Bad"),
        (0xBFFF0000, "Bad (0xBFFF0000)"),
    ],
)
def test_a_status_code_is_named_as_the_standard_does(status: int, text: str) -> None:
    assert quality_text(status) == text


def test_times_and_ages_are_readable_whatever_a_machine_says() -> None:
    assert time_text(1_700_000_000_123_999) == "2023-11-14T22:13:20.123Z"
    assert time_text(1 << 62) == f"{1 << 62} us"
    assert age_text(-1_500_000) == "-1.50 s"
    assert age_text(3 * 3600 * S_US) == "3.0 h"
    assert cells(ChannelSettings(name="a", unit="K"), None, 0)[3] == "nothing yet"


def test_the_table_draws_over_itself_and_says_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("COLUMNS", "60")
    path = tmp_path / "screen"
    rows = [(f"channel{at}", "1", "K", "Good", "now", "0 s", "1") for at in range(9)]
    with path.open("w+") as out:
        table = Table(out)
        table.show(rows, [])
        table.show(rows, [])
        out.seek(0)
        text = out.read()
    assert text.count("channel0") == 2
    assert "channel5" not in text
    assert "... and 7 more" in text
    assert "\x1b[4A" in text, "the second drawing begins where the first did"

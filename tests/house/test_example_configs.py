"""The example configurations are accepted, fit their jobs, and do what their comments say."""

import json
import re
import struct
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.authoring import read_bundle_settings
from agent.config import AgentSettings, read_agent_settings
from agent.sensors.lines.binary import BinaryDecoder
from agent.sensors.lines.checksums import checksum
from agent.sensors.lines.settings import BinarySettings
from agent.signals.time_text import read_zone, time_reader
from tests.house.json_schema import violations

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SCHEMA = json.loads((CONFIGS / "schema" / "agent.schema.json").read_text())
EXAMPLES = sorted((CONFIGS / "examples").glob("*.toml"))
NAMES = [path.stem for path in EXAMPLES]


def settings_of(name: str) -> AgentSettings:
    return read_agent_settings(CONFIGS / "examples" / f"{name}.toml")


def test_there_is_an_example_for_every_way_into_a_machine() -> None:
    kinds = {name: [each.kind for each in settings_of(name).sources] for name in NAMES}
    assert kinds == {
        "camera": ["images"],
        "modbus-line": ["modbus", "modbus"],
        "opcua-line": ["opcua"],
        "second-line": ["opcua", "opcua"],
        "serial-line": ["lines", "lines"],
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_program_and_schema_accept_every_example(path: Path) -> None:
    assert read_agent_settings(path).channels
    assert violations(SCHEMA, tomllib.loads(path.read_text())) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_the_first_line_of_an_example_leads_an_editor_to_the_schema(path: Path) -> None:
    directive = re.fullmatch(r"#:schema (\S+)", path.read_text().splitlines()[0])
    assert directive is not None
    assert json.loads((path.parent / directive[1]).read_text()) == SCHEMA


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_an_example_has_the_channels_of_its_job_in_the_jobs_units(path: Path) -> None:
    named = re.search(r"bundle: (\S+\.toml)", path.read_text())
    assert named is not None
    job = read_bundle_settings(path.parent / named[1])
    assert job.label is not None
    channels = {each.name: each for each in read_agent_settings(path).channels}
    assert {each.name: (each.unit, each.shape) for each in job.channel} == {
        each.name: (channels[each.name].unit, channels[each.name].shape) for each in job.channel
    }
    states = channels[job.label.channel].states
    if job.label.classes and states:
        assert states == {name: number for number, name in enumerate(job.label.classes)}


def leaves(tree: Any, at: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        items = [(f"{at}.{key}".lstrip("."), value) for key, value in tree.items()]
    elif isinstance(tree, list):
        items = [(f"{at}[{number}]", value) for number, value in enumerate(tree)]
    else:
        return {at: tree}
    return {path: leaf for name, value in items for path, leaf in leaves(value, name).items()}


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_secrets_come_from_systemd_and_root_is_nobodys_key(path: Path) -> None:
    found = leaves(tomllib.loads(path.read_text()))
    names = ("key_file", "password_file", "trust.key", "security.key", "user_key")
    secret = {key: value for key, value in found.items() if key.endswith(names)}
    assert {"trust.key", "broker.key_file"} <= secret.keys()
    for value in secret.values():
        assert value.startswith("${CREDENTIALS_DIRECTORY}/")
    assert not [key for key in found if key.endswith("password")]
    assert set(found["trust.root"]) == {"0"}


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_what_a_newcomer_must_change_is_marked(path: Path) -> None:
    lines = path.read_text().splitlines()
    places = r"(root|credential|cert_file|host|endpoint|device|folder) = "
    must = [line for line in lines if re.match(places, line)]
    assert len(must) >= 4
    assert [line for line in must if "# CHANGE" not in line and "# OWN" not in line] == []
    assert max(map(len, lines)) <= 104


def test_two_lines_of_one_gateway_do_not_share_what_each_must_have_alone() -> None:
    first, second = settings_of("opcua-line"), settings_of("second-line")
    assert first.agent.state_dir != second.agent.state_dir
    assert first.trust.credential != second.trust.credential
    assert first.broker.cert_file != second.broker.cert_file
    for other in NAMES:
        served = settings_of(other).scores.opcua
        if other != "second-line" and served is not None:
            assert second.scores.opcua is not None
            assert served.listen.rpartition(":")[2] != second.scores.opcua.listen.rpartition(":")[2]


@pytest.mark.parametrize(
    ("name", "unit", "line"),
    [
        ("opcua-line", "journeyman-agent.service", ""),
        ("second-line", "journeyman-agent@.service", "line-2"),
    ],
)
def test_state_is_where_the_systemd_unit_lets_the_agent_write(
    name: str, unit: str, line: str
) -> None:
    text = (ROOT / "systemd" / unit).read_text()
    folder = re.search(r"^StateDirectory=(\S+)$", text, re.MULTILINE)
    assert folder is not None
    assert settings_of(name).agent.state_dir == f"/var/lib/{folder[1].replace('%i', line)}"
    assert "LoadCredential=agent.key:" in text


def test_the_serial_example_reads_the_frame_that_its_comment_draws() -> None:
    source = settings_of("serial-line").sources[0].settings
    assert isinstance(source, BinarySettings)
    wave = np.arange(-1024, 1024, dtype="<i2")
    frame = b"\xaa\x55" + struct.pack("<Bx", 2) + wave.tobytes()
    frame += checksum("crc16-modbus").of(frame).to_bytes(2, "little")
    assert len(frame) == 4102
    readings = BinaryDecoder(source).push(frame + b"\xaa\x55" + frame)
    np.testing.assert_allclose(readings.arrays[0][0], wave * 16 * 9.80665 / 32768, rtol=1e-6)
    assert readings.values[:, 1].tolist() == [2, 2]


def test_the_camera_example_finds_the_time_in_the_name_that_its_comment_shows() -> None:
    path = CONFIGS / "examples" / "camera.toml"
    images = tomllib.loads(path.read_text())["source"]["images"]
    name = re.search(r"in the name: (\S+)", path.read_text())
    assert name is not None
    time = re.search(images["time_pattern"], name[1])
    assert time is not None
    reader = time_reader(images["time_format"], read_zone(images["time_zone"]))
    assert reader(time["time"]) == 1774958700123000  # 2026-03-31 12:05:00.123 UTC

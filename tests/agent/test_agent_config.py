"""The agent's configuration file: whatever is wrong is named by file, line and key."""

from pathlib import Path

import pytest

from agent.config import read_agent_settings
from agent.sensors.opcua import node_problem
from tests.agent.federation import AGENT, CHANNELS, SITE, Federation, agent_toml, read_back
from wire.errors import SettingsError
from wire.keys import make_agent, make_federation
from wire.signing import PrivateKey, write_private_key


def refusal(path: Path, text: str) -> SettingsError:
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_back(path)
    return caught.value


def line_of(text: str, needle: str, which: int = 0) -> int:
    lines = [at for at, line in enumerate(text.splitlines(), start=1) if needle in line]
    return lines[which]


def test_a_right_file_is_read_with_its_defaults(tmp_path: Path, federation: Federation) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(agent_toml(federation))
    settings, identity = read_back(path)
    assert [channel.name for channel in settings.channels] == CHANNELS
    assert settings.history.holdout_share == 0.1
    assert (identity.agent, identity.credential.site) == (AGENT, SITE)


WRONG = {
    "unknown key": ("pause_s = 0.1", "pauses = 1", "training.pauses", "unknown key"),
    "unknown table": ("[training]", "[trainings]", "trainings", "unknown key"),
    "wrong type": ("pause_s = 0.1", 'pause_s = "1"', "training.pause_s", "float"),
    "out of range": ("keepalive_s = 2", "keepalive_s = 0", "broker.keepalive_s", ">= 2"),
    "no such trigger": (
        'trigger = "product_count"',
        'trigger = "products"',
        "rows.trigger",
        "'products' is not one of the channels",
    ),
    "channel twice": (
        'name = "process_temperature"',
        'name = "air_temperature"',
        "source.opcua.channel[1].name",
        "'air_temperature' is used twice",
    ),
    "node with index": (
        'node = "s=Torque"',
        'node = "ns=2;s=Torque"',
        "source.opcua.channel[3].node",
        "without 'ns='",
    ),
    "host that is none": (
        "keepalive_s = 2",
        'host = "plant..broker"',
        "broker.host",
        "neither an address nor the name",
    ),
    "endpoint without a host": (
        'endpoint = "opc.tcp://127.0.0.1:4840/machine"',
        'endpoint = "opc.tcp://plc..line:4840"',
        "source.opcua.endpoint",
        "neither an address nor the name",
    ),
    "node id that is no number": (
        'node = "s=Torque"',
        'node = "i=torque"',
        "source.opcua.channel[3].node",
        "not a node identifier",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_named_by_file_line_and_key(
    tmp_path: Path, federation: Federation, case: str
) -> None:
    right, wrong, key, reason = WRONG[case]
    before = agent_toml(federation)
    assert before.count(right) == 1
    error = refusal(tmp_path / "agent.toml", before.replace(right, wrong))
    assert (error.file, error.key) == (str(tmp_path / "agent.toml"), key)
    assert error.line == line_of(before, right)
    assert reason in error.reason


def test_a_missing_key_is_named_at_its_table(tmp_path: Path, federation: Federation) -> None:
    text = agent_toml(federation)
    error = refusal(tmp_path / "agent.toml", text.replace('trigger = "product_count"\n', ""))
    assert (error.key, error.line) == ("rows.trigger", line_of(text, "[rows]"))


def test_a_missing_file_and_a_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml"):
        read_agent_settings(tmp_path / "nothing.toml")
    error = refusal(tmp_path / "agent.toml", "[agent]\nstate_dir = \n")
    assert error.line == 2


@pytest.mark.parametrize("key", ["charter", "credential", "key"])
def test_a_trust_file_that_is_not_there_is_named_by_its_key(
    tmp_path: Path, federation: Federation, key: str
) -> None:
    lines = agent_toml(federation).splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith(f"{key} ="))
    lines[at] = f'{key} = "nowhere/{key}"'
    error = refusal(tmp_path / "agent.toml", "\n".join(lines))
    assert (error.key, error.line) == (f"trust.{key}", at + 1)
    assert f"nowhere/{key}" in error.reason


@pytest.mark.parametrize("name", ["charter.jm", f"{AGENT}.credential"])
def test_a_tampered_trust_file_is_refused(
    tmp_path: Path, federation: Federation, name: str
) -> None:
    data = bytearray((federation.keys / name).read_bytes())
    data[-1] ^= 1
    (tmp_path / name).write_bytes(data)
    text = agent_toml(federation).replace(f"{federation.keys}/{name}", name)
    error = refusal(tmp_path / "agent.toml", text)
    assert error.key == f"trust.{name.split('.')[-1 if 'credential' in name else 0]}"
    assert error.line is not None
    assert "signature" in error.reason


def test_a_charter_of_another_root_is_refused(tmp_path: Path, federation: Federation) -> None:
    other = make_federation(tmp_path / "keys", "plant-net")
    text = agent_toml(federation).replace(federation.root, other.raw.hex())
    error = refusal(tmp_path / "agent.toml", text)
    assert (error.key, error.line) == ("trust.charter", line_of(text, "charter ="))


def test_a_credential_of_another_federation_is_refused(
    tmp_path: Path, federation: Federation
) -> None:
    make_federation(tmp_path / "other", "plant-net")
    make_agent(tmp_path / "other", "plant-net", AGENT, SITE)
    text = agent_toml(federation).replace(
        f"{federation.keys}/{AGENT}.credential", f"other/{AGENT}.credential"
    )
    error = refusal(tmp_path / "agent.toml", text)
    assert error.key == "trust.credential"
    assert "signature" in error.reason


def test_the_key_of_somebody_else_is_refused(tmp_path: Path, federation: Federation) -> None:
    write_private_key(tmp_path / "other.key", PrivateKey.generate())
    text = agent_toml(federation).replace(f"{federation.keys}/{AGENT}.key", "other.key")
    error = refusal(tmp_path / "agent.toml", text)
    assert (error.key, error.line) == ("trust.key", line_of(text, "key =", which=-1))
    assert error.reason == f"this is not the key of agent {AGENT}"


def test_a_key_that_others_can_read_is_refused(tmp_path: Path, federation: Federation) -> None:
    copy = tmp_path / "open.key"
    copy.write_bytes((federation.keys / f"{AGENT}.key").read_bytes())
    copy.chmod(0o644)
    text = agent_toml(federation).replace(f"{federation.keys}/{AGENT}.key", "open.key")
    error = refusal(tmp_path / "agent.toml", text)
    assert error.key == "trust.key"
    assert "chmod 600" in error.reason


def test_a_root_that_is_not_hexadecimal_is_refused(tmp_path: Path, federation: Federation) -> None:
    text = agent_toml(federation).replace(federation.root, "z" * 64)
    error = refusal(tmp_path / "agent.toml", text)
    assert (error.key, error.line) == ("trust.root", line_of(text, "root ="))


def test_paths_are_relative_to_the_file_and_know_the_credentials_directory(
    tmp_path: Path, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/unit")
    monkeypatch.chdir("/")
    path = tmp_path / "agent.toml"
    path.write_text(
        agent_toml(federation).replace(
            "[broker]\n",
            '[broker]\nca_file = "ca.pem"\npassword_file = "${CREDENTIALS_DIRECTORY}/password"\n',
        )
    )
    broker = read_agent_settings(path).broker
    assert broker.ca_file == str(tmp_path / "ca.pem")
    assert broker.password_file == "/run/credentials/unit/password"
    assert broker.cert_file == ""


@pytest.mark.parametrize("node", ["s=Torque", "s=a=b;c", "i=1234", "b=AAEC"])
def test_every_kind_of_identifier_is_a_node(node: str) -> None:
    assert node_problem(node) == ""


@pytest.mark.parametrize("node", ["", "Torque", "s=", "x=1", "i=x", "g=1", "ns=1;s=a", "nsu=a;i=1"])
def test_what_is_not_an_identifier_is_no_node(node: str) -> None:
    assert "not a node identifier" in node_problem(node)

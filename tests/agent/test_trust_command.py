"""`journeyman-agent trust`: a person sees what was refused and decides, without a restart."""

import argparse
import os
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization

from agent.sensors.opcua.certificates import thumbprint
from agent.sensors.opcua.own_certificate import LIFETIME, own_certificate
from agent.sensors.opcua.trust import refusal
from agent.sensors.opcua.trust_store import keep, pki_directory, read_trust_list, reject
from agent.trust_command import (
    add_to_list,
    add_trust,
    as_owner,
    listing,
    read_given,
    remove_from_list,
)
from tests.agent.federation import Federation, agent_toml
from tests.agent.opcua_pki import DAY, NOW, Party, authority, crl, rsa_key, server
from wire.errors import SettingsError

NOBODY = 65_534


def _number(party: Party) -> str:
    return thumbprint(party.certificate)


def _rows(pki: Path) -> dict[str, str]:
    """State by thumbprint, as the table shows them."""
    lines = listing(pki, NOW).splitlines()
    state, number, *_ = lines[0].split()
    assert (state, number) == ("STATE", "THUMBPRINT")
    at = lines[0].index("THUMBPRINT")
    return {line[at : at + 40]: line[:at].strip() for line in lines[1:]}


def test_the_list_shows_every_certificate_with_its_state_and_marks_expired_ones(
    tmp_path: Path,
) -> None:
    own = own_certificate(tmp_path / "own", "gateway-7", NOW - LIFETIME * 0.8)
    own_certificate(tmp_path / "own", "gateway-7", NOW)
    press, old = server(), server("urn:old", valid=(NOW - 9 * DAY, NOW - DAY))
    root, middle = authority("Plant root", 1), authority("Line", 2)
    for folder, party in (("trusted", press), ("trusted", root), ("issuers", middle)):
        keep(tmp_path, folder, party.certificate)  # type: ignore[arg-type]
    reject(tmp_path, old.certificate)
    (tmp_path / "trusted" / "photo.jpg").write_bytes(b"\xff\xd8")
    text = listing(tmp_path, NOW)
    states = _rows(tmp_path)
    assert states[thumbprint(own.certificate)] == "own"
    assert states[_number(press)] == "trusted"
    assert states[_number(root)] == "trusted CA"
    assert states[_number(middle)] == "issuer"
    assert states[_number(old)] == "rejected"
    assert "own, next" in states.values()
    expired = [line for line in text.splitlines() if "EXPIRED" in line]
    assert len(expired) == 1
    assert _number(old) in expired[0]
    assert "urn:plant:press1" in text
    assert "CN=Press 1" in text
    assert "photo.jpg counts for nothing" in text


def test_an_empty_list_says_so(tmp_path: Path) -> None:
    assert "no certificates yet" in listing(tmp_path, NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", ["plain", "colons", "small", "sha256"])
def test_a_rejected_certificate_is_added_by_its_thumbprint_however_it_is_pasted(
    tmp_path: Path, shape: str
) -> None:
    press = server()
    reject(tmp_path, press.certificate)
    number = _number(press)
    typed = {
        "plain": number,
        "colons": ":".join(number[at : at + 2] for at in range(0, 40, 2)),
        "small": f" {number.lower()} ",
        "sha256": press.certificate.fingerprint(hashes.SHA256()).hex(),
    }[shape]
    assert "no restart" in add_to_list(tmp_path, read_given(typed), NOW, is_issuer=False)
    assert _rows(tmp_path) == {number: "trusted"}
    assert "already" in add_to_list(tmp_path, read_given(typed), NOW, is_issuer=False)


@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_a_certificate_is_added_from_a_file(
    tmp_path: Path, encoding: serialization.Encoding
) -> None:
    press = server()
    path = tmp_path / "from the panel.cer"
    path.write_bytes(press.certificate.public_bytes(encoding))
    add_to_list(tmp_path / "pki", read_given(str(path)), NOW, is_issuer=False)
    assert _rows(tmp_path / "pki") == {_number(press): "trusted"}


def test_adding_a_ca_says_what_that_means_and_issuers_are_kept_apart(tmp_path: Path) -> None:
    root, press = authority("Plant root", 1), server()
    root_file, _ = root.write(tmp_path, "root")
    press_file, _ = press.write(tmp_path, "press")
    pki = tmp_path / "pki"
    assert "every server" in add_to_list(pki, read_given(str(root_file)), NOW, is_issuer=False)
    add_to_list(pki, read_given(str(root_file)), NOW, is_issuer=True)
    assert len(read_trust_list(pki).issuers) == 1
    with pytest.raises(SettingsError, match="not a CA"):
        add_to_list(pki, read_given(str(press_file)), NOW, is_issuer=True)


def test_a_revocation_list_is_added_and_counts(tmp_path: Path) -> None:
    root = authority("Plant root", 1)
    press = server(issuer=root)
    keep(tmp_path, "trusted", root.certificate)
    chain = [press.certificate]
    assert refusal(chain, "urn:plant:press1", read_trust_list(tmp_path), NOW) is None
    path = tmp_path / "plant.crl"
    path.write_bytes(crl(root, press.certificate).public_bytes(serialization.Encoding.DER))
    assert "revocation list" in add_to_list(tmp_path, read_given(str(path)), NOW, is_issuer=False)
    refused = refusal(chain, "urn:plant:press1", read_trust_list(tmp_path), NOW)
    assert refused is not None
    assert "revoked" in refused.reason
    assert "1 revocation lists" in listing(tmp_path, NOW)


def test_an_expired_certificate_is_added_with_a_warning(tmp_path: Path) -> None:
    old = server(valid=(NOW - 9 * DAY, NOW - DAY))
    reject(tmp_path, old.certificate)
    assert "IT EXPIRED" in add_to_list(tmp_path, read_given(_number(old)), NOW, is_issuer=False)


def test_what_can_not_be_added_says_what_to_do(tmp_path: Path) -> None:
    press, other = server(), server("urn:other", key=rsa_key(1))
    reject(tmp_path, press.certificate)
    with pytest.raises(SettingsError, match=f"but {_number(press)}: let the agent connect once"):
        add_to_list(tmp_path, read_given(_number(other)), NOW, is_issuer=False)
    with pytest.raises(SettingsError, match="no such file, and not a thumbprint"):
        add_to_list(tmp_path, read_given("press1.der"), NOW, is_issuer=False)
    noise = tmp_path / "noise.der"
    noise.write_bytes(b"not a certificate")
    with pytest.raises(SettingsError, match="not a certificate"):
        add_to_list(tmp_path, read_given(str(noise)), NOW, is_issuer=False)
    noise.write_bytes(bytes(2 << 20))
    with pytest.raises(SettingsError, match="larger than"):
        add_to_list(tmp_path, read_given(str(noise)), NOW, is_issuer=False)


def test_a_removed_server_is_among_the_rejected_and_a_removed_ca_is_gone(tmp_path: Path) -> None:
    press, root = server(), authority("Plant root", 1)
    for party in (press, root):
        keep(tmp_path, "trusted", party.certificate)
    assert "restart the agent" in remove_from_list(tmp_path, _number(press))
    remove_from_list(tmp_path, _number(root))
    assert _rows(tmp_path) == {_number(press): "rejected"}
    with pytest.raises(SettingsError, match="nothing trusted has thumbprint"):
        remove_from_list(tmp_path, _number(press))
    with pytest.raises(SettingsError, match="not a thumbprint"):
        remove_from_list(tmp_path, "press1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
def test_root_works_as_the_owner_of_a_state_directory_that_only_root_can_reach() -> None:
    with tempfile.TemporaryDirectory() as name:
        private = Path(name) / "private"  # as systemd makes it for a DynamicUser
        private.mkdir(mode=0o700)
        state = private / "agent"
        state.mkdir()
        os.chown(state, NOBODY, NOBODY)
        with as_owner(state) as inside:
            pki = pki_directory(inside)
            add_to_list(pki, server().certificate, NOW, is_issuer=False)
            assert set(_rows(pki).values()) == {"trusted"}
            (pki / "trusted").rename(pki / "elsewhere")
            (pki / "trusted").symlink_to("/root")
            with pytest.raises(SettingsError, match="can not read"):
                read_trust_list(pki)
        with pytest.raises(SettingsError) as caught, as_owner(state) as inside:
            remove_from_list(pki_directory(inside), "press1")
        assert str(state) in str(caught.value)
        made = next((pki_directory(state) / "elsewhere").iterdir()).stat()
        assert (made.st_uid, made.st_gid) == (NOBODY, NOBODY)
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_the_commands_find_the_list_by_the_configuration_file(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(agent_toml(federation))
    press = server()
    reject(pki_directory(tmp_path / "state"), press.certificate)
    parser = argparse.ArgumentParser()
    add_trust(parser.add_subparsers())

    def said(*words: str) -> str:
        options = parser.parse_args(["trust", *words])
        assert options.command(options) == 0
        return capsys.readouterr().out

    number = _number(press)
    assert "rejected" in said("list", str(config))
    assert said("add", str(config), number).startswith(f"trusted: {number}")
    assert said("remove", str(config), number).startswith(f"removed: {number}")

"""Which server certificates are trusted, and how the list and the agent's own one are kept."""

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sensors.opcua.certificates import (
    application_uri,
    is_for_host,
    parse_certificate,
    parse_chain,
    thumbprint,
)
from agent.sensors.opcua.own_certificate import LIFETIME, own_certificate
from agent.sensors.opcua.trust import Entry, TrustList, refusal
from agent.sensors.opcua.trust_store import (
    MAX_REJECTED,
    discard,
    keep,
    keep_crl,
    read_trust_list,
    reject,
)
from tests.agent.opcua_pki import DAY, NOW, Party, authority, crl, name, rsa_key, server
from wire.errors import MalformedError, SettingsError

URI = "urn:plant:press1"


def _list(
    *trusted: Party,
    issuers: tuple[Party, ...] = (),
    crls: tuple[x509.CertificateRevocationList, ...] = (),
) -> TrustList:
    def entries(parties: tuple[Party, ...]) -> tuple[Entry, ...]:
        return tuple(Entry(Path(), party.certificate) for party in parties)

    return TrustList(trusted=entries(trusted), issuers=entries(issuers), crls=crls)


def _reason(trust: TrustList, *chain: Party, uri: str = URI) -> str:
    refused = refusal([party.certificate for party in chain], uri, trust, NOW)
    return "" if refused is None else refused.reason


def test_a_certificate_in_the_list_is_trusted_and_its_twin_is_not() -> None:
    press, twin = server(), server(key=rsa_key(1))
    assert _reason(_list(press), press) == ""
    refused = refusal([twin.certificate], URI, _list(press), NOW)
    assert refused is not None
    assert refused.can_be_trusted
    assert "not trusted" in refused.reason


def test_an_expired_certificate_is_refused_although_it_is_in_the_list() -> None:
    press = server(valid=(NOW - 10 * DAY, NOW - DAY))
    refused = refusal([press.certificate], URI, _list(press), NOW)
    assert refused is not None
    assert not refused.can_be_trusted
    assert "expired" in refused.reason
    assert f"{NOW - DAY:%Y-%m-%d}" in refused.reason


def test_a_certificate_of_tomorrow_is_refused_and_names_the_clock() -> None:
    press = server(valid=(NOW + DAY, NOW + 10 * DAY))
    assert "set the clock" in _reason(_list(press), press)


@pytest.mark.parametrize("uri", ["urn:plant:press2", None])
def test_another_application_uri_than_the_endpoints_is_refused(uri: str | None) -> None:
    press = server(uri)
    assert "application URI" in _reason(_list(press), press)
    assert "application URI" in _reason(_list(press), press, uri="")


def test_a_key_that_no_policy_allows_is_refused() -> None:
    short = server(key=rsa_key(0, 1024))
    assert "RSA" in _reason(_list(short), short)
    key = ec.generate_private_key(ec.SECP256R1())
    party = authority("CA", 1)
    template = server().certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(party.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
    )
    algorithm = template.signature_hash_algorithm
    assert algorithm is not None
    curve = Party(builder.sign(party.key, algorithm), party.key)  # type: ignore[arg-type]
    assert "RSA" in _reason(_list(curve), curve)


def test_a_server_of_a_trusted_ca_is_trusted_with_its_intermediate_sent_or_kept() -> None:
    root = authority("Plant root", 1)
    middle = authority("Plant line 3", 2, issuer=root)
    press = server(issuer=middle)
    assert "not trusted" in _reason(_list(root), press)  # the link is missing
    assert _reason(_list(root), press, middle) == ""
    assert _reason(_list(root, issuers=(middle,)), press) == ""
    assert _reason(_list(middle), press) == ""


def test_a_ca_that_only_completes_chains_makes_nothing_trusted() -> None:
    root = authority("Plant root", 1)
    press = server(issuer=root)
    assert "not trusted" in _reason(_list(issuers=(root,)), press, root)


def test_a_ca_of_the_same_name_with_another_key_makes_nothing_trusted() -> None:
    root, forged = authority("Plant root", 1), authority("Plant root", 2)
    assert "not trusted" in _reason(_list(root), server(issuer=forged), forged)


def test_trusting_a_server_trusts_nothing_that_it_signs() -> None:
    # asyncua and others give self-signed server certificates the CA flag and keyCertSign.
    press = server("urn:plant:press7", is_ca=True, key=rsa_key(1))
    forged = server(issuer=press)
    assert "not trusted" in _reason(_list(press), forged, press)


def test_a_certificate_that_is_no_ca_makes_nothing_trusted() -> None:
    press = server(None, key=rsa_key(1))
    assert "not trusted" in _reason(_list(press), server(issuer=press), press)


def test_the_path_length_of_a_ca_counts() -> None:
    root = authority("Plant root", 1, path_length=0)
    middle = authority("Plant line 3", 2, issuer=root)
    assert _reason(_list(root), server(issuer=root)) == ""
    assert "not trusted" in _reason(_list(root), server(issuer=middle), middle)


def test_an_expired_ca_makes_nothing_trusted() -> None:
    root = authority("Plant root", 1, valid=(NOW - 9 * DAY, NOW - DAY))
    assert "CA expired" in _reason(_list(root), server(issuer=root))


def test_a_clients_certificate_of_a_trusted_ca_is_no_servers() -> None:
    root = authority("Plant root", 1)
    client = server(issuer=root, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    assert "not for a server" in _reason(_list(root), client)
    uri = "urn:plant:press1"
    assert refusal([client.certificate], uri, _list(root), NOW, peer="client") is None
    found = refusal([server(issuer=root).certificate], uri, _list(root), NOW, peer="client")
    assert found is not None
    assert found.reason.startswith("the client's certificate is not for a client")


def test_what_a_ca_revoked_is_refused_also_when_it_is_in_the_list_itself() -> None:
    root, other = authority("Plant root", 1), authority("Plant root", 2)
    press = server(issuer=root)
    revoked = crl(root, press.certificate)
    assert "revoked" in _reason(_list(root, crls=(revoked,)), press)
    assert "revoked" in _reason(_list(press, issuers=(root,), crls=(revoked,)), press)
    assert _reason(_list(root, crls=(crl(other, press.certificate),)), press) == ""  # not its own
    assert _reason(_list(root, crls=(crl(root),)), press) == ""


def test_a_chain_is_parsed_whole_and_its_damages_are_errors() -> None:
    root = authority("Plant root", 1)
    press = server(issuer=root)
    assert parse_chain(press.der + root.der) == (press.certificate, root.certificate)
    for damaged in (
        b"",
        press.der[:-1],
        press.der + b"\x30",
        b"\x30\x80",
        press.der * 11,
        bytes([0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF]),
    ):
        with pytest.raises(MalformedError):
            parse_chain(damaged)


PRESS = server()


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 900), st.integers(0, 255))
def test_any_bytes_are_a_chain_or_malformed(noise: bytes, at: int, byte: int) -> None:
    mutated = bytearray(PRESS.der)
    mutated[at % len(mutated)] = byte
    for data in (noise, b"0\x82" + noise, bytes(mutated)):
        try:
            chain = parse_chain(data)
        except MalformedError:
            continue
        assert refusal(chain, "urn:other", TrustList(), NOW) is not None


def test_names_of_a_certificate_are_read() -> None:
    press = server(host="press1.plant.example")
    assert application_uri(press.certificate) == URI
    assert is_for_host(press.certificate, "PRESS1.plant.example")
    assert not is_for_host(press.certificate, "press2.plant.example")


def test_a_file_with_two_certificates_is_refused() -> None:
    pem = server().certificate.public_bytes(serialization.Encoding.PEM)
    assert application_uri(parse_certificate(pem)) == URI
    with pytest.raises(MalformedError, match="more than one"):
        parse_certificate(pem + pem)


def test_the_folders_are_read_whatever_the_files_are_called_and_damaged_ones_are_named(
    tmp_path: Path,
) -> None:
    press, root = server(), authority("Plant root", 1)
    (tmp_path / "trusted").mkdir()
    pem = press.certificate.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "trusted" / "from the panel.crt").write_bytes(pem)
    (tmp_path / "trusted" / "damaged.der").write_bytes(b"\x30\x03abc")
    keep(tmp_path, "issuers", root.certificate)
    keep_crl(tmp_path, crl(root))
    keep_crl(tmp_path, crl(root, press.certificate))  # replaces the older one
    found = read_trust_list(tmp_path)
    assert [entry.certificate for entry in found.trusted] == [press.certificate]
    assert [entry.certificate for entry in found.issuers] == [root.certificate]
    assert [len(each) for each in found.crls] == [1]
    assert [path.name for path in found.unreadable] == ["damaged.der"]


def test_trusting_what_was_rejected_takes_it_out_and_discarding_forgets_it(tmp_path: Path) -> None:
    press = server()
    assert reject(tmp_path, press.certificate)
    assert [entry.certificate for entry in read_trust_list(tmp_path).rejected] == [
        press.certificate
    ]
    keep(tmp_path, "trusted", press.certificate)
    found = read_trust_list(tmp_path)
    assert (len(found.trusted), len(found.rejected)) == (1, 0)
    discard(found.trusted[0])
    assert read_trust_list(tmp_path).trusted == ()


def test_strangers_can_not_fill_the_disk(tmp_path: Path) -> None:
    parties = [server(f"urn:stranger:{number}") for number in range(MAX_REJECTED + 5)]
    for party in parties:
        assert reject(tmp_path, party.certificate)
    names = {path.stem for path in (tmp_path / "rejected").iterdir()}
    assert len(names) == MAX_REJECTED
    assert thumbprint(parties[-1].certificate) in names


def test_a_folder_that_can_not_be_made_costs_the_copy_and_not_the_source(tmp_path: Path) -> None:
    (tmp_path / "rejected").write_text("a file where the folder should be")
    assert not reject(tmp_path, server().certificate)
    with pytest.raises(SettingsError):
        read_trust_list(tmp_path)


def test_the_own_certificate_is_made_once_and_says_what_the_standard_asks(tmp_path: Path) -> None:
    own = own_certificate(tmp_path / "own", "gateway-7", NOW)
    assert own_certificate(tmp_path / "own", "gateway-7", NOW).certificate == own.certificate
    assert stat.S_IMODE((tmp_path / "own" / "key.pem").stat().st_mode) == 0o600
    assert application_uri(own.certificate) == "urn:journeyman:agent:gateway-7"
    extensions = own.certificate.extensions
    key_usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert key_usage.digital_signature
    assert key_usage.content_commitment
    assert key_usage.key_encipherment
    assert key_usage.data_encipherment
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.CLIENT_AUTH in purposes
    assert own.key.key_size == 2048
    assert own.certificate.signature_hash_algorithm is not None
    assert own.certificate.signature_hash_algorithm.name == "sha256"
    own.certificate.verify_directly_issued_by(own.certificate)


def test_a_successor_waits_for_the_engineer_and_takes_over_in_time(tmp_path: Path) -> None:
    first = own_certificate(tmp_path, "gateway-7", NOW)
    path = tmp_path / "next.der"
    own_certificate(tmp_path, "gateway-7", NOW + LIFETIME * 0.7)
    assert not path.exists()
    late = own_certificate(tmp_path, "gateway-7", NOW + LIFETIME * 0.8)
    assert late.certificate == first.certificate  # servers trust only this one yet
    successor = parse_certificate(path.read_bytes())
    again = own_certificate(tmp_path, "gateway-7", NOW + LIFETIME * 0.9)
    assert (again.certificate, path.read_bytes()) == (
        first.certificate,
        successor.public_bytes(serialization.Encoding.DER),
    )
    taken = own_certificate(tmp_path, "gateway-7", NOW + LIFETIME - timedelta(days=29))
    assert taken.certificate == successor
    assert application_uri(successor) == application_uri(first.certificate)
    assert taken.key.private_numbers() == first.key.private_numbers()
    assert not path.exists()


def test_an_agent_that_slept_past_the_end_makes_a_new_certificate(tmp_path: Path) -> None:
    first = own_certificate(tmp_path, "gateway-7", NOW)
    later = NOW + 3 * LIFETIME
    second = own_certificate(tmp_path, "gateway-7", later)
    assert second.certificate != first.certificate
    assert second.certificate.not_valid_after_utc > later


def test_a_clock_that_is_behind_does_not_cost_the_trusted_certificate(tmp_path: Path) -> None:
    first = own_certificate(tmp_path, "gateway-7", NOW)
    behind = NOW.replace(year=1971, day=1)
    assert own_certificate(tmp_path, "gateway-7", behind).certificate == first.certificate


def test_a_damaged_own_certificate_is_made_anew_and_a_key_open_to_others_is_refused(
    tmp_path: Path,
) -> None:
    first = own_certificate(tmp_path, "gateway-7", NOW)
    first.path.write_bytes(b"not a certificate")
    second = own_certificate(tmp_path, "gateway-7", NOW)
    assert second.certificate.public_key() == first.certificate.public_key()
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        own_certificate(tmp_path, "gateway-7", NOW)


def test_another_agents_certificate_in_the_folder_is_not_used(tmp_path: Path) -> None:
    own_certificate(tmp_path, "gateway-7", NOW)
    other = own_certificate(tmp_path, "gateway-8", NOW)
    assert application_uri(other.certificate) == "urn:journeyman:agent:gateway-8"
    assert other.certificate.subject != name("Press 1")

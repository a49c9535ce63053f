"""Certificates: what they say, who may read their keys, and which ones are refused."""

import os
import ssl
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from wire.certificates import (
    check_authority,
    check_client,
    check_key,
    check_not_ended,
    der,
    fingerprint,
    issue_broker,
    issue_client,
    make_authority,
    parse_certificate,
    read_authority,
    read_certificate,
    read_client,
    read_key,
    write_certificate,
    write_key,
)
from wire.errors import MalformedError, SettingsError, SignatureError, TooLargeError, WireError
from wire.issuing import (
    Authority,
    broker_certificate,
    client_certificate,
    new_authority,
    new_key,
    read_signing_request,
    signing_request,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
AGENT = "gateway-1"
KEY = new_key()
CA = new_authority("plant-net", new_key(), NOW)
OTHER_CA = new_authority("plant-net", new_key(), NOW)


def client(name: str = AGENT, ca: Authority = CA, days: int = 30) -> x509.Certificate:
    return client_certificate(ca, name, KEY.public_key(), NOW, days=days)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a CA, a broker and a client."""
    before = os.umask(0)  # modes must not depend on it
    try:
        make_authority(tmp_path, "plant-net")
        issue_broker(tmp_path, ["broker.plant.example", "localhost", "127.0.0.1", "::1"])
        issue_client(tmp_path, AGENT)
    finally:
        os.umask(before)
    return tmp_path


def test_openssl_accepts_what_is_issued_for_its_purpose_and_no_other(directory: Path) -> None:
    def verdict(name: str, purpose: str, *more: str) -> bool:
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose]
        command += [*more, "-CAfile", str(directory / "ca.crt"), str(directory / f"{name}.crt")]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert verdict(AGENT, "sslclient")
    assert verdict("broker", "sslserver", "-verify_hostname", "broker.plant.example")
    assert verdict("broker", "sslserver", "-verify_ip", "127.0.0.1")
    assert verdict("broker", "sslserver", "-verify_ip", "::1")
    assert not verdict("broker", "sslserver", "-verify_hostname", "other.plant.example")
    assert not verdict(AGENT, "sslserver")
    assert not verdict("broker", "sslclient")


def test_a_client_certificate_names_the_agent_and_nothing_else() -> None:
    certificate = client()
    (attribute,) = certificate.subject
    assert (attribute.oid, attribute.value) == (NameOID.COMMON_NAME, AGENT)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_a_clients_certificate_is_valid_from_an_hour_ago_for_so_many_days() -> None:
    certificate = client(days=30)
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=30)


def test_a_gateway_whose_clock_is_years_behind_can_still_check_its_broker() -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    broker = broker_certificate(CA, ["localhost"], KEY.public_key(), NOW, days=30)
    assert broker.not_valid_before_utc == CA.certificate.not_valid_before_utc == long_ago


def test_nothing_outlives_its_ca() -> None:
    assert CA.certificate.not_valid_after_utc == NOW + timedelta(days=3650)
    late = client_certificate(CA, AGENT, KEY.public_key(), NOW + timedelta(days=3600), days=397)
    assert late.not_valid_after_utc == CA.certificate.not_valid_after_utc


def test_serial_numbers_are_random_and_of_128_bits_or_more() -> None:
    numbers = [client().serial_number for _ in range(50)]
    assert len(set(numbers)) == 50
    assert max(number.bit_length() for number in numbers) >= 150


@pytest.mark.parametrize(
    "hosts", [[], [""], ["-a"], ["a b"], ["a/b"], ["*"], ["a" * 64], ["ä"], ["a"] * 65]
)
def test_a_broker_has_real_host_names(hosts: list[str], directory: Path) -> None:
    (directory / "broker.crt").unlink()
    (directory / "broker.key").unlink()
    with pytest.raises(MalformedError):
        issue_broker(directory, hosts)
    assert not (directory / "broker.key").exists()


def test_a_request_gives_its_key_and_nothing_else_of_it() -> None:
    assert read_signing_request(signing_request(KEY, "somebody-else")) == KEY.public_key()


def test_a_request_by_who_does_not_hold_the_key_is_refused() -> None:
    data = bytearray(signing_request(KEY, AGENT))
    data[-1] ^= 1
    with pytest.raises(SignatureError, match="does not hold its key"):
        read_signing_request(bytes(data))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
)
def test_a_request_with_another_kind_of_key_is_refused(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> None:
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(MalformedError, match="P-256"):
        read_signing_request(request.public_bytes(serialization.Encoding.DER))


@given(st.binary(max_size=300))
def test_any_bytes_give_a_certificate_or_request_or_an_error(data: bytes) -> None:
    for read in (read_signing_request, lambda data: parse_certificate(data, "this")):
        with pytest.raises(WireError):
            read(data)


@given(st.integers(0), st.integers(1, 255))
def test_an_altered_certificate_is_refused(position: int, change: int) -> None:
    data = bytearray(der(client()))
    data[position % len(data)] ^= change
    with pytest.raises(WireError):
        check_client(parse_certificate(bytes(data), "this"), CA.certificate, AGENT, "this")


def test_certificates_and_requests_have_a_cap() -> None:
    with pytest.raises(TooLargeError):
        parse_certificate(bytes(4097), "this")
    with pytest.raises(TooLargeError):
        read_signing_request(bytes(4097))


def signed_by_hand(
    ca: Authority,
    names: list[str],
    extensions: list[x509.ExtensionType],
) -> x509.Certificate:
    """A certificate as `wire.issuing` would not make it."""
    builder = (
        x509.CertificateBuilder()
        .issuer_name(ca.certificate.subject)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n) for n in names]))
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(ca.key, hashes.SHA256())


LEAF = x509.BasicConstraints(ca=False, path_length=None)
CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (client("gateway-2"), "is for gateway-2, not gateway-1"),
        (client(ca=OTHER_CA), "not signed by this federation's CA"),
        (signed_by_hand(CA, [], [LEAF, CLIENT]), "is for nobody"),
        (signed_by_hand(CA, [AGENT, "coordinator"], [LEAF, CLIENT]), "is for gateway-1, coord"),
        (signed_by_hand(CA, [AGENT], [LEAF, SERVER]), "not for a client"),
        (signed_by_hand(CA, [AGENT], [LEAF, BOTH]), "not for a client"),
        (signed_by_hand(CA, [AGENT], [LEAF]), "lacks ExtendedKeyUsage"),
        (signed_by_hand(CA, [AGENT], [CLIENT]), "lacks BasicConstraints"),
        (
            signed_by_hand(CA, [AGENT], [x509.BasicConstraints(ca=True, path_length=0), CLIENT]),
            "a CA's",
        ),
    ],
)
def test_a_certificate_that_is_not_this_clients_is_refused(
    certificate: x509.Certificate, reason: str
) -> None:
    with pytest.raises(WireError, match=reason):
        check_client(certificate, CA.certificate, AGENT, "this")


def test_only_a_ca_signs() -> None:
    check_authority(CA.certificate, "this")
    pretender = Authority(KEY, client())
    check_client(client("x", pretender), pretender.certificate, "x", "this")  # signed it is
    with pytest.raises(MalformedError, match="not a CA"):
        check_authority(pretender.certificate, "this")


def test_the_key_and_the_end_of_a_certificate_are_checked() -> None:
    certificate = client(days=30)
    check_key(certificate, KEY.public_key(), "this")
    with pytest.raises(SignatureError, match="another key"):
        check_key(certificate, new_key().public_key(), "this")
    check_not_ended(certificate, NOW + timedelta(days=30), "this")
    check_not_ended(certificate, datetime(1970, 1, 1, tzinfo=UTC), "this")  # no clock at boot
    with pytest.raises(MalformedError, match="valid until 2026-07-01"):
        check_not_ended(certificate, NOW + timedelta(days=30, seconds=1), "this")


def test_the_fingerprint_is_openssls(directory: Path) -> None:
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256"]
    command += ["-in", str(directory / "ca.crt")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ours = fingerprint(read_certificate(directory / "ca.crt"))
    assert shown.partition("=")[2].strip().replace(":", "").lower() == ours.hex()


def test_private_keys_are_the_owners_alone_and_certificates_are_everybodys(
    directory: Path,
) -> None:
    assert {path.name: mode(path) for path in directory.iterdir()} == {
        "ca.key": 0o600,
        "ca.crt": 0o644,
        "broker.key": 0o600,
        "broker.crt": 0o644,
        f"{AGENT}.tls.key": 0o600,
        f"{AGENT}.crt": 0o644,
    }
    for path in directory.glob("*.key"):
        assert path.read_text().startswith("-----BEGIN PRIVATE KEY-----")


MAKERS: list[tuple[str, str, Callable[[Path], None]]] = [
    ("ca.key", "ca.crt", lambda directory: make_authority(directory, "plant-net")),
    ("broker.key", "broker.crt", lambda directory: issue_broker(directory, ["localhost"])),
    (f"{AGENT}.tls.key", f"{AGENT}.crt", lambda directory: issue_client(directory, AGENT)),
]


@pytest.mark.parametrize(("key", "certificate", "make"), MAKERS)
def test_nothing_is_overwritten(
    directory: Path, key: str, certificate: str, make: Callable[[Path], None]
) -> None:
    before = (directory / key).read_bytes(), (directory / certificate).read_bytes()
    with pytest.raises(SettingsError, match="nothing is overwritten") as refused:
        make(directory)
    assert refused.value.file == str(directory / certificate)
    assert before == ((directory / key).read_bytes(), (directory / certificate).read_bytes())


@pytest.mark.parametrize(("key", "certificate", "make"), MAKERS)
def test_a_key_without_its_certificate_gets_one(
    directory: Path, key: str, certificate: str, make: Callable[[Path], None]
) -> None:
    # A power cut between the two files; and how a broker's certificate is renewed.
    before = (directory / key).read_bytes()
    (directory / certificate).unlink()
    make(directory)
    assert (directory / key).read_bytes() == before
    made, private = read_certificate(directory / certificate), read_key(directory / key)
    check_key(made, private.public_key(), "this")


@pytest.mark.parametrize("name", ["ca", "broker", "root", "charter", "author"])
def test_no_client_takes_the_name_of_the_federations_own_files(directory: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="no client may be called"):
        issue_client(directory, name)
    assert not (directory / f"{name}.tls.key").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", "+", "#", "a b", "x" * 64])
def test_no_client_takes_a_name_that_is_a_path_or_a_pattern(directory: Path, name: str) -> None:
    before = set(directory.iterdir())
    with pytest.raises(MalformedError):
        issue_client(directory, name)
    assert set(directory.iterdir()) == before


@pytest.mark.parametrize("others", [0o640, 0o604, 0o620, 0o610, 0o666])
def test_a_key_that_others_can_touch_is_refused(directory: Path, others: int) -> None:
    path = directory / "ca.key"
    path.chmod(others)
    for use in (
        lambda: read_key(path),
        lambda: read_authority(directory),
        lambda: issue_client(directory, "gateway-2"),
    ):
        with pytest.raises(SettingsError, match=f"chmod 600 {path}"):
            use()
    assert not (directory / "gateway-2.tls.key").exists()


@pytest.mark.parametrize(
    "data", [b"", b"-----BEGIN PRIVATE KEY-----\n", b"\xff" * 100, b"x" * 9000]
)
def test_a_file_that_is_no_key_or_certificate_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd"
    path.write_bytes(data)
    path.chmod(0o600)
    for read in (read_key, read_certificate):
        with pytest.raises(SettingsError, match="not ") as refused:
            read(path)
        assert refused.value.file == str(path)
        with pytest.raises(SettingsError, match="No such file"):
            read(tmp_path / "missing")


def test_a_key_with_a_password_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "locked.key"
    for key, password in (
        (KEY, serialization.BestAvailableEncryption(b"x")),
        (ec.generate_private_key(ec.SECP384R1()), serialization.NoEncryption()),
    ):
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        path.write_bytes(key.private_bytes(*pem, password))
        path.chmod(0o600)
        with pytest.raises(SettingsError, match="not an EC P-256"):
            read_key(path)


def test_a_ca_key_and_certificate_that_do_not_belong_together_are_refused(
    directory: Path,
) -> None:
    write_certificate(directory / "ca.crt", OTHER_CA.certificate)
    with pytest.raises(SettingsError, match="holds another key"):
        read_authority(directory)


def test_a_directory_without_a_ca_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"journeyman keys ca {tmp_path}"):
        issue_client(tmp_path, AGENT)


def test_a_clients_three_files_are_checked_together(directory: Path) -> None:
    ca, certificate, key = (
        directory / name for name in ("ca.crt", f"{AGENT}.crt", f"{AGENT}.tls.key")
    )
    now = datetime.now(UTC)
    end = read_client(ca, certificate, key, AGENT, now)
    assert timedelta(days=1824) < end - now < timedelta(days=1826)
    with pytest.raises(SettingsError, match="not gateway-2"):
        read_client(ca, certificate, key, "gateway-2", now)
    with pytest.raises(SettingsError, match="was valid until"):
        read_client(ca, certificate, key, AGENT, end + timedelta(days=1))
    stranger = directory / "stranger.key"
    write_key(stranger, new_key())
    with pytest.raises(SettingsError, match="holds another key") as refused:
        read_client(ca, certificate, stranger, AGENT, now)
    assert refused.value.file == str(stranger)
    write_certificate(ca, OTHER_CA.certificate)
    with pytest.raises(SettingsError, match="not signed by this federation's CA") as refused:
        read_client(ca, certificate, key, AGENT, now)
    assert refused.value.file == str(certificate)


def test_pythons_tls_loads_the_files_as_they_are(directory: Path) -> None:
    context = ssl.create_default_context(cafile=directory / "ca.crt")
    context.load_cert_chain(directory / f"{AGENT}.crt", directory / f"{AGENT}.tls.key")
    (ca,) = context.get_ca_certs()
    assert (("organizationName", "plant-net"),) in ca["subject"]

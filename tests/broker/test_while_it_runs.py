"""What an operator changes on a running broker, and what a restart leaves of it."""

import shutil
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests.broker.conftest import FEDERATION, MakeBroker, RealBroker
from tests.broker.probe import DEADLINE_S, NOT_AUTHORIZED
from tests.broker.rights import TREE
from tests.broker.test_broker_configuration import uncomment
from wire.certificates import (
    issue_broker,
    issue_client,
    make_authority,
    read_authority,
    read_certificate,
)


@pytest.fixture
def broker(make_broker: MakeBroker) -> Iterator[RealBroker]:
    """A broker of this test's own, not started."""
    made = make_broker("acl")
    yield made
    made.kill()


def reload(broker: RealBroker) -> None:
    """What `systemctl reload mosquitto` does."""
    before = len(broker.log)
    assert broker.process is not None
    broker.process.send_signal(signal.SIGHUP)
    broker.until_logged("Reloading config", before)


def test_changed_rules_hold_after_a_reload_also_for_who_is_connected(broker: RealBroker) -> None:
    broker.start()
    agent, rules = broker.connect("press-1"), broker.directory / "acl"
    assert agent.publish(TREE["own report"], b"counts") == 0
    text = rules.read_text()
    rules.write_text(text.replace(f"pattern write journeyman/v1/{FEDERATION}/report/%u\n", ""))
    reload(broker)
    assert agent.publish(TREE["own report"], b"counts") == NOT_AUTHORIZED
    assert agent.publish(TREE["own state"], b"online") == 0
    agent.close()


def shown(broker: RealBroker, certificates: Path) -> bytes:
    """The certificate that the broker shows to a new connection (DER)."""
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    with (
        socket.create_connection(("127.0.0.1", broker.port), timeout=DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as link,
    ):
        return link.getpeercert(binary_form=True) or b""


def test_a_new_certificate_of_the_broker_is_shown_after_a_reload_and_ends_no_connection(
    broker: RealBroker, certificates: Path, tmp_path: Path
) -> None:
    for path in certificates.iterdir():
        shutil.copy(path, tmp_path)
    broker.config.write_text(broker.config.read_text().replace(str(certificates), str(tmp_path)))
    broker.start()
    agent, before = broker.connect("press-1"), shown(broker, tmp_path)
    (tmp_path / "broker.crt").unlink()
    (tmp_path / "broker.key").unlink()
    issue_broker(tmp_path, ["localhost"])
    assert shown(broker, tmp_path) == before
    reload(broker)
    assert shown(broker, tmp_path) != before
    assert agent.publish(TREE["own state"], b"online") == 0
    agent.close()


def revoke(certificates: Path, directory: Path, *names: str, ends_in_days: int = 30) -> None:
    """Write `ca.crl`, the CA's list of certificates that are not to be believed any more."""
    authority, now = read_authority(certificates), datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - timedelta(days=10))
        .next_update(now + timedelta(days=ends_in_days))
    )
    for name in names:
        serial = read_certificate(certificates / f"{name}.crt").serial_number
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(revoked.build())
    made = builder.sign(authority.key, hashes.SHA256())
    (directory / "ca.crl").write_bytes(made.public_bytes(serialization.Encoding.PEM))


@pytest.fixture
def with_revocation(make_broker: MakeBroker, certificates: Path) -> Iterator[RealBroker]:
    """A running broker whose list of revoked certificates is empty."""
    broker = make_broker("acl", uncomment("crlfile"))
    text = broker.config.read_text()
    listed = str(broker.directory / "ca.crl")
    broker.config.write_text(text.replace(f"{certificates}/ca.crl", listed))
    revoke(certificates, broker.directory)
    broker.start()
    yield broker
    broker.kill()


def test_a_revoked_certificate_does_not_come_in_again_after_a_reload(
    with_revocation: RealBroker, certificates: Path
) -> None:
    broker = with_revocation
    assert broker.lets_in("press-2")
    agent = broker.connect("press-1")
    revoke(certificates, broker.directory, "press-1")
    reload(broker)
    # Who is in stays in until its connection ends; then the list is asked.
    assert agent.publish(TREE["own state"], b"online") == 0
    agent.close()
    assert not broker.lets_in("press-1")
    assert broker.lets_in("press-2")
    broker.kill()
    broker.start()
    assert not broker.lets_in("press-1")
    assert broker.lets_in("press-2")


def test_a_list_of_revoked_certificates_that_has_ended_keeps_everybody_out(
    with_revocation: RealBroker, certificates: Path
) -> None:
    """Why docs/broker.md says to renew it in time."""
    broker = with_revocation
    revoke(certificates, broker.directory, ends_in_days=-1)
    reload(broker)
    assert not broker.lets_in("press-2")
    revoke(certificates, broker.directory)
    reload(broker)
    assert broker.lets_in("press-2")


def test_a_restarted_broker_keeps_nothing_and_accepts_everybody_again(broker: RealBroker) -> None:
    broker.start()
    coordinator = broker.connect("coordinator")
    coordinator.publish(TREE["head"], b"head", retain=True)
    assert coordinator.retained(TREE["head"]) == b"head"
    broker.kill()
    assert not (broker.directory / "mosquitto.db").exists()
    broker.start()
    coordinator = broker.connect("coordinator")
    assert coordinator.retained(TREE["head"]) is None
    coordinator.publish(TREE["head"], b"head", retain=True)
    assert broker.connect("press-1").retained(TREE["head"]) == b"head"


def test_with_persistence_a_crash_brings_back_what_was_cleared(make_broker: MakeBroker) -> None:
    """Why `persistence` is off: the file is older than the broker was."""

    def edit(text: str) -> str:
        assert text.count("\npersistence false\n") == 1
        text = text.replace("\npersistence false\n", "\npersistence true\n")
        return f"{text}\npersistence_location {location}/\n"

    location = "PLACE"
    broker = make_broker("acl", edit)
    broker.config.write_text(broker.config.read_text().replace("PLACE", str(broker.directory)))
    broker.start()
    coordinator, topic = broker.connect("coordinator"), TREE["chunk of a model"]
    coordinator.publish(topic, b"old chunk", retain=True)
    assert broker.process is not None
    broker.process.send_signal(signal.SIGUSR1)  # what autosave_interval does
    saved = broker.directory / "mosquitto.db"
    broker.until_logged("Saving in-memory database")
    deadline = time.monotonic() + DEADLINE_S
    while not saved.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    coordinator.publish(topic, b"", retain=True)
    assert coordinator.retained(topic) is None
    broker.kill()
    broker.start()
    assert broker.connect("press-1").retained(topic) == b"old chunk"
    broker.kill()


def test_with_two_cas_in_its_file_the_broker_accepts_the_certificates_of_both(
    broker: RealBroker, certificates: Path, tmp_path: Path
) -> None:
    """How a federation changes its CA without an hour in which half of its gateways are out."""
    new = tmp_path / "new"
    new.mkdir()
    make_authority(new, FEDERATION)
    issue_client(new, "press-1")
    both = tmp_path / "both.crt"
    both.write_bytes((certificates / "ca.crt").read_bytes() + (new / "ca.crt").read_bytes())
    text = broker.config.read_text()
    broker.config.write_text(text.replace(f"cafile {certificates}/ca.crt", f"cafile {both}"))
    broker.start()
    (new / "ca.crt").write_bytes(both.read_bytes())  # the client, too, believes both
    for directory in (certificates, new):
        client = broker.connect("press-1", certificates=directory)
        assert client.publish(TREE["own state"], b"online") == 0
        client.close()

"""What a client says of itself counts for nothing: wills, client ids, and strange names."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from tests.broker.conftest import WATCHER, Guard, MakeBroker, RealBroker, enrol
from tests.broker.probe import DEADLINE_S, NOT_AUTHORIZED, Probe, Protocol
from tests.broker.rights import TOPICS, TREE, may_write
from wire.certificates import issue_client, read_authority, write_certificate, write_key
from wire.errors import MalformedError
from wire.issuing import new_key
from wire.topics import check_name

GUARDS: tuple[Guard, ...] = ("acl", "dynsec")
PROTOCOLS: tuple[Protocol, ...] = ("3.1.1", "5")
Guarded = Callable[[Guard], RealBroker]
both_guards = pytest.mark.parametrize("guard", GUARDS)
both_protocols = pytest.mark.parametrize("protocol", PROTOCOLS)
STRANGE = ["+", "#", "press-1/0123456789abcdef", "press-1/#", "../press-1", "$SYS", "", "a b"]


def ended_by_abort(broker: RealBroker, client: Probe) -> None:
    """Drop the connection, and wait until the broker has noticed."""
    before = len(broker.log)
    client.abort()
    broker.until_logged(r"Client press-1 (closed its connection|disconnected)", before)


def ended_by_takeover(broker: RealBroker, client: Probe) -> None:
    """Connect under the same name once more: the broker ends the earlier connection."""
    broker.connect("press-1", client.protocol).close()
    assert client.ended.wait(DEADLINE_S)


@pytest.mark.parametrize("end", [ended_by_abort, ended_by_takeover])
@pytest.mark.parametrize("what", TREE)
@both_protocols
@both_guards
def test_a_will_is_published_where_its_client_might_publish_and_nowhere_else(
    guarded: Guarded,
    guard: Guard,
    protocol: Protocol,
    what: str,
    end: Callable[[RealBroker, Probe], None],
) -> None:
    broker, topic = guarded(guard), TREE[what]
    watcher = broker.probe(WATCHER, protocol)
    watcher.subscribe("#")
    watcher.heard()
    client = broker.connect("press-1", protocol, will=(topic, b"offline"))
    assert client.accepted == 0
    end(broker, client)
    heard, kept = watcher.heard().get(topic), watcher.retained(topic)
    watcher.publish(topic, b"", retain=True)
    expected = b"offline" if what in may_write(guard, "press-1") else None
    assert (heard, kept) == (expected, expected)


@both_protocols
@both_guards
def test_a_client_that_calls_itself_by_anothers_id_disturbs_nobody(
    guarded: Guarded, guard: Guard, protocol: Protocol
) -> None:
    broker = guarded(guard)
    victim = broker.connect("press-1", protocol)
    victim.subscribe(TOPICS.to("press-1"))
    thief = broker.connect("press-2", protocol, client_id="press-1")
    thief.subscribe(TOPICS.to("press-1"))
    broker.probe(WATCHER, protocol).publish(TOPICS.to("press-1"), b"receipt")
    assert victim.heard() == {TOPICS.to("press-1"): b"receipt"}
    assert thief.heard() == {}
    assert victim.is_connected
    broker.until_logged(r"as press-2 \(.*u'press-2'\)")
    for client in (victim, thief):
        client.close()


@both_protocols
def test_without_the_setting_a_client_id_would_be_enough_to_end_anothers_connection(
    make_broker: MakeBroker, protocol: Protocol
) -> None:
    def edit(text: str) -> str:
        assert text.count("\nuse_username_as_clientid true\n") == 1
        return text.replace("\nuse_username_as_clientid true\n", "\n")

    broker = make_broker("acl", edit)
    broker.start()
    victim = broker.connect("press-1", protocol)
    thief = broker.connect("press-2", protocol, client_id="press-1")
    assert victim.ended.wait(DEADLINE_S)
    assert thief.is_connected
    broker.until_logged("Client press-1 already connected, closing old connection")
    thief.close()
    broker.kill()


@both_protocols
def test_a_certificate_used_twice_is_seen_in_the_log(guarded: Guarded, protocol: Protocol) -> None:
    broker = guarded("acl")
    before = len(broker.log)
    first, second = broker.connect("press-2", protocol), broker.connect("press-2", protocol)
    assert first.ended.wait(DEADLINE_S)
    broker.until_logged("Client press-2 already connected, closing old connection", before)
    second.close()


def careless(certificates: Path, directory: Path, name: str) -> None:
    """A certificate that our programs would never make, signed by the federation's CA."""
    authority, key, now = read_authority(certificates), new_key(), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(authority.key, hashes.SHA256())
    )
    write_key(directory / "strange.tls.key", key)
    write_certificate(directory / "strange.crt", certificate)
    (directory / "ca.crt").write_bytes((certificates / "ca.crt").read_bytes())


@both_guards
@pytest.mark.parametrize("name", ["+", "#", "press-+", "$SYS"])
def test_a_name_with_a_wildcard_has_no_rights_even_with_a_certificate(
    guarded: Guarded, guard: Guard, name: str, certificates: Path, tmp_path: Path
) -> None:
    careless(certificates, tmp_path, name)
    broker = guarded(guard)
    watcher = broker.probe(WATCHER)
    watcher.subscribe("#")
    watcher.heard()
    client = broker.connect("strange", certificates=tmp_path)
    for what in ("another's header", "another's state", "head", "another's report"):
        assert client.publish(TREE[what], b"mine", retain=True) == NOT_AUTHORIZED
    client.subscribe(TOPICS.all_inboxes, TOPICS.all_states)
    watcher.publish(TOPICS.to("press-1"), b"receipt")
    assert client.heard() == {}
    assert watcher.heard() == {TOPICS.to("press-1"): b"receipt"}
    client.close()


def test_a_name_with_a_slash_would_be_a_right_in_anothers_tree(
    guarded: Guarded, certificates: Path, tmp_path: Path
) -> None:
    """Why names are checked before a certificate is made: the broker would not notice."""
    careless(certificates, tmp_path, "press-1/0123456789abcdef")
    client = guarded("acl").connect("strange", certificates=tmp_path)
    assert client.publish(TREE["own header"], b"not mine") == 0
    client.close()


@pytest.mark.parametrize("name", STRANGE)
def test_nobody_gets_a_certificate_or_rights_under_a_strange_name(
    guarded: Guarded, repository: Path, certificates: Path, name: str
) -> None:
    with pytest.raises(MalformedError):
        check_name(name, "agent")
    with pytest.raises(MalformedError):
        issue_client(certificates, name)
    before = guarded("dynsec").control("listRoles")
    assert "is no name" in enrol(guarded("dynsec"), repository, "add", name)
    assert guarded("dynsec").control("listRoles") == before


@pytest.mark.parametrize("name", ["coordinator", "observer", "administrator"])
def test_no_agent_gets_the_rights_of_a_role(guarded: Guarded, repository: Path, name: str) -> None:
    before = guarded("dynsec").control("getClient", name)
    assert "not an agent's name" in enrol(guarded("dynsec"), repository, "add", name)
    assert guarded("dynsec").control("getClient", name) == before

"""The OPC UA client's channels and identities, against node-opcua, which trusts nobody unasked."""

import asyncio
import contextlib
import json
import selectors
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from asyncua import Client, ua

from agent.sensors.opcua.advice import advice
from agent.sensors.opcua.certificates import thumbprint
from agent.sensors.opcua.offers import RefusedError, choose_endpoint, choose_token
from agent.sensors.opcua.own_certificate import own_certificate
from agent.sensors.opcua.security import SecuritySettings, problems_of_security, secure
from agent.sensors.opcua.trust_store import keep, pki_directory, read_trust_list
from agent.sensors.source import SourceContext
from agent.trust_command import add_to_list, read_given, remove_from_list
from shopfloor.ports import free_port
from tests.agent.opcua_pki import DAY, NOW, Party, authority, rsa_key, server

START_DEADLINE_S = 60.0
AGENT = "gateway-7"
POLICIES = ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
SECURE = SecuritySettings(policy="Basic256Sha256")


@dataclass(frozen=True)
class Source:
    """What `secure` needs of the settings of a source."""

    endpoint: str
    security: SecuritySettings


@dataclass(frozen=True)
class Plant:
    """Running servers by name, their certificates, and what they trust.

    Attributes:
      own: state directory whose agent's certificate the servers trust.
      user: a user whom the servers trust.
    """

    endpoints: dict[str, str]
    certificates: dict[str, Party]
    own: Path
    user: Party


@pytest.fixture(scope="module")
def plant(
    node_program: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plant]:
    """Servers in one process: `good`, `expired` (which offers one policy), `misnamed`, `signed`."""
    folder = repository / "tests" / "node_opcua"
    if not (folder / "node_modules" / "node-opcua").is_dir():
        pytest.skip("node-opcua is not installed: run tests/install.sh .venv/bin/python")
    scratch = tmp_path_factory.mktemp("secure")
    user = server("urn:user", key=rsa_key(5))
    own = own_certificate(pki_directory(scratch / "state") / "own", AGENT, NOW)
    trusted, users = scratch / "pki" / "trusted" / "certs", scratch / "pki" / "users"
    for place, data in ((trusted, own.path.read_bytes()), (users / "trusted" / "certs", user.der)):
        place.mkdir(parents=True)
        (place / "trusted.der").write_bytes(data)
    certificates = {
        "good": server("urn:plant:good"),
        "expired": server("urn:plant:expired", valid=(NOW - 10 * DAY, NOW - DAY)),
        "misnamed": server("urn:plant:other", key=rsa_key(1)),
        "signed": server("urn:plant:signed", issuer=authority("Plant root", 2)),
    }
    servers = []
    for name, party in certificates.items():
        certificate, key = party.write(scratch, name)
        settings = {"certificate": str(certificate), "key": str(key), "uri": f"urn:plant:{name}"}
        servers.append({"port": free_port(), **settings})
    servers[1]["policies"] = ["Aes128_Sha256_RsaOaep"]
    endpoints = {
        name: f"opc.tcp://127.0.0.1:{settings['port']}/secure"
        for name, settings in zip(certificates, servers, strict=True)
    }
    command = [node_program, str(folder / "secure.cjs")]
    command.append(json.dumps({"pki": str(scratch / "pki"), "servers": servers}))
    with _running(command, scratch / "node.txt"):
        yield Plant(endpoints, certificates, scratch / "state", user)


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            deadline = time.monotonic() + START_DEADLINE_S
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while selector.select(timeout=max(0.0, deadline - time.monotonic())):
                    line = process.stdout.readline()
                    if not line or line.startswith("READY"):
                        break
                else:
                    line = ""
            assert line, f"node-opcua did not become ready; it wrote:\n{log.read_text()[-4000:]}"
            yield
        finally:
            process.kill()


@dataclass(frozen=True)
class Gateway:
    """An agent's folders, for one test."""

    plant: Plant
    context: SourceContext

    @property
    def pki(self) -> Path:
        return pki_directory(self.context.state_dir)

    def source(self, security: SecuritySettings, name: str = "good") -> Source:
        return Source(self.plant.endpoints[name], security)

    def read(self, security: SecuritySettings, name: str = "good") -> float:
        """Connect, read the variable, and disconnect."""
        return asyncio.run(self.read_once(self.source(security, name)))

    async def read_once(self, source: Source, client: Client | None = None) -> float:
        client = client or Client(source.endpoint, timeout=10)
        await secure(client, source, self.context)
        async with client:
            return float(await client.get_node("ns=1;s=Count").read_value())

    def refusal(self, security: SecuritySettings, name: str = "good") -> str:
        with pytest.raises(RefusedError) as caught:
            self.read(security, name)
        return str(caught.value)

    def file(self, name: str, text: str) -> str:
        path = self.context.config_dir / name
        path.write_text(text)
        path.chmod(0o600)
        return name


@pytest.fixture
def gateway(plant: Plant, tmp_path: Path) -> Gateway:
    """The agent that the servers trust, and that trusts `good` and nobody else."""
    made = Gateway(plant, SourceContext(tmp_path, tmp_path / "state", AGENT))
    shutil.copytree(plant.own, made.context.state_dir)
    keep(made.pki, "trusted", plant.certificates["good"].certificate)
    return made


@pytest.mark.parametrize("mode", ["Sign", "SignAndEncrypt"])
@pytest.mark.parametrize("policy", POLICIES)
def test_values_come_through_every_policy_and_mode(
    gateway: Gateway, policy: str, mode: str
) -> None:
    assert gateway.read(_settings(policy=policy, mode=mode)) == 7.0


def test_values_come_without_a_policy_and_no_certificate_is_needed(
    gateway: Gateway, tmp_path: Path
) -> None:
    bare = replace(gateway, context=SourceContext(tmp_path, tmp_path / "bare", AGENT))
    assert bare.read(SecuritySettings()) == 7.0
    assert not (tmp_path / "bare").exists()


def _settings(**keys: object) -> SecuritySettings:
    settings = SecuritySettings(**keys)  # type: ignore[arg-type]
    assert list(problems_of_security(settings)) == []
    return settings


@pytest.mark.parametrize(
    "keys",
    [
        {"policy": "Basic256Sha256"},
        {"policy": "Aes128Sha256RsaOaep", "mode": "Sign"},
        {"policy": "Aes256Sha256RsaPss", "mode": "Sign"},
        {"allow_unprotected_password": True},
    ],
)
def test_a_corrected_password_works_at_the_next_attempt(
    gateway: Gateway, keys: dict[str, object]
) -> None:
    security = _settings(user="agent", password_file=gateway.file("password", "wrong\n"), **keys)
    with pytest.raises(ua.UaStatusCodeError) as caught:
        gateway.read(security)
    said = advice(caught.value, gateway.source(security), gateway.context)
    assert "does not accept user 'agent'" in said
    assert "read again at the next attempt" in said
    gateway.file("password", "s3cret\n")
    assert gateway.read(security) == 7.0


def test_a_password_file_that_is_missing_or_open_to_others_is_named(gateway: Gateway) -> None:
    security = _settings(policy="Basic256Sha256", user="agent", password_file="password")
    assert "password: can not read this password" in gateway.refusal(security)
    gateway.file("password", "s3cret")
    (gateway.context.config_dir / "password").chmod(0o644)
    assert "chmod 600" in gateway.refusal(security)


def test_a_user_can_show_a_certificate(gateway: Gateway) -> None:
    folder = gateway.context.config_dir
    gateway.plant.user.write(folder, "user")
    server("urn:stranger", key=rsa_key(6)).write(folder, "stranger")
    known = _settings(policy="Aes256Sha256RsaPss", user_certificate="user.pem", user_key="user.key")
    assert gateway.read(known) == 7.0
    unknown = _settings(
        policy="Basic256Sha256", user_certificate="stranger.pem", user_key="stranger.key"
    )
    with pytest.raises(ua.UaStatusCodeError) as caught:
        gateway.read(unknown)
    said = advice(caught.value, gateway.source(unknown), gateway.context)
    assert "does not accept stranger.pem" in said


def test_an_untrusted_server_is_refused_until_added_and_again_after_removal(
    gateway: Gateway,
) -> None:
    number = thumbprint(gateway.plant.certificates["good"].certificate)
    remove_from_list(gateway.pki, number)
    for path in (gateway.pki / "rejected").iterdir():
        path.unlink()
    said = gateway.refusal(SECURE)
    assert gateway.plant.endpoints["good"] in said
    assert f"journeyman-agent trust add CONFIG {number}" in said
    assert number in add_to_list(gateway.pki, read_given(number), NOW, is_issuer=False)
    assert gateway.read(SECURE) == 7.0
    remove_from_list(gateway.pki, number)
    assert "not trusted" in gateway.refusal(SECURE)


def test_a_server_is_trusted_by_its_ca_and_held_to_its_application_uri(gateway: Gateway) -> None:
    assert "not trusted" in gateway.refusal(SECURE, "signed")
    keep(gateway.pki, "trusted", authority("Plant root", 2).certificate)
    assert gateway.read(SECURE, "signed") == 7.0
    named = _settings(policy="Basic256Sha256", server_uri="urn:plant:signed")
    assert gateway.read(named, "signed") == 7.0
    other = _settings(policy="Basic256Sha256", server_uri="urn:plant:press9")
    assert "'urn:plant:signed' and not server_uri" in gateway.refusal(other, "signed")


def test_an_expired_certificate_is_refused_although_it_is_trusted(gateway: Gateway) -> None:
    keep(gateway.pki, "trusted", gateway.plant.certificates["expired"].certificate)
    said = gateway.refusal(_settings(policy="Aes128Sha256RsaOaep"), "expired")
    assert "expired on" in said
    assert thumbprint(gateway.plant.certificates["expired"].certificate) in said


def test_a_certificate_of_another_application_is_refused_although_it_is_trusted(
    gateway: Gateway,
) -> None:
    keep(gateway.pki, "trusted", gateway.plant.certificates["misnamed"].certificate)
    said = gateway.refusal(SECURE, "misnamed")
    assert "'urn:plant:other'" in said
    assert "'urn:plant:misnamed'" in said


def test_any_server_is_accepted_only_when_the_settings_say_so(gateway: Gateway) -> None:
    assert gateway.read(_settings(policy="Basic256Sha256", trust="any"), "misnamed") == 7.0
    assert read_trust_list(gateway.pki).rejected == ()


def test_what_the_server_does_not_offer_is_refused_and_what_it_offers_is_named(
    gateway: Gateway,
) -> None:
    offers = "but Aes128Sha256RsaOaep/Sign, Aes128Sha256RsaOaep/SignAndEncrypt"
    for security in (SECURE, SecuritySettings()):
        said = gateway.refusal(security, "expired")
        assert f"does not offer {security.policy}" in said
        assert offers in said


def test_a_server_that_does_not_trust_the_agent_is_told_how_to(
    gateway: Gateway, tmp_path: Path
) -> None:
    stranger = replace(gateway, context=SourceContext(tmp_path, tmp_path / "new", "gateway-8"))
    keep(stranger.pki, "trusted", gateway.plant.certificates["good"].certificate)
    with pytest.raises((OSError, ua.UaError)) as caught:
        stranger.read(SECURE)
    said = advice(caught.value, stranger.source(SECURE), stranger.context)
    path = stranger.pki / "own" / "certificate.der"
    assert str(path) in said
    assert path.is_file()


def test_the_agent_can_use_a_certificate_of_its_plant(gateway: Gateway, tmp_path: Path) -> None:
    own = gateway.pki / "own"
    for name, to in (("certificate.der", "plant.der"), ("key.pem", "plant.pem")):
        shutil.copy(own / name, tmp_path / to)
    shutil.rmtree(own)
    given = _settings(policy="Basic256Sha256", certificate="plant.der", key="plant.pem")
    assert gateway.read(given) == 7.0
    assert not own.exists()
    server("urn:other", key=rsa_key(6)).write(tmp_path, "other")
    wrong = _settings(policy="Basic256Sha256", certificate="plant.der", key="other.key")
    assert "holds another key" in gateway.refusal(wrong)


def test_one_client_can_be_secured_again_for_another_connection(gateway: Gateway) -> None:
    async def twice() -> tuple[float, float]:
        source = gateway.source(SECURE)
        client = Client(source.endpoint, timeout=10)
        return await gateway.read_once(source, client), await gateway.read_once(source, client)

    assert asyncio.run(twice()) == (7.0, 7.0)


def test_a_session_is_taken_up_again_on_a_new_secure_channel(gateway: Gateway) -> None:
    async def again() -> tuple[bool, float]:
        password = gateway.file("password", "s3cret")
        security = _settings(policy="Aes256Sha256RsaPss", user="agent", password_file=password)
        source = gateway.source(security)
        client = Client(source.endpoint, timeout=10)
        await secure(client, source, gateway.context)
        await _open_channel(client)
        await client.create_session()
        await client._activate_with_credentials()  # noqa: SLF001  as the source does it
        token = client.uaclient.session.authentication_token
        client.disconnect_socket()
        await secure(client, source, gateway.context)
        await _open_channel(client)
        client.uaclient.session.rebind_authentication_token()
        await client._activate_with_credentials()  # noqa: SLF001
        value = await client.get_node("ns=1;s=Count").read_value()
        is_same = token == client.uaclient.session.authentication_token
        await client.uaclient.close_session(True)
        client.disconnect_socket()
        return is_same, value

    assert asyncio.run(again()) == (True, 7.0)


async def _open_channel(client: Client) -> None:
    await client.connect_socket()
    await client.send_hello()
    await client.open_secure_channel()


def test_a_session_with_another_server_than_the_checked_one_is_refused(gateway: Gateway) -> None:
    async def shown(party: Party, uri: str) -> None:
        source = gateway.source(SECURE)
        client = Client(source.endpoint, timeout=10)
        await secure(client, source, gateway.context)
        assert client.certificate_validator is not None
        description = ua.ApplicationDescription(ApplicationUri=uri)
        await client.certificate_validator(party.certificate, description)

    good, other = gateway.plant.certificates["good"], gateway.plant.certificates["misnamed"]
    asyncio.run(shown(good, "urn:plant:good"))
    with pytest.raises(RefusedError, match="another server"):
        asyncio.run(shown(other, "urn:plant:good"))
    with pytest.raises(RefusedError, match="another server"):
        asyncio.run(shown(good, "urn:plant:other"))


@pytest.mark.parametrize("mode", ["Sign", "SignAndEncrypt"])
def test_the_client_itself_picks_tokens_so_that_no_password_is_seen(
    gateway: Gateway, mode: str
) -> None:
    kind = ua.UserTokenType.UserName
    source = gateway.source(_settings(policy="Basic256Sha256", mode=mode))
    client = Client(source.endpoint, timeout=10)
    asyncio.run(secure(client, source, gateway.context))
    client._policy_ids = [_token(kind, "None", 1)]  # noqa: SLF001  as a session's answer leaves it
    if mode == "Sign":
        with pytest.raises(RefusedError, match="clear text"):
            client.server_policy(kind)
    else:
        assert client.server_policy(kind).PolicyId == "1"
    client._policy_ids.append(_token(kind, None, 2))  # noqa: SLF001
    assert client.server_policy(kind).PolicyId == "2"


def test_a_server_that_only_shows_a_trusted_certificate_gets_no_session(gateway: Gateway) -> None:
    # The first connection, which asks for endpoints, goes to the trusted server; the next ones to
    # another, which does not have its key.
    async def misled() -> None:
        ends = [_port(gateway.plant.endpoints[name]) for name in ("good", "misnamed")]
        async with _switching(ends) as port:
            await gateway.read_once(Source(f"opc.tcp://127.0.0.1:{port}/secure", SECURE))

    with pytest.raises((OSError, TimeoutError, ua.UaError)):
        asyncio.run(misled())


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2].partition("/")[0])


@contextlib.asynccontextmanager
async def _switching(ports: list[int]) -> AsyncIterator[int]:
    """A relay whose first connection goes to the first port, and so on; the last one stays."""
    pending = list(ports)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = pending.pop(0) if len(pending) > 1 else pending[0]
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError):
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(listener.sockets[0].getsockname()[1])
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"mode": "SignAndEncrypt"}, "mode"),
        ({"trust": "list"}, "trust"),
        ({"server_uri": "urn:plant:press1"}, "server_uri"),
        ({"user": "agent", "password_file": "password"}, "user"),
        ({"policy": "Basic256Sha256", "user": "agent"}, "user"),
        ({"policy": "Basic256Sha256", "password_file": "password"}, "password_file"),
        ({"policy": "Basic256Sha256", "certificate": "own.der"}, "certificate"),
        ({"policy": "Basic256Sha256", "user_key": "user.key"}, "user_key"),
        ({"policy": "Basic256Sha256", "trust": "any", "server_uri": "urn:x"}, "server_uri"),
        (
            {
                "policy": "Basic256Sha256",
                "user": "agent",
                "password_file": "password",
                "user_certificate": "user.pem",
                "user_key": "user.key",
            },
            "user_certificate",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_key_and_never_used(
    keys: dict[str, object], wrong: str, tmp_path: Path
) -> None:
    settings = SecuritySettings(**keys)  # type: ignore[arg-type]
    assert [key for key, _ in problems_of_security(settings)] == [wrong]
    context = SourceContext(tmp_path, tmp_path / "state", AGENT)
    source = Source("opc.tcp://127.0.0.1:1", settings)
    connecting = secure(Client(source.endpoint), source, context)
    with pytest.raises(RefusedError, match=f"security.{wrong}"):
        asyncio.run(connecting)


_URI = "http://opcfoundation.org/UA/SecurityPolicy#"


def _token(kind: ua.UserTokenType, policy: str | None, number: int = 0) -> ua.UserTokenPolicy:
    uri = None if policy is None else f"{_URI}{policy}"
    return ua.UserTokenPolicy(PolicyId=f"{number}", TokenType=kind, SecurityPolicyUri=uri)


def test_the_token_policy_that_protects_a_password_best_is_chosen_wherever_it_stands() -> None:
    kind = ua.UserTokenType.UserName
    offered = [
        _token(ua.UserTokenType.Anonymous, None),
        _token(kind, "None", 1),
        _token(kind, "Basic128Rsa15", 2),
        _token(kind, "Basic256Sha256", 3),
    ]
    chosen = choose_token(offered, kind, f"{_URI}None", "here", may_be_open=True)
    assert (chosen.PolicyId, chosen.SecurityPolicyUri) == ("3", f"{_URI}Basic256Sha256")
    channels = choose_token(
        [_token(kind, None)], kind, f"{_URI}Aes256_Sha256_RsaPss", "here", may_be_open=False
    )
    assert channels.SecurityPolicyUri == f"{_URI}Aes256_Sha256_RsaPss"


@pytest.mark.parametrize("policy", ["None", "Basic128Rsa15"])
def test_a_password_is_not_sent_in_the_clear_unless_the_channel_hides_it(policy: str) -> None:
    kind = ua.UserTokenType.UserName
    offered = [_token(kind, policy)]
    with pytest.raises(RefusedError, match="clear text"):
        choose_token(offered, kind, f"{_URI}Basic256Sha256", "here", may_be_open=False)
    sent = choose_token(offered, kind, f"{_URI}Basic256Sha256", "here", may_be_open=True)
    assert sent.SecurityPolicyUri == f"{_URI}{policy}"


def test_an_identity_that_the_server_does_not_take_is_refused_with_those_it_takes() -> None:
    offered = [_token(ua.UserTokenType.UserName, None)]
    for kind in (ua.UserTokenType.Anonymous, ua.UserTokenType.Certificate):
        with pytest.raises(RefusedError, match=f"{kind.name}, but UserName"):
            choose_token(offered, kind, f"{_URI}Basic256Sha256", "here", may_be_open=True)
    with pytest.raises(RefusedError, match="without a signature"):
        choose_token(
            [_token(ua.UserTokenType.Certificate, "None")],
            ua.UserTokenType.Certificate,
            f"{_URI}Basic256Sha256",
            "here",
            may_be_open=True,
        )


def test_only_endpoints_that_the_client_can_reach_count() -> None:
    http = ua.EndpointDescription(
        EndpointUrl="https://press1/ua",
        SecurityMode=ua.MessageSecurityMode.Sign,
        SecurityPolicyUri=f"{_URI}Basic256Sha256",
    )
    with pytest.raises(RefusedError, match="but nothing"):
        choose_endpoint([http], f"{_URI}Basic256Sha256", ua.MessageSecurityMode.Sign, "here")

"""Who may read scores over a network: nobody without a certificate that a person has trusted."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from asyncua import Client, ua
from asyncua.crypto import security_policies
from asyncua.crypto.uacrypto import CertProperties
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.sensors.opcua.certificates import der, thumbprint
from agent.sensors.opcua.own_certificate import OwnCertificate, own_certificate
from agent.sensors.opcua.trust_store import keep, pki_directory
from agent.serve.clients import CLIENTS
from agent.serve.outputs import Outputs
from agent.serve.settings import OpcUaServerSettings, ScoresTable
from shopfloor.ports import free_port
from tests.agent.scores_peers import Program, node_script, running, score, until

NETWORK = "0.0.0.0"


@pytest.fixture(scope="module")
def plc(node_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A PLC that is not connected yet."""
    with node_script(node_program, "reader.cjs", str(tmp_path_factory.mktemp("plc"))) as program:
        yield program


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> OwnCertificate:
    """A client of asyncua with a good certificate of its own."""
    return own_certificate(tmp_path_factory.mktemp("stranger"), "stranger", datetime.now(UTC))


@asynccontextmanager
async def served(folder: Path, **keys: object) -> AsyncIterator[tuple[int, Outputs]]:
    """An agent that serves one score to the network."""
    port = free_port()
    settings = OpcUaServerSettings(listen=f"opc.tcp://{NETWORK}:{port}", **keys)  # type: ignore[arg-type]
    async with running(ScoresTable(opcua=settings), folder) as outputs:
        outputs.take([score(0.25)])
        await until(lambda: outputs.reports[0].sent)
        yield port, outputs


async def secured(url: str, own: OwnCertificate) -> Client:
    """A client with a certificate, not connected yet."""
    client = Client(url)
    client.application_uri = "urn:journeyman:agent:stranger"
    key = own.key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    await client.set_security(
        security_policies.SecurityPolicyBasic256Sha256,
        CertProperties(der(own.certificate), "der"),
        CertProperties(key, "der"),
        mode=ua.MessageSecurityMode.SignAndEncrypt,
    )
    return client


def show_another(client: Client, certificate: x509.Certificate) -> None:
    """Let CreateSession show a certificate whose key the client does not have."""
    create = client.uaclient.create_session

    async def create_session(parameters: ua.CreateSessionParameters) -> ua.CreateSessionResult:
        parameters.ClientCertificate = der(certificate)
        return await create(parameters)

    client.uaclient.create_session = create_session  # type: ignore[method-assign]


def test_a_plc_reads_once_its_certificate_is_trusted(tmp_path: Path, plc: Program) -> None:
    async def main() -> None:
        async with served(tmp_path) as (port, outputs):
            url = f"opc.tcp://127.0.0.1:{port}"
            assert "error" in await plc.ask("connect", endpoint=url, policy="Basic256Sha256")
            own = x509.load_pem_x509_certificate(plc.certificate.read_bytes())
            problem = outputs.reports[0].problems[CLIENTS]
            assert f"journeyman-agent trust add CONFIG {thumbprint(own)}" in problem
            rejected = pki_directory(tmp_path / "state") / "rejected"
            assert [file.stem for file in rejected.iterdir()] == [thumbprint(own)]
            keep(pki_directory(tmp_path / "state"), "trusted", own)
            for policy in ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"):
                assert await plc.ask("connect", endpoint=url, policy=policy) == {"ok": True}
                answer = await plc.ask("read", nodes=["s=press/Score"])
                assert answer["values"][0]["value"] == 0.25
            assert CLIENTS not in outputs.reports[0].problems
            await plc.ask("disconnect")

    asyncio.run(main())


def test_nobody_reads_without_security_from_a_network(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (port, _):
            url = f"opc.tcp://127.0.0.1:{port}"
            offered = await Client(url).connect_and_get_server_endpoints()
            modes = {endpoint.SecurityMode for endpoint in offered}
            assert modes == {ua.MessageSecurityMode.SignAndEncrypt}
            client = Client(url)
            await client.connect_socket()
            try:
                await client.send_hello()
                await client.open_secure_channel()  # what GetEndpoints needs
                # Below asyncua's client, which looks for an endpoint without security first.
                await client.uaclient.create_session(ua.CreateSessionParameters())
                activation = ua.ActivateSessionParameters()
                activation.UserIdentityToken = ua.AnonymousIdentityToken()
                with pytest.raises(ua.uaerrors.BadSecurityChecksFailed):
                    await client.uaclient.activate_session(activation)
                with pytest.raises(ua.uaerrors.BadSessionNotActivated):
                    await client.get_node("ns=1;s=press/Score").read_value()
            finally:
                client.disconnect_socket()

    asyncio.run(main())


def test_the_certificate_of_the_channel_counts_and_not_the_one_that_is_shown(
    tmp_path: Path, stranger: OwnCertificate
) -> None:
    async def main() -> None:
        trusted = own_certificate(tmp_path / "trusted", "trusted", datetime.now(UTC))
        keep(pki_directory(tmp_path / "state"), "trusted", trusted.certificate)
        async with served(tmp_path) as (port, _):
            client = await secured(f"opc.tcp://127.0.0.1:{port}", stranger)
            await client.connect_socket()
            try:
                await client.send_hello()
                await client.open_secure_channel()
                show_another(client, trusted.certificate)
                await client.create_session()
                with pytest.raises(ua.uaerrors.BadSecurityChecksFailed):
                    await client.activate_session()
            finally:
                client.disconnect_socket()

    asyncio.run(main())


def test_a_session_can_not_be_taken_over_by_counting(tmp_path: Path) -> None:
    async def main() -> None:
        port = free_port()
        settings = OpcUaServerSettings(listen=f"opc.tcp://127.0.0.1:{port}")
        async with running(ScoresTable(opcua=settings), tmp_path) as outputs:
            await until(lambda: outputs.reports[0].state.startswith("listening"))
            tokens = []
            for _ in range(2):
                async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
                    tokens.append(client.uaclient.session.authentication_token)
            assert all(token.NodeIdType == ua.NodeIdType.ByteString for token in tokens)
            assert all(len(bytes(token.Identifier)) == 32 for token in tokens)  # type: ignore[arg-type]
            assert tokens[0] != tokens[1]

    asyncio.run(main())


def test_security_is_left_out_only_where_that_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            served(tmp_path, allow_insecure=True) as (port, _),
            Client(f"opc.tcp://127.0.0.1:{port}") as client,
        ):
            assert await client.get_node("ns=1;s=press/Score").read_value() == 0.25

    asyncio.run(main())

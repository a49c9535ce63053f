"""`journeyman-agent browse`: what an OPC UA server has, as a tree or as tables to paste.

Reads and browses only.  Certificates and the trust list are those of a configuration file's agent,
which may have no channels yet; without such a file a server is asked without a policy only.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from asyncua import Client
from asyncua.client.ua_session import UaSession

from agent.browse.found import Bounds, Walk
from agent.browse.paste import tables
from agent.browse.tree import tree
from agent.browse.walk import PathError, walk
from agent.config import AgentTable, TrustTable
from agent.enrolled import agent_id
from agent.sensors.opcua.advice import advice
from agent.sensors.opcua.link import FAILURES, GOODBYE_S, MALFORMED, reason_of
from agent.sensors.opcua.security import SecuritySettings, problems_of_security, secure
from agent.sensors.source import SourceContext
from agent.trust_command import as_owner
from wire.errors import SettingsError, one_line
from wire.settings import read_settings, resolve

_SCHEME = "opc.tcp://"
_ANYBODY = "browse"
_ANSWER_S = 10.0
_SESSION_MS = 60_000
"""A session that was not closed is forgotten by the server after so long."""


class _Server(msgspec.Struct, frozen=True):
    """A `[[source.opcua]]` of which only the way to the server counts."""

    endpoint: str
    security: SecuritySettings = SecuritySettings()


class _Sources(msgspec.Struct, frozen=True):
    opcua: _Server | tuple[_Server, ...] = ()


class _Unfinished(msgspec.Struct, frozen=True):
    """A configuration file that may have no channels yet."""

    agent: AgentTable
    trust: TrustTable
    source: _Sources = _Sources()


@dataclass(frozen=True)
class _Target:
    """Where to look, and with whose certificates.

    Attributes:
      server: the way to it.
      state: state directory of the agent; None without a configuration file.
      context: what `secure` needs.
    """

    server: _Server
    state: Path | None
    context: SourceContext


def add_browse(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the agent's parser."""
    browse = commands.add_parser(
        "browse",
        help="show what an OPC UA server has, or print tables to paste",
        description="Walks an OPC UA server and prints its variables with type, value now, unit "
        "and what the user may do: r read, w write, h read history, + the server records it. "
        "Exit status 1 if the server can not be asked.",
    )
    browse.add_argument(
        "target", metavar="ENDPOINT|CONFIG", help="opc.tcp://host:port/path, or the agent's file"
    )
    browse.add_argument("--path", default="/Objects", help="where to begin (/Objects)")
    browse.add_argument("--depth", type=int, default=10, help="levels below it (10)")
    browse.add_argument("--nodes", type=int, default=2000, help="objects and variables (2000)")
    browse.add_argument("--seconds", type=float, default=60, help="of all (60)")
    browse.add_argument("--toml", action="store_true", help="print tables for the agent's file")
    browse.add_argument("--config", type=Path, help="file whose agent's certificates are used")
    browse.add_argument("--policy", help="Basic256Sha256, ..., as in [source.opcua.security]")
    browse.add_argument("--mode", help="Sign or SignAndEncrypt")
    browse.add_argument("--user", help="user name")
    browse.add_argument("--password-file", help="file with the user's password")
    browse.add_argument(
        "--allow-unprotected-password",
        action="store_true",
        help="let the password cross a channel where others can read it",
    )
    browse.set_defaults(command=_browse)


def _browse(options: argparse.Namespace) -> int:
    bounds = Bounds(max(1, options.depth), max(2, options.nodes), max(0.1, options.seconds))
    status = 0
    for target in _targets(options):
        server = target.server
        try:
            with _inside(target) as context:
                found = asyncio.run(_walk(server, context, options.path, bounds))
        except PathError as error:
            raise SettingsError("--path", None, None, str(error)) from None
        except _AskError as error:
            print(f"{server.endpoint}: {error}", file=sys.stderr)
            status = 1
            continue
        lines = tables(found, server.endpoint, server.security) if options.toml else tree(found)
        if not options.toml:
            print(server.endpoint)
        for line in lines:
            print(line)
    return status


class _AskError(Exception):
    """The server can not be asked; says why, and what to do."""


async def _walk(server: _Server, context: SourceContext, path: str, bounds: Bounds) -> Walk:
    try:
        async with _session(server, context) as session:
            return await walk(session, path, bounds)
    except FAILURES as error:
        hint = advice(error, server, context)
        reason = one_line(reason_of(error)) + (f"; {hint}" if hint else "")
        raise _AskError(reason) from error
    except MALFORMED as error:
        raise _AskError(f"an answer of the server can not be read: {error}") from error


@contextlib.asynccontextmanager
async def _session(server: _Server, context: SourceContext) -> AsyncIterator[UaSession]:
    """A session for a moment, closed at the end."""
    client = Client(server.endpoint, timeout=_ANSWER_S)
    client.session_timeout = _SESSION_MS
    await secure(client, server, context)
    try:
        await client.connect_socket()
        await client.send_hello()
        await client.open_secure_channel()
        await client.create_session()
        await client._activate_with_credentials()  # noqa: SLF001  no public one knows them
        yield client.uaclient.session
    finally:
        with contextlib.suppress(*FAILURES, *MALFORMED):  # it ends by itself after a while
            async with asyncio.timeout(GOODBYE_S):
                await client.uaclient.close_session(True)
        client.disconnect_socket()


def _targets(options: argparse.Namespace) -> Iterator[_Target]:
    """One target for an endpoint, one for each OPC UA source of a file.

    Raises:
      SettingsError: what is asked for contradicts itself or is not there.
    """
    is_endpoint = options.target.startswith(_SCHEME)
    config = options.config if is_endpoint else Path(options.target)
    given = _given_security(options)
    if is_endpoint and config is None:
        if given.policy != "None":
            reason = "a policy needs certificates and a trust list: give --config agent.toml, "
            reason += "whose agent's are used"
            raise SettingsError("--policy", None, None, reason)
        context = SourceContext(Path.cwd(), Path.cwd(), _ANYBODY)
        yield _Target(_Server(options.target, given), None, context)
        return
    unfinished = read_settings(config, _Unfinished)
    listed = unfinished.source.opcua
    servers = (listed,) if isinstance(listed, _Server) else listed
    if is_endpoint:
        servers = (_Server(options.target, given),)
    elif not servers:
        reason = "has no [[source.opcua]] yet: give the endpoint, opc.tcp://host:port"
        raise SettingsError(str(config), None, "source.opcua", reason)
    state = resolve(config, unfinished.agent.state_dir)
    for server in servers:
        chosen = server if given == SecuritySettings() else _Server(server.endpoint, given)
        needs_id = chosen.security.policy != "None" and not chosen.security.certificate
        agent = agent_id(config, unfinished.trust) if needs_id else _ANYBODY
        yield _Target(chosen, state, SourceContext(config.parent.absolute(), state, agent))


def _given_security(options: argparse.Namespace) -> SecuritySettings:
    names = ("policy", "mode", "user", "password_file", "allow_unprotected_password")
    keys = {name: getattr(options, name) for name in names if getattr(options, name)}
    if "password_file" in keys:
        keys["password_file"] = str(Path(keys["password_file"]).absolute())
    try:
        security = msgspec.convert(keys, SecuritySettings)
    except msgspec.ValidationError as error:
        raise SettingsError("browse", None, None, f"security: {error}") from None
    for key, reason in problems_of_security(security):
        raise SettingsError(f"--{key.replace('_', '-')}", None, None, reason)
    return security


@contextlib.contextmanager
def _inside(target: _Target) -> Iterator[SourceContext]:
    """Certificates are the agent's, so they are made and read as the owner of its directory."""
    if target.state is None:
        yield target.context
        return
    with as_owner(target.state) as state:
        context = target.context
        yield SourceContext(context.config_dir, state, context.agent)

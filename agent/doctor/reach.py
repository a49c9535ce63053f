"""Whether machines and the broker can be reached from here, now.

Connects and says goodbye: nothing is read from a machine and nothing published.  At the broker it
calls itself by another name than the agent, whose connection would end otherwise.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from agent.doctor.finding import Finding, ok, problem
from agent.sensors.modbus import ModbusSettings
from agent.sensors.opcua import OpcUaSettings
from agent.sources import ConfiguredSource
from wire.errors import LinkDownError, SettingsError
from wire.mqtt import BrokerSettings, connect

_ANSWER_S = 3.0
_BROKER_S = 5.0


@dataclass(frozen=True)
class Endpoint:
    """Something that listens.

    Attributes:
      check: what it is.
      host: name or address.
      port: TCP port.
      advice: what to look at when it does not answer.
    """

    check: str
    host: str
    port: int
    advice: str


def endpoints(sources: Sequence[ConfiguredSource]) -> list[Endpoint]:
    """What the sources connect to over a network, each once."""
    found: dict[tuple[str, int], Endpoint] = {}
    for source in sources:
        settings = source.settings
        if isinstance(settings, OpcUaSettings):
            url = urlsplit(settings.endpoint)
            host, port = url.hostname or "", url.port or 4840
            advice = "is the machine on, and OPC UA enabled in it? Then: journeyman-agent browse"
        elif isinstance(settings, ModbusSettings) and settings.host:
            host, port = settings.host, settings.port
            advice = "is the device on, and Modbus TCP enabled in it? Many take one client only"
        else:
            continue
        found.setdefault((host, port), Endpoint(source.kind, host, port, advice))
    return list(found.values())


async def reached(
    listening: Sequence[Endpoint], broker: BrokerSettings, agent: str
) -> AsyncIterator[Finding]:
    """Try all at once.

    Args:
      listening: machines.
      broker: with whole paths.
      agent: its id.
    """
    tries = [asyncio.create_task(_machine(each), name=each.host) for each in listening]
    tries.append(asyncio.create_task(_broker(broker, agent), name="broker"))
    try:
        for each in tries:
            yield await each
    finally:
        for each in tries:
            each.cancel()
        await asyncio.gather(*tries, return_exceptions=True)


async def _machine(endpoint: Endpoint) -> Finding:
    where = f"{endpoint.host}:{endpoint.port}"
    reason = await why_not(endpoint.host, endpoint.port)
    check = f"{endpoint.check} endpoint"
    if reason:
        return problem(check, f"{where}: {reason}", endpoint.advice)
    return ok(check, f"{where} accepts connections")


async def why_not(host: str, port: int) -> str:
    """Why a TCP connection can not be made; empty when it can."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no answer within {_ANSWER_S:g} s: address, cable, route and firewall"
    except socket.gaierror as error:
        return f"the name is not known ({error.strerror}): check it, and the DNS server"
    except OSError as error:
        # asyncio puts its own words in `strerror`; several addresses that fail have no number.
        return os.strerror(error.errno) if error.errno else str(error)
    writer.close()
    return ""


async def _broker(broker: BrokerSettings, agent: str) -> Finding:
    where = f"{broker.host}:{broker.port}"
    reason = await why_not(broker.host, broker.port)
    if reason:
        return problem(
            "broker",
            f"{where}: {reason}",
            "does it run, and does a firewall let this gateway out? The agent queues meanwhile",
        )
    patience_s = min(broker.ack_timeout_s, _BROKER_S)
    quick = msgspec.structs.replace(broker, ack_timeout_s=patience_s)
    try:
        async with connect(quick, f"{agent}-doctor") as link:
            limit = f", packets up to {link.packet_bytes} bytes" if link.packet_bytes else ""
    except (LinkDownError, SettingsError) as error:
        return problem("broker", str(error), _advice(str(error), broker))
    tls = "TLS and MQTT" if broker.ca_file else "MQTT, without TLS"
    return ok("broker", f"{where} accepted {tls} {broker.protocol}{limit}")


def _advice(reason: str, broker: BrokerSettings) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return "ca_file must hold the CA of the broker's certificate, whose names hold broker.host"
    if "password" in reason or "authori" in reason.lower():
        return "check username, password_file and the broker's password file or client certificates"
    if broker.ca_file:
        return "compare ca_file, cert_file and key_file with the broker's, and look at its log"
    return "does this port expect TLS? Then set ca_file; else look at the broker's log"

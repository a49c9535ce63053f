"""`journeyman-agent doctor`: what is wrong with this gateway, and what to do next.

Works beside a running agent and without one; changes nothing, and never takes the agent's lock.
`--json` prints one document, `agent.doctor.finding.Report`:

    {"version": 1, "config": "agent.toml", "status": "warning",
     "checks": [{"check": "clock", "status": "ok", "finding": "...", "advice": ""}, ...]}

A status is `ok`, `warning`, `problem` or `skipped`; that of the document is the worst of them.
"""

import argparse
import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from agent.config import AgentSettings, read_agent_settings
from agent.doctor.certificates import broker_files, opcua_certificate, trust_list
from agent.doctor.clock import judge_clock, read_clock
from agent.doctor.disk import databases, judge_space, read_space, samples
from agent.doctor.finding import Finding, in_lines, ok, problem, report, skipped, worst
from agent.doctor.identity import Enrolled, identity
from agent.doctor.machine import judge_machine, read_machine
from agent.doctor.model import model
from agent.doctor.reach import Endpoint, endpoints, reached
from agent.doctor.running import running
from agent.doctor.serial_ports import judge_port, read_port
from agent.kept_identity import kept_certificate
from agent.learning.choice import BackendName
from agent.sensors.opcua.trust_store import pki_directory
from agent.trust_command import as_owner
from wire.certificates import read_certificate
from wire.errors import SettingsError
from wire.mqtt import BrokerSettings
from wire.renewal import is_older
from wire.settings import resolve

_TRAINING_BYTES = 256 << 20
"""What is asked of a machine whose configuration can not be read."""


def add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the agent's parser."""
    doctor = commands.add_parser(
        "doctor",
        help="check this gateway and say what to do next",
        description="Checks configuration, identity, certificates, clock, endpoints, serial ports, "
        "disk, files, model and software, whether the agent runs or not, and changes nothing. "
        "Exit status 1 if there is a problem.",
    )
    doctor.add_argument("config", type=Path, help="the agent's TOML file")
    doctor.add_argument("--json", action="store_true", help="one JSON document, for programs")
    doctor.add_argument("--offline", action="store_true", help="connect to nothing")
    # The findings say what log lines would.
    doctor.set_defaults(command=_doctor, log_level=logging.CRITICAL)


def _doctor(options: argparse.Namespace) -> int:
    config: Path = options.config
    findings = list(examine(config, is_offline=options.offline))
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(report(str(config), findings))).decode())
    else:
        for line in in_lines(findings):
            print(line)
    return 1 if worst(findings) == "problem" else 0


def examine(config: Path, *, is_offline: bool) -> Iterator[Finding]:
    """Run all checks.

    Args:
      config: the agent's TOML file.
      is_offline: whether nothing may be connected to.
    """
    try:
        settings = read_agent_settings(config)
    except SettingsError as error:
        yield problem("configuration", str(error), "correct this key; configs/agent.toml has all")
        yield from judge_clock(read_clock([config]))
        yield from _machine("auto", _TRAINING_BYTES)
        yield skipped("everything else", "it depends on the configuration")
        return
    count = sum(len(source.channels) for source in settings.sources)
    yield ok("configuration", f"{config}: {len(settings.sources)} sources, {count} channels")
    found = Enrolled()
    yield from identity(config, settings.trust, found)
    now = datetime.now(UTC)
    broker = _shown(settings.broker, found.agent, resolve(config, settings.agent.state_dir))
    yield from broker_files(broker, found.agent, now)
    yield from _ports(settings)
    yield from _state(config, settings, found, now)
    yield from _machine(settings.training.backend, settings.training.memory_bytes)
    listening = endpoints(settings.sources)
    if is_offline:
        names = [f"{each.host}:{each.port}" for each in listening]
        names.append(f"{settings.broker.host}:{settings.broker.port}")
        yield skipped("endpoints", f"--offline: not tried are {', '.join(names)}")
    else:
        yield from asyncio.run(_reached(listening, broker, found.agent))


def _shown(broker: BrokerSettings, agent: str, state: Path) -> BrokerSettings:
    """With the certificate that was renewed, where there is one: the agent shows that."""
    if not broker.cert_file:
        return broker
    try:
        configured = read_certificate(Path(broker.cert_file))
        with as_owner(state) as inside:
            renewed = read_certificate(kept_certificate(inside, agent))
    except (OSError, SettingsError):
        return broker
    if is_older(renewed, configured):
        return broker
    return msgspec.structs.replace(broker, cert_file=str(kept_certificate(state, agent)))


def _machine(backend: BackendName, memory_bytes: int) -> Iterator[Finding]:
    yield from judge_machine(read_machine(), backend, memory_bytes)


def _ports(settings: AgentSettings) -> Iterator[Finding]:
    devices = [getattr(source.settings, "device", "") for source in settings.sources]
    for device in dict.fromkeys(filter(None, devices)):
        yield from judge_port(read_port(device))


def _state(
    config: Path, settings: AgentSettings, found: Enrolled, now: datetime
) -> Iterator[Finding]:
    """What lies in the state directory, looked at as its owner; root would be let in anywhere."""
    state = resolve(config, settings.agent.state_dir)
    findings: list[Finding] = []
    try:
        with as_owner(state) as inside:
            findings += _inside(inside, state, config, settings, found, now)
    except OSError as error:
        reason = f"{error.filename or state}: {error.strerror}"
        findings.append(problem("state directory", reason, "run this as root, or as the agent"))
    yield from findings


def _inside(
    inside: Path,
    state: Path,
    config: Path,
    settings: AgentSettings,
    found: Enrolled,
    now: datetime,
) -> Iterator[Finding]:
    yield from judge_clock(read_clock([config, *inside.glob("*")]))
    yield from running(inside)
    bound = settings.history.capacity_bytes + settings.outbox.quota_bytes
    bound += settings.store.max_bytes if settings.store.enabled else 0
    yield from judge_space(read_space(inside, str(state), bound))
    if inside.is_dir():
        yield from databases(inside)
        yield from samples(inside / "samples")
    pki = pki_directory(inside)
    secured = [each for each in settings.opcua_sources if each.security.policy != "None"]
    for security in dict.fromkeys(each.security for each in secured):
        yield from opcua_certificate(security, pki, lambda name: resolve(config, name), now)
    if secured:
        yield from trust_list(pki)
    if found.trust is None:
        yield skipped("model", "whom to believe is not known: see identity")
        return
    names = [channel.name for channel in settings.channels]
    yield from model(inside / "models.db", found.trust, names, settings.training.backend)


async def _reached(listening: list[Endpoint], broker: BrokerSettings, agent: str) -> list[Finding]:
    return [finding async for finding in reached(listening, broker, agent)]

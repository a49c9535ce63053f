"""`journeyman-agent doctor`: every kind of trouble is found and told with what to do."""

import argparse
import asyncio
import json
import os
import pty
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agent.adoption import Adoption
from agent.doctor.certificates import broker_files, judge_end, opcua_certificate, trust_list
from agent.doctor.clock import ClockFacts, judge_clock, read_clock
from agent.doctor.disk import SpaceFacts, databases, judge_space, read_space, samples
from agent.doctor.finding import Finding, Report, in_lines, worst
from agent.doctor.machine import MachineFacts, judge_machine, read_machine
from agent.doctor.model import model
from agent.doctor.reach import why_not
from agent.doctor.running import judge_status
from agent.doctor.serial_ports import PortFacts, judge_port, read_port
from agent.doctor_command import add_doctor, examine
from agent.models import Models
from agent.running import agent_runs
from agent.samples import SampleStore, StoreTable
from agent.sensors.opcua.own_certificate import LIFETIME, own_certificate
from agent.sensors.opcua.security import SecuritySettings
from agent.sensors.opcua.trust_store import reject
from agent.sensors.source import SourceReport
from agent.signals.block import block_of
from agent.status import Status
from shopfloor.ports import free_port
from tests.agent.conftest import Broker
from tests.agent.federation import AGENT, CHANNELS, SITE, Federation, agent_toml, feed
from tests.agent.opcua_pki import DAY, NOW, server
from wire.certificates import (
    issue_broker,
    issue_client,
    make_authority,
    read_authority,
    write_certificate,
)
from wire.database import lock_directory
from wire.issuing import client_certificate, new_key
from wire.mqtt import BrokerSettings

PEM_NAMES = ("ca_file", "cert_file", "key_file")


def doctor(config: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    add_doctor(parser.add_subparsers())
    options = parser.parse_args(["doctor", str(config), *words])
    return int(options.command(options))


def by_check(findings: Iterator[Finding] | list[Finding]) -> dict[str, Finding]:
    """The worst finding of each check."""
    order = ("ok", "skipped", "warning", "problem")
    found: dict[str, Finding] = {}
    for each in findings:
        before = found.get(each.check)
        if before is None or order.index(each.status) > order.index(before.status):
            found[each.check] = each
    return found


@pytest.fixture
def config(federation: Federation, tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(agent_toml(federation))
    return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder, "plant-net")
    issue_broker(folder, ["127.0.0.1"])
    issue_client(folder, AGENT)
    return folder


def tls(folder: Path, **changes: object) -> BrokerSettings:
    files = (folder / "ca.crt", folder / f"{AGENT}.crt", folder / f"{AGENT}.tls.key")
    named = dict(zip(PEM_NAMES, map(str, files), strict=True))
    return msgspec.structs.replace(BrokerSettings(), **(named | changes))


def adopted(federation: Federation, state: Path) -> Models:
    """Model slots with a model in use, still open."""
    state.mkdir(exist_ok=True)
    models = Models(state / "models.db")
    adoption = Adoption(models, federation.trust, CHANNELS, "numpy")
    feed(adoption, federation.publish(3, version=7))
    assert adoption.current is not None
    return models


def test_a_healthy_gateway_has_no_problem_and_nothing_of_it_is_changed(
    federation: Federation, tmp_path: Path, config: Path, broker: Broker
) -> None:
    config.write_text(agent_toml(federation, broker_port=broker.port))
    state = tmp_path / "state"
    adopted(federation, state).close()

    def everything() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in state.rglob("*")}

    before = everything()
    found = by_check(examine(config, is_offline=False))
    assert everything() == before
    assert f"agent {AGENT} of site {SITE}" in found["identity"].finding
    assert found["key"].status == "ok"
    assert "golden vectors reproduced" in found["model"].finding
    assert "head 3, serving version 7" in found["model"].finding
    assert found["model channels"].status == "ok"
    assert found["file models.db"].status == "ok"
    assert found["broker"].status == "ok"
    assert found["agent"].status == "skipped"
    dead = {check: each for check, each in found.items() if each.status == "problem"}
    assert set(dead) == {"opcua endpoint"}, "nothing serves OPC UA here"
    assert "browse" in dead["opcua endpoint"].advice


def test_it_works_beside_a_running_agent_whose_lock_it_does_not_take(
    federation: Federation, tmp_path: Path, config: Path
) -> None:
    state = tmp_path / "state"
    models = adopted(federation, state)
    assert not agent_runs(state)
    lock = lock_directory(state, "agent")
    try:
        assert agent_runs(state)
        found = by_check(examine(config, is_offline=True))
        assert found["model"].status == "ok"
        assert found["file models.db"].status == "ok"
        assert found["agent"].status == "ok"
        assert models.head_in_use is not None
        models.forget(b"\0" * 32)  # and the agent can still write
        assert models.problem == ""
    finally:
        os.close(lock)
        models.close()


def test_the_json_document_is_what_its_schema_says_and_offline_connects_to_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(config, "--json", "--offline") == 0
    text = capsys.readouterr().out
    document = msgspec.json.decode(text, type=Report, strict=True)
    assert set(json.loads(text)["checks"][0]) == {"check", "status", "finding", "advice"}
    found = by_check(list(document.checks))
    assert found["endpoints"].status == "skipped"
    assert "127.0.0.1:4840" in found["endpoints"].finding
    assert "broker" not in found
    assert document.status == worst(document.checks)
    assert doctor(config, "--offline") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("skipped  endpoints") for line in lines)
    assert lines[-1].endswith("skipped")


def test_a_broken_configuration_is_told_with_line_and_key_and_the_rest_still_runs(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace("keepalive_s = 2", "keepalive_s = 1"))
    assert doctor(config) == 1
    shown = capsys.readouterr().out
    assert re.search(r"agent\.toml:\d+: broker\.keepalive_s", shown)
    assert "ok       clock" in shown
    assert "skipped  everything else" in shown


def test_a_foreign_key_and_a_missing_credential_are_problems(
    config: Path, federation: Federation
) -> None:
    whole = config.read_text()
    config.write_text(whole.replace(f"{AGENT}.key", "author.key"))
    found = by_check(examine(config, is_offline=True))
    assert found["key"].status == "problem"
    config.write_text(whole.replace(f"{AGENT}.credential", "nobody.credential"))
    found = by_check(examine(config, is_offline=True))
    assert found["identity"].status == "problem"
    assert "nobody.credential" in found["identity"].finding
    assert "enrol" in found["identity"].advice
    assert found["model"].status == "skipped"
    config.write_text(
        whole.replace(str(federation.keys / f"{AGENT}.key"), "${CREDENTIALS_DIRECTORY}/k")
    )
    assert by_check(examine(config, is_offline=True))["key"].status == "skipped"


def test_certificates_are_judged_by_how_long_they_last(certificates: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ends = {days: judge_end("c", "f", now + timedelta(days=days), now, "r") for days in (-1, 9, 99)}
    assert [each.status for each in ends.values()] == ["problem", "warning", "ok"]
    assert {each.status for each in broker_files(tls(certificates), AGENT, now)} == {"ok"}
    foreign = list(broker_files(tls(certificates), "gateway-2", now))
    assert foreign[-1].status == "problem"
    assert "gateway-2" in foreign[-1].finding
    authority = read_authority(certificates)
    expired = client_certificate(
        authority, AGENT, new_key().public_key(), now - timedelta(days=400), days=397
    )
    write_certificate(tmp_path / "old.crt", expired)
    found = list(broker_files(tls(certificates, cert_file=str(tmp_path / "old.crt")), AGENT, now))
    assert [each.status for each in found] == ["ok", "problem"]
    assert "expired" in found[1].finding
    assert "enrol anew" in found[1].advice
    away = BrokerSettings(host="broker.example")
    assert [each.status for each in broker_files(away, AGENT, now)] == ["warning"]


def test_opcua_certificates_and_refused_servers_are_told(tmp_path: Path) -> None:
    policy = SecuritySettings(policy="Basic256Sha256")
    pki = tmp_path / "pki"

    def check(security: SecuritySettings) -> Finding:
        (finding,) = opcua_certificate(security, pki, lambda name: tmp_path / name, NOW)
        return finding

    assert check(policy).status == "skipped"
    assert not pki.exists()
    own_certificate(pki / "own", AGENT, NOW - LIFETIME * 0.8)
    assert check(policy).status == "ok"
    own_certificate(pki / "own", AGENT, NOW)
    assert check(policy).status == "warning"
    assert "next.der" in check(policy).advice
    server("urn:agent", valid=(NOW - 9 * DAY, NOW - DAY)).write(tmp_path, "given")
    given = SecuritySettings(policy="Basic256Sha256", certificate="given.pem", key="given.key")
    assert check(given).status == "problem"
    assert "expired" in check(given).finding
    assert [each.status for each in trust_list(pki)] == ["ok"]
    reject(pki, server().certificate)
    (pki / "trusted").mkdir(exist_ok=True)
    (pki / "trusted" / "photo.jpg").write_bytes(b"\xff\xd8")
    found = list(trust_list(pki))
    assert [each.status for each in found] == ["warning", "warning"]
    assert "photo.jpg" in found[0].finding
    assert "trust add" in found[1].advice


def test_a_real_broker_with_tls_is_shaken_hands_with(
    certificates: Path, federation: Federation, config: Path, broker: Broker
) -> None:
    port = free_port()
    broker.kill()
    broker.start(
        f"listener {port} 127.0.0.1\ncafile {certificates}/ca.crt\n"
        f"certfile {certificates}/broker.crt\nkeyfile {certificates}/broker.key\n"
        "require_certificate true\n"
    )
    files = "".join(f'{name} = "{getattr(tls(certificates), name)}"\n' for name in PEM_NAMES)
    plain = agent_toml(federation, broker_port=port)
    secured = plain.replace("[training]", f"{files}\n[training]")
    config.write_text(secured)
    found = by_check(examine(config, is_offline=False))
    assert found["broker"].status == "ok"
    assert "TLS and MQTT" in found["broker"].finding
    assert found["broker certificates"].status == "ok"
    config.write_text(plain)
    assert "expect TLS" in by_check(examine(config, is_offline=False))["broker"].advice
    other = certificates / "other"
    other.mkdir()
    make_authority(other, "somebody-else")
    config.write_text(secured.replace(f"{certificates}/ca.crt", f"{other}/ca.crt"))
    found = by_check(examine(config, is_offline=False))
    assert found["broker"].status == "problem"
    assert "ca_file must hold the CA" in found["broker"].advice
    assert found["broker certificates"].status == "problem"


def test_a_dead_endpoint_and_an_unknown_name_say_why() -> None:
    assert "refused" in asyncio.run(why_not("127.0.0.1", free_port())).lower()
    assert "name is not known" in asyncio.run(why_not("nobody.invalid", 4840))


def test_the_clock_is_judged_by_what_was_written_before(tmp_path: Path) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)

    def states(facts: ClockFacts) -> list[str]:
        return [each.status for each in judge_clock(facts)]

    assert states(ClockFacts(now, now - DAY, "yes")) == ["ok", "ok"]
    assert states(ClockFacts(now, now + DAY, "no")) == ["problem", "warning"]
    assert states(ClockFacts(datetime(1970, 1, 2, tzinfo=UTC), None, "unknown")) == [
        "problem",
        "skipped",
    ]
    future = tmp_path / "status.json"
    future.write_text("{}")
    later = datetime.now(UTC) + timedelta(days=1)
    os.utime(future, (later.timestamp(), later.timestamp()))
    assert next(iter(judge_clock(read_clock([future, tmp_path / "absent"])))).status == "problem"


def test_serial_ports_are_there_allowed_and_named_for_ever(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    try:
        device = os.ttyname(slave)
        by_id = tmp_path / "by-id"
        by_id.mkdir()
        (by_id / "usb-FTDI_1").symlink_to(device)
        facts = read_port(device, by_id)
        assert facts.is_character_device
        assert facts.by_id == str(by_id / "usb-FTDI_1")
        assert any("usb-FTDI_1" in each.advice for each in judge_port(facts))
        stable = list(judge_port(read_port(str(by_id / "usb-FTDI_1"), by_id)))
        assert [each.status for each in stable] == ["ok"]
        gone = list(judge_port(read_port("/dev/ttyUSB99", by_id)))
        assert [each.status for each in gone] == ["problem"]
        assert "usb-FTDI_1" in gone[0].advice
    finally:
        os.close(master)
        os.close(slave)
    (tmp_path / "plain").write_text("")
    assert "no serial port" in next(judge_port(read_port(str(tmp_path / "plain")))).finding
    denied = PortFacts("/dev/ttyS0", "", True, False, "root:dialout 0660", "dialout")
    assert "SupplementaryGroups=dialout" in next(judge_port(denied)).advice


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_port_of_another_group_is_a_problem_for_who_is_not_root() -> None:
    master, slave = pty.openpty()
    try:
        device = os.ttyname(slave)
        Path(device).chmod(0o600)
        os.seteuid(65_534)
        try:
            found = list(judge_port(read_port(device)))
        finally:
            os.seteuid(0)
    finally:
        os.close(master)
        os.close(slave)
    assert [each.status for each in found][:1] == ["problem"]
    assert "may not be used" in found[0].finding


def test_room_rights_and_read_only_mounts_are_judged(tmp_path: Path) -> None:
    healthy = SpaceFacts("/s", True, True, False, 10 << 30, 1 << 20, 1 << 30)

    def found(**changes: object) -> dict[str, str]:
        facts = replace(healthy, **changes)  # type: ignore[arg-type]
        return {each.check: each.status for each in judge_space(facts)}

    assert set(found().values()) == {"ok"}
    assert found(is_read_only=True)["state directory"] == "problem"
    assert found(is_writable=False)["state directory"] == "problem"
    assert found(exists=False)["state directory"] == "skipped"
    assert found(free_bytes=1 << 20)["disk space"] == "problem"
    assert found(free_bytes=500 << 20)["disk space"] == "warning"
    (tmp_path / "file").write_bytes(bytes(5000))
    facts = read_space(tmp_path, "shown", 1)
    assert facts.used_bytes == 5000
    assert facts.free_bytes > 0
    assert not read_space(tmp_path / "not" / "there", "shown", 1).exists


def test_a_damaged_database_and_one_that_was_set_aside_are_told(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 500)
        database.commit()
    assert [each.status for each in databases(tmp_path)] == ["ok"]
    (tmp_path / "history.db.damaged-1").write_bytes(b"old")
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 60_000)
    found = list(databases(tmp_path))
    assert [each.status for each in found] == ["warning", "problem"]
    assert "history.db.damaged-1" in found[0].finding
    assert "damaged" in found[1].finding
    path.write_bytes(b"this is no database, however long one looks at it" * 100)
    assert "not a database" in list(databases(tmp_path))[-1].finding


def test_damage_in_the_sample_store_is_noticed_and_a_torn_end_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    assert [each.status for each in samples(folder)] == ["skipped"]
    store = SampleStore(folder, ["a"], StoreTable(max_bytes=1 << 20))
    for at in range(5):
        store.append(block_of([0] * 500, range(500), [0] * 500, range(at * 500, at * 500 + 500)))
        store.flush()
    store.close()
    (path,) = folder.glob("*.samples")
    whole = path.read_bytes()
    assert [each.status for each in samples(folder)] == ["ok"]
    path.write_bytes(whole[:-20])
    assert [each.status for each in samples(folder)] == ["ok"]
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\xff" * 8 + whole[middle + 8 :])
    (finding,) = samples(folder)
    assert finding.status == "warning"
    assert path.name in finding.finding


def test_a_model_that_rotted_or_lacks_channels_is_a_problem(
    federation: Federation, tmp_path: Path
) -> None:
    path = tmp_path / "models.db"

    def found(channels: list[str]) -> dict[str, Finding]:
        return by_check(model(path, federation.trust, channels, "numpy"))

    assert found(CHANNELS)["model"].status == "skipped"
    adopted(federation, tmp_path).close()
    assert found(CHANNELS)["model"].status == "ok"
    fewer = found([name for name in CHANNELS if name != "torque"])
    assert "torque" in fewer["model channels"].finding
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE parts SET data = zeroblob(length(data))")
        database.commit()
    rotten = found(CHANNELS)["model"]
    assert rotten.status == "problem"
    assert "damaged on the disk" in rotten.finding


def test_memory_heat_and_missing_software_are_judged() -> None:
    healthy = MachineFacts(
        4 << 30, 2 << 30, 45.0, {"onnxruntime": "", "numpy": ""}, {"numpy": "2"}, "P"
    )

    def found(facts: MachineFacts, backend: str = "auto") -> dict[str, Finding]:
        return by_check(judge_machine(facts, backend, 1 << 30))  # type: ignore[arg-type]

    assert {each.status for each in found(healthy).values()} == {"ok"}
    poor = MachineFacts(
        512 << 20, 300 << 20, 85.0, {"onnxruntime": "no wheel", "numpy": ""}, {"asyncua": None}, "P"
    )
    states = {check: each.status for check, each in found(poor).items()}
    assert states == {
        "memory": "warning",
        "temperature": "warning",
        "backend": "ok",
        "software": "problem",
    }
    assert "numpy" in found(poor)["backend"].finding
    assert found(poor, "onnxruntime")["backend"].status == "problem"
    here = by_check(judge_machine(read_machine(), "auto", 1 << 20))
    assert here["backend"].status == "ok"
    assert "asyncua 2.1" in here["software"].finding


def test_what_the_running_agent_complains_of_is_repeated() -> None:
    lost = SourceReport("opcua opc.tcp://h", "lost: reset", {"torque": "no such node"})
    status = Status(
        agent=AGENT, site=SITE, federation="f", pid=1, sources=[lost], storage="disk is full"
    )
    found = [each.finding for each in judge_status(status)]
    assert found == [
        "opcua opc.tcp://h: lost: reset",
        "opcua opc.tcp://h, torque: no such node",
        "disk is full",
    ]


def test_a_finding_is_one_line_and_its_advice_another() -> None:
    lines = list(in_lines([Finding("clock", "warning", "two\nlines", "do\nthis")]))
    assert lines[0] == "warning  clock  two lines"
    assert lines[1].strip() == "-> do this"
    assert lines[2] == "0 ok, 1 warning, 0 problem, 0 skipped"

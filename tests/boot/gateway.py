"""Journeyman on a machine: put there as an administrator does, watched, and in the end reckoned up.

Installing and enrolling are the commands of docs/broker.md and systemd/README.md, typed into the
machine; agent, coordinator, broker and milling machine are services of its systemd.  All settings
are the shipped ones but those that make it learn in seconds instead of minutes.
"""

import re
import shutil
from pathlib import Path
from typing import Final

from agent.status import FILE_NAME, Status, read_status
from shopfloor.chaos.accounts import AgentAccount, read_outbox, read_store
from shopfloor.chaos.reckoning import Heard, reckon
from tests.boot.machine import Machine

AGENT: Final = "journeyman-agent.service"
COORDINATOR: Final = "journeyman-coordinator.service"
PAGE: Final = "journeyman-coordinator-web.service"
BROKER: Final = "mosquitto.service"
NAME: Final = "press-1"
SHARE: Final = "/opt/journeyman/share"
AGENT_STATE: Final = "var/lib/private/journeyman-agent"
COORDINATOR_STATE: Final = "var/lib/journeyman-coordinator"
SETTINGS: Final = "/etc/journeyman/coordinator.toml"

_BROKER_FILES: Final = f"""
install -d -m 755 /etc/mosquitto/journeyman
install -m 644 authority/ca.crt authority/broker.crt /etc/mosquitto/journeyman/
install -m 600 -o mosquitto -g mosquitto authority/broker.key /etc/mosquitto/journeyman/
install -m 600 -o mosquitto -g mosquitto {SHARE}/configs/broker/acl /etc/mosquitto/journeyman/
install -m 644 {SHARE}/configs/broker/mosquitto.conf /etc/mosquitto/mosquitto.conf
systemctl restart mosquitto
"""
_COORDINATOR_FILES: Final = f"""
journeyman bundle build {SHARE}/configs/jobs/ai4i.toml --keys authority \\
  --federation my-federation --out /etc/journeyman/ai4i.jm
install -m 600 authority/coordinator.key authority/coordinator.tls.key /etc/journeyman/
install -m 644 authority/coordinator.crt authority/ca.crt authority/charter.jm /etc/journeyman/
"""
_ENROLMENT: Final = f"""
journeyman enrolment token authority {NAME} --site plant-a --out {NAME}.token
journeyman-agent enrol request --token {NAME}.token --out /etc/journeyman
journeyman enrolment grant authority /etc/journeyman/{NAME}.request --out {NAME}.answer
"""
_BROKER_TABLE: Final = {
    "host": '"localhost"',
    "port": "8883",
    "ca_file": '"ca.crt"',
    "key_file": '"${CREDENTIALS_DIRECTORY}/broker.key"',
}
_CHANGED: Final = {
    "agent": {
        "training": {"pause_s": "2", "priority": '"low"'},
        # A machine that tests two gateways at once is busy, and that is not what is tested here.
        "training.budget": {"enabled": "false"},
        "personal": {"enabled": "false"},
        "metrics": {"listen": '"127.0.0.1:9485"'},
    },
    "coordinator": {"strategy": {"goal": "1"}, "gate": {"quorum": "1"}},
}
"""For one gateway that learns every few seconds, makes no models of its own, and says how it is."""


def install(machine: Machine, package: Path) -> str:
    """Install a package with apt, which has no network; returns what it printed."""
    inside = machine.root / "var/tmp" / package.name
    shutil.copy(package, inside)
    try:
        return machine.run(f"apt-get install --yes --quiet /var/tmp/{package.name}")
    finally:
        inside.unlink()


def found_federation(machine: Machine) -> None:
    """Make the federation's keys, and give broker and coordinator theirs."""
    machine.run(
        "cd /root; journeyman keys federation my-federation --keys authority;"
        "journeyman keys ca authority; journeyman keys broker authority --host localhost"
    )
    machine.run(f"cd /root; {_BROKER_FILES}")
    machine.run(f"cd /root; {_COORDINATOR_FILES}")
    root = (machine.root / "root/authority/root.pub").read_text().strip()
    _configure(machine, "coordinator", {"root": f'"{root}"'}, "coordinator.crt")
    _give_broker_key(machine, COORDINATOR, "coordinator.tls.key")


def enrol(machine: Machine) -> None:
    """Admit the gateway with a one-time token, and write its configuration."""
    machine.run(f"cd /root; {_ENROLMENT}")
    printed = machine.run(
        f"cd /root; journeyman-agent enrol install {NAME}.answer --dir /etc/journeyman"
    )
    machine.run(f"mv /etc/journeyman/{NAME}.key /etc/journeyman/agent.key")
    (root,) = re.findall(r'^root = "([0-9a-f]+)"$', printed, re.MULTILINE)
    trust = {"root": f'"{root}"', "credential": f'"{NAME}.credential"'}
    _configure(machine, "agent", trust, f"{NAME}.crt")
    _give_broker_key(machine, AGENT, f"{NAME}.tls.key")


def start(machine: Machine) -> None:
    """Enable and start the services."""
    machine.run(f"systemctl daemon-reload; systemctl enable --now {COORDINATOR} {PAGE} {AGENT}")


def status(machine: Machine) -> Status | None:
    """What the agent says of itself; None before its first word."""
    state = machine.root / AGENT_STATE
    link = state / FILE_NAME
    # Where systemd gives a folder in /run, the file is there, and only the machine sees it.
    return read_status(machine.inside(link.readlink().parent) if link.is_symlink() else state)


def readiness(machine: Machine) -> str:
    """What the agent answers when it is asked whether it is ready: `ok`, or the reason."""
    ask = "try: print(urlopen('http://127.0.0.1:9485/readyz').read().decode())\n"
    tell = "except HTTPError as error: print(error.read().decode())"
    imports = "from urllib.request import urlopen; from urllib.error import HTTPError"
    return machine.run(f'python3 -c "{imports}\n{ask}{tell}"', check=False).strip()


def folded(machine: Machine) -> int:
    """Updates of which the agent knows that they are in a version."""
    found = status(machine)
    return found.outcomes.get("folded", 0) if found else 0


def wait_for_updates(machine: Machine, more: int = 2) -> None:
    """Wait until so many more updates were folded: everything from sensor to store works."""
    wanted = folded(machine) + more
    machine.until(lambda: folded(machine) >= wanted, f"{wanted} updates were folded")


def assert_every_update_has_one_outcome(machine: Machine) -> None:
    """Let what is open be delivered, shut the machine down, and hold its databases together.

    What is asked: the outbox, in which an agent's updates are numbered without gaps; and the
    coordinator's store.
    """
    machine.wait_active(AGENT, COORDINATOR)
    machine.run(f"runuser -u journeyman-coordinator -- journeyman-coordinator close {SETTINGS}")
    machine.until(lambda: _open_updates(machine) == 0, "every update has its outcome")
    machine.power_off()
    outbox = read_outbox(NAME, machine.root / AGENT_STATE / "outbox.db")
    store = read_store(machine.root / COORDINATOR_STATE / "coordinator.db")
    result = reckon([outbox], store, Heard(frozenset(), {}))
    assert result.produced > 0
    assert result.lost == []
    assert result.doubled == []
    assert result.outcomes["folded"] == result.produced
    assert _gaps(outbox) == []
    damaged = [path.name for path in machine.root.glob("var/lib/**/*.damaged-*")]
    assert damaged == []


def _gaps(account: AgentAccount) -> list[str]:
    """Sequence numbers that are missing between others: updates that nobody knows any more."""
    numbers: dict[str, list[int]] = {}
    for _, incarnation, sequence in account.words:
        numbers.setdefault(incarnation, []).append(sequence)
    return [
        f"{incarnation}: {sorted(found)}"
        for incarnation, found in numbers.items()
        if sorted(found) != list(range(min(found), min(found) + len(found)))
    ]


def _open_updates(machine: Machine) -> int:
    """Updates without an outcome; one more while the agent may still be making one."""
    found = status(machine)
    if found is None or found.learning != "training is closed":
        return 1
    return sum(found.outcomes.get(each, 0) for each in ("pending", "committed"))


def _configure(machine: Machine, program: str, trust: dict[str, str], certificate: str) -> None:
    """Write a program's configuration: the shipped one, with little changed."""
    text = (machine.root / SHARE.lstrip("/") / f"configs/{program}.toml").read_text()
    broker = _BROKER_TABLE | {"cert_file": f'"{certificate}"'}
    for table, keys in {"trust": trust, "broker": broker, **_CHANGED[program]}.items():
        for key, value in keys.items():
            text = with_key(text, table, key, value)
    (machine.root / f"etc/journeyman/{program}.toml").write_text(text)


def with_key(text: str, table: str, key: str, value: str) -> str:
    """A TOML text in which one key of a table, which is there, has another value."""
    before, head, after = text.partition(f"\n[{table}]\n")
    body, *others = re.split(r"(?=\n\[)", after, maxsplit=1)
    body, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", body, flags=re.MULTILINE)
    assert found == 1, f"the shipped file has no {key} in [{table}]"
    return before + head + body + "".join(others)


def _give_broker_key(machine: Machine, service: str, key: str) -> None:
    """Load a client's TLS key from a file of its own, as drop-ins/broker-secrets.conf says."""
    text = (machine.root / SHARE.lstrip("/") / "systemd/drop-ins/broker-secrets.conf").read_text()
    text = text.replace("/etc/journeyman/broker.key", f"/etc/journeyman/{key}")
    text = re.sub(r"^LoadCredential=broker\.password.*\n", "", text, flags=re.MULTILINE)
    folder = machine.root / f"etc/systemd/system/{service}.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "broker-secrets.conf").write_text(text)

"""Brokers as `configs/broker/` makes them, certificates for them, and clients that say anything."""

import contextlib
import getpass
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from shopfloor.ports import free_port
from tests.broker.probe import Probe, Protocol
from wire.certificates import issue_broker, issue_client, make_authority
from wire.mqtt import BrokerSettings

FEDERATION = "my-federation"
"""As in the shipped files, so that they run as they are."""
WATCHER = "watcher"
"""Only in tests: may say and hear everything, and so tells what really happened."""
CLIENTS = (
    "press-1",
    "press-2",
    "coordinator",
    "enrolment",
    "notary",
    "observer",
    "administrator",
    "newcomer",
    "bridge-plant-a",
    WATCHER,
)
AGENTS = ("press-1", "press-2")
Guard = Literal["acl", "dynsec"]
DEADLINE_S = 20.0

_ACL_OF_WATCHER = f"""
user {WATCHER}
topic readwrite #
topic readwrite $SYS/#
"""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the federation's CA and a certificate for everybody."""
    directory = tmp_path_factory.mktemp("certificates")
    make_authority(directory, FEDERATION)
    issue_broker(directory, ["localhost", "127.0.0.1"])
    for name in CLIENTS:
        issue_client(directory, name)
    return directory


@dataclass
class RealBroker:
    """A mosquitto with the shipped configuration, its paths put into a directory of its own."""

    program: str
    directory: Path
    certificates: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    probes: dict[tuple[str, Protocol], Probe] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.directory / "mosquitto.conf"

    @property
    def log(self) -> str:
        """What it wrote to its log so far."""
        path = self.directory / "mosquitto.log"
        return path.read_text() if path.exists() else ""

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = subprocess.Popen(
            [self.program, "-c", str(self.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.02)
        pytest.fail(f"mosquitto does not listen: {self.log[-2000:]}")

    def kill(self) -> None:
        """End it as a power cut would."""
        for probe in self.probes.values():
            probe.abort()
        self.probes.clear()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def until_logged(self, pattern: str, after: int = 0) -> str:
        """Wait for a line with this pattern, beyond so many characters of the log; return it."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            for line in self.log[after:].splitlines():
                if re.search(pattern, line):
                    return line
            time.sleep(0.02)
        pytest.fail(f"never logged: {pattern}\n{self.log[-3000:]}")

    def connect(self, user: str, protocol: Protocol = "5", **more: Any) -> Probe:
        """Connect with the certificate of `user`; the caller ends it."""
        directory = more.pop("certificates", self.certificates)
        return Probe(self.port, protocol, directory, user, **more)

    def lets_in(self, user: str) -> bool:
        """Whether a connection with the certificate of `user` is accepted."""
        try:
            self.connect(user).close()
        except OSError:
            return False
        return True

    def probe(self, user: str, protocol: Protocol = "5") -> Probe:
        """A connection with the certificate of `user`, shared by the tests of this broker."""
        found = self.probes.get((user, protocol))
        if found is None or not found.is_connected:
            # One user has one connection at a time: the other protocol's ends.
            for other in ("3.1.1", "5"):
                if (user, other) in self.probes:
                    self.probes.pop((user, other)).close()
            found = self.probes[user, protocol] = self.connect(user, protocol)
        return found

    def settings(self, user: str, protocol: Protocol, **more: Any) -> BrokerSettings:
        """How one of our programs reaches this broker."""
        directory = more.pop("certificates", self.certificates)
        return BrokerSettings(
            host="localhost",
            port=self.port,
            protocol=protocol,
            ca_file=str(directory / "ca.crt"),
            cert_file=str(directory / f"{user}.crt"),
            key_file=str(directory / f"{user}.tls.key"),
            **more,
        )

    def control(self, *command: str, user: str = "administrator") -> str:
        """What `mosquitto_ctrl dynsec` prints."""
        options = self.control_options(user)
        line = ["mosquitto_ctrl", *options, "dynsec", *command]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
        return done.stdout + done.stderr

    def control_options(self, user: str = "administrator") -> list[str]:
        """By which mosquitto_ctrl finds this broker and shows a certificate."""
        at = self.certificates
        certificate = ["--cert", str(at / f"{user}.crt"), "--key", str(at / f"{user}.tls.key")]
        return ["-h", "localhost", "-p", str(self.port), "--cafile", f"{at}/ca.crt", *certificate]


def settled(text: str, directory: Path, certificates: Path, port: int) -> str:
    """The shipped mosquitto.conf with a test's paths, port and user, and nothing else changed."""
    for old, new in (
        ("/etc/mosquitto/journeyman/acl", f"{directory}/acl"),
        ("/etc/mosquitto/journeyman/passwords", f"{directory}/passwords"),
        ("/etc/mosquitto/journeyman", str(certificates)),
        ("/var/log/mosquitto", str(directory)),
        ("/var/lib/mosquitto", str(directory)),
        ("/run/mosquitto", str(directory)),
        ("\nlistener 8883\n", f"\nlistener {port} 127.0.0.1\n"),
        ("\nuser mosquitto\n", f"\nuser {getpass.getuser()}\n"),
    ):
        assert old in text, f"the shipped file does not say {old!r}"
        text = text.replace(old, new)
    return text


def with_dynamic_security(text: str) -> str:
    """Make the choice that mosquitto.conf describes: the plugin in place of the file."""
    assert text.count("\nacl_file ") == 1
    assert text.count("\n#plugin") == 2
    return text.replace("\nacl_file ", "\n#acl_file ").replace("\n#plugin", "\nplugin")


MakeBroker = Callable[..., RealBroker]


@pytest.fixture(scope="session")
def make_broker(
    mosquitto_program: str,
    repository: Path,
    certificates: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MakeBroker]:
    """Make a broker from the shipped files, without starting it; `edit` changes its settings."""
    with contextlib.ExitStack() as running:

        def make(guard: Guard = "acl", edit: Callable[[str], str] = str) -> RealBroker:
            directory, port = tmp_path_factory.mktemp(guard), free_port()
            shipped = repository / "configs" / "broker"
            text = (shipped / "mosquitto.conf").read_text()
            text = settled(text, directory, certificates, port)
            if guard == "dynsec":
                text = with_dynamic_security(text)
                shutil.copy(shipped / "dynamic-security.json", directory)
            else:
                rules = (shipped / "acl").read_text() + _ACL_OF_WATCHER
                (directory / "acl").write_text(rules)
            broker = RealBroker(mosquitto_program, directory, certificates, port)
            broker.config.write_text(edit(text))
            running.callback(broker.kill)
            return broker

        yield make


def enrol(broker: RealBroker, repository: Path, action: str, agent: str) -> str:
    """Run the shipped `agent-rights`; returns what it complained about."""
    script = repository / "configs" / "broker" / "agent-rights"
    done = subprocess.run(
        [str(script), action, FEDERATION, agent, *broker.control_options()],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert (done.returncode == 0) == (not done.stderr), done
    return done.stderr


def allow_watcher(broker: RealBroker) -> None:
    """Give the test's own user every right, through the plugin."""
    broker.control("createRole", WATCHER)
    for kind in ("publishClientSend", "publishClientReceive", "subscribePattern"):
        for topic in ("#", "$SYS/#"):
            broker.control("addRoleACL", WATCHER, kind, topic, "allow")
    broker.control("createClient", WATCHER, "-p", "unused")
    broker.control("addClientRole", WATCHER, WATCHER)


@pytest.fixture(scope="session")
def guarded(make_broker: MakeBroker, repository: Path) -> Callable[[Guard], RealBroker]:
    """The running broker with the ACL file, or the one with dynamic security and two agents."""
    running: dict[Guard, RealBroker] = {}

    def broker(guard: Guard) -> RealBroker:
        if guard not in running:
            running[guard] = make_broker(guard)
            running[guard].start()
            if guard == "dynsec":
                allow_watcher(running[guard])
                for agent in AGENTS:
                    assert enrol(running[guard], repository, "add", agent) == ""
                assert enrol(running[guard], repository, "add-helper", "notary") == ""
        return running[guard]

    return broker

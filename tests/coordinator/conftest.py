"""A real broker, real files and real coordinator processes."""

import contextlib
import getpass
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shopfloor.ports import free_port
from tests.coordinator.small_federation import FEDERATION, bundle_bytes
from wire.keys import AUTHOR_KEY, make_agent, make_federation
from wire.signing import PublicKey, read_private_key

AGENTS = {"press-1": "site-a", "press-2": "site-b", "mill-1": "site-c"}


@dataclass
class Broker:
    """A mosquitto without persistence that can be killed and started again on its port."""

    program: str
    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self, extra: str = "") -> None:
        config = self.directory / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nuser {getpass.getuser()}\nallow_anonymous true\n"
            f"max_queued_messages 0\n{extra}"
        )
        with (self.directory / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, "-c", str(config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.02)
        pytest.fail((self.directory / "mosquitto.log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass
class Plant:
    """A federation on disk with three enrolled agents, and coordinators that run on it."""

    directory: Path
    repository: Path
    root: PublicKey
    port: int
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.directory / "coordinator.toml"

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    @property
    def log(self) -> str:
        return (self.directory / "coordinator.log").read_text()

    @property
    def said(self) -> str:
        return (self.directory / "coordinator.out").read_text()

    def configure(
        self, toml: str = "", policy: str = "", broker: str = "", chunk_bytes: int = 256
    ) -> None:
        self.config.write_text(
            f"""\
[coordinator]
state_dir = "state"
bundle = "bundle.jm"
chunk_bytes = {chunk_bytes}

[trust]
root = "{self.root.raw.hex()}"
charter = "keys/charter.jm"
key = "keys/coordinator.key"

[broker]
port = {self.port}
keepalive_s = 5
{broker}
{toml}
[policy]
scale = 0.01
weight_cap = 1000
clip_norm = 100.0
{policy}"""
        )

    def start(self, *, code: str = "", strategy: str = "") -> subprocess.Popen[bytes]:
        """Start a coordinator; `code` runs in its process before."""
        arguments = ["run", str(self.config)] + (["--strategy", strategy] if strategy else [])
        script = (
            f"import sys\n{code}\nfrom coordinator.main import main\nsys.exit(main({arguments}))"
        )
        with (
            (self.directory / "coordinator.log").open("ab") as log,
            (self.directory / "coordinator.out").open("ab") as out,
        ):
            process = subprocess.Popen(
                [sys.executable, "-c", script], cwd=self.repository, stdout=out, stderr=log
            )
        self.running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        process.send_signal(number)
        return process.wait(timeout=20)


@pytest.fixture
def plant(tmp_path: Path, repository: Path) -> Iterator[Plant]:
    root = make_federation(tmp_path / "keys", FEDERATION)
    for serial, (agent, site) in enumerate(AGENTS.items(), start=1):
        make_agent(tmp_path / "keys", FEDERATION, agent, site, serial=serial)
    author = read_private_key(tmp_path / "keys" / AUTHOR_KEY)
    (tmp_path / "bundle.jm").write_bytes(bundle_bytes(FEDERATION, author))
    made = Plant(tmp_path, repository, root, free_port())
    made.configure()
    os.environ.pop("CREDENTIALS_DIRECTORY", None)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def broker(mosquitto_program: str, plant: Plant) -> Iterator[Broker]:
    running = Broker(mosquitto_program, plant.directory, plant.port)
    running.start()
    yield running
    running.kill()

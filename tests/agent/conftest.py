"""What tests of the agent share: a federation, a broker, a machine, and a foreign OPC UA server."""

import asyncio
import contextlib
import getpass
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from asyncua import Client, ua

from agent.config import Identity
from shopfloor.machine import NAMESPACE_URI
from shopfloor.milling import generate, write_csv
from shopfloor.ports import free_port
from tests.agent.federation import Federation, agent_toml, found_federation, read_back

NODE_OPCUA_HZ = 50
START_DEADLINE_S = 60.0


def _endpoint_when_ready(server: subprocess.Popen[str], log: Path) -> str:
    """Read the server's standard output until its READY line; fail with its log otherwise."""
    assert server.stdout is not None
    deadline = time.monotonic() + START_DEADLINE_S
    with selectors.DefaultSelector() as selector:
        selector.register(server.stdout, selectors.EVENT_READ)
        while selector.select(timeout=max(0.0, deadline - time.monotonic())):
            line = server.stdout.readline()
            if line.startswith("READY "):
                return line.removeprefix("READY ").strip()
            if not line:
                break
    pytest.fail(f"node-opcua did not become ready; it wrote:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def node_opcua_server(
    node_program: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Endpoint URL of a running node-opcua server; its variables are listed in server.cjs."""
    folder = repository / "tests" / "node_opcua"
    if not (folder / "node_modules" / "node-opcua").is_dir():
        pytest.skip("node-opcua is not installed: run tests/install.sh .venv/bin/python")
    scratch = tmp_path_factory.mktemp("node-opcua")
    log = scratch / "stderr.txt"
    command = [node_program, str(folder / "server.cjs")]
    command += [str(free_port()), str(NODE_OPCUA_HZ), str(scratch / "pki")]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as server,
    ):
        try:
            yield _endpoint_when_ready(server, log)
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A federation with one agent, all its keys, and one bundle."""
    return found_federation(tmp_path_factory.mktemp("federation") / "keys")


@pytest.fixture(scope="session")
def identity(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """The agent's own identity, as it reads it from its configuration file."""
    path = tmp_path_factory.mktemp("identity") / "agent.toml"
    path.write_text(agent_toml(federation))
    return read_back(path)[1]


@dataclass
class Broker:
    """A mosquitto without a disk; killed and started again, it has forgotten everything."""

    program: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self, extra: str = "") -> None:
        """Start it, with these lines of configuration more, and wait until it listens."""
        settings, log = self.folder / "mosquitto.conf", self.folder / "mosquitto.log"
        settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
            f"user {getpass.getuser()}\n"  # as root it would change to one without our files
            f"{extra}"
        )
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [self.program, "-c", str(settings)], stdout=output, stderr=output
            )
        _wait_until_listening(self.port, self.process, log)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def broker(mosquitto_program: str, tmp_path: Path) -> Iterator[Broker]:
    """A running mosquitto of this test's own."""
    made = Broker(mosquitto_program, tmp_path, free_port())
    made.start()
    yield made
    made.kill()


def _wait_until_listening(port: int, broker: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and broker.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"mosquitto does not listen: {log.read_text()[-2000:]}")


@dataclass(frozen=True)
class Machine:
    """A running simulated milling machine, in its own process."""

    endpoint: str
    process: subprocess.Popen[str]


StartMachine = Callable[[], Machine]


@pytest.fixture(scope="module")
def start_machine(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartMachine]:
    """Start a machine of shopfloor's that makes 100 products a second; all end with the module."""
    table = tmp_path_factory.mktemp("machine") / "L.csv"
    write_csv(generate(20_000, seed=3), table)
    with contextlib.ExitStack() as running:

        def start() -> Machine:
            command = [sys.executable, "-m", "shopfloor.machine", "--table", str(table)]
            command += ["--port", str(free_port()), "--rows-per-s", "100"]
            process = running.enter_context(
                subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
            )
            running.callback(process.kill)
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready ")
            endpoint = line.removeprefix("ready ").strip()
            asyncio.run(_start_production(endpoint))
            return Machine(endpoint, process)

        yield start


async def _start_production(endpoint: str) -> None:
    async with Client(endpoint) as client:
        index = await client.get_namespace_index(NAMESPACE_URI)
        machine = client.get_node(f"ns={index};s=Machine")
        await machine.call_method(ua.QualifiedName("StartProduction", index))

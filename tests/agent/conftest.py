"""An OPC UA server that is not asyncua (tests/node_opcua), for tests of the agent's source."""

import selectors
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NODE_OPCUA_HZ = 50
START_DEADLINE_S = 60.0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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
    command += [str(_free_port()), str(NODE_OPCUA_HZ), str(scratch / "pki")]
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

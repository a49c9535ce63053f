"""A small federation with fixed keys, and real mosquitto brokers on free ports."""

import contextlib
import getpass
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shopfloor.ports import free_port
from wire.codec import seal
from wire.messages import Charter
from wire.signing import PrivateKey
from wire.trust import ROOT, Trust, read_charter

FEDERATION = "plant-net"
ROOT_KEY = PrivateKey(bytes([1] * 32))
ENROLMENT_KEY = PrivateKey(bytes([2] * 32))
COORDINATOR_KEY = PrivateKey(bytes([3] * 32))
AUTHOR_KEY = PrivateKey(bytes([4] * 32))
AGENT_KEY = PrivateKey(bytes([5] * 32))
STRANGER_KEY = PrivateKey(bytes([9] * 32))


@dataclass(frozen=True)
class Keys:
    """Every private key of the federation, and one of nobody."""

    root: PrivateKey = ROOT_KEY
    enrolment: PrivateKey = ENROLMENT_KEY
    coordinator: PrivateKey = COORDINATOR_KEY
    author: PrivateKey = AUTHOR_KEY
    agent: PrivateKey = AGENT_KEY
    stranger: PrivateKey = STRANGER_KEY


@pytest.fixture(scope="session")
def keys() -> Keys:
    """The federation's keys."""
    return Keys()


@pytest.fixture(scope="session")
def charter() -> Charter:
    """The federation's charter."""
    return Charter(
        federation=FEDERATION,
        epoch=1,
        enrolment_key=ENROLMENT_KEY.public.raw,
        coordinator_key=COORDINATOR_KEY.public.raw,
        author_keys=(STRANGER_KEY.public.raw[::-1], AUTHOR_KEY.public.raw),
        agreement=bytes([7] * 32),
    )


@pytest.fixture(scope="session")
def trust(charter: Charter) -> Trust:
    """The verified charter."""
    data = seal(charter, federation=FEDERATION, signer=ROOT, counter=1, key=ROOT_KEY)
    return read_charter(data, ROOT_KEY.public)


@dataclass
class Broker:
    """A running mosquitto."""

    port: int
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()


def _wait_until_listening(broker: Broker, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and broker.process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", broker.port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"mosquitto does not listen: {log.read_text()[-2000:]}")


@pytest.fixture
def start_broker(mosquitto_program: str, tmp_path: Path) -> Iterator[Callable[[str], Broker]]:
    """Start a broker with these extra lines of configuration; all end with the test."""
    with contextlib.ExitStack() as running:

        def start(extra: str = "") -> Broker:
            port = free_port()
            settings = tmp_path / f"mosquitto-{port}.conf"
            settings.write_text(
                f"listener {port} 127.0.0.1\n"
                f"user {getpass.getuser()}\n"  # as root it would change to one without our files
                f"{extra or 'allow_anonymous true'}\n"
                "max_queued_messages 0\n"
            )
            log = tmp_path / f"mosquitto-{port}.log"
            output = running.enter_context(log.open("wb"))
            process = subprocess.Popen(
                [mosquitto_program, "-c", str(settings)], stdout=output, stderr=output
            )
            broker = Broker(port, process)
            running.callback(broker.kill)
            _wait_until_listening(broker, log)
            return broker

        yield start

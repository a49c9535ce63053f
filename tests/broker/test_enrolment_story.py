"""A gateway's whole life with the enrolment authority: real broker, service, and agent process.

Enrolled by one command with a certificate that ends soon, renewed over the broker before that, kept
out when it is revoked, and back when it is enrolled again.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.main import main as agent_main
from agent.status import Status, read_status
from shopfloor.main import main
from shopfloor.ports import free_port
from tests.broker.conftest import FEDERATION, MakeBroker, RealBroker
from tests.broker.test_broker_configuration import uncomment
from wire.certificates import issue_broker, issue_client, make_authority, read_certificate
from wire.keys import make_federation, read_enroller, read_federation
from wire.revocations import write_crl
from wire.topics import Topics
from wire.trust import highest_revoked, read_revoked

REPOSITORY = Path(__file__).parents[2]
AGENT = "press-1"
SHORT_DAYS = 600 / 86_400
TOPICS = Topics(FEDERATION)
DEADLINE_S = 60.0


@dataclass
class Scene:
    """The authority's directory, the gateway's, a broker, and the programs that run."""

    authority: Path
    gateway: Path
    broker: RealBroker
    running: list[subprocess.Popen[bytes]]

    def start(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        """Start one of the programs."""
        log = (self.gateway.parent / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=REPOSITORY, stdout=log, stderr=log
        )
        log.close()
        self.running.append(process)
        return process

    def stop(self, process: "subprocess.Popen[bytes]") -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
        self.running.remove(process)

    def serve(self, port: int, *more: str) -> "subprocess.Popen[bytes]":
        """`journeyman enrolment serve`, at the broker too."""
        at, where = f"127.0.0.1:{port}", f"localhost:{self.broker.port}"
        words = ["enrolment", "serve", str(self.authority), "--listen", at, "--broker", where]
        process = self.start("service", "shopfloor.main", *words, *more)
        until(lambda: "connected to the broker" in self.log("service"), "the service")
        return process

    def log(self, name: str) -> str:
        path = self.gateway.parent / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def token(self, number: int) -> Path:
        path = self.authority / f"{number}.token"
        words = ["token", str(self.authority), AGENT, "--site", "plant-a", "--out", str(path)]
        assert main(["enrolment", *words]) == 0
        return path

    def enrol(self, token: Path, port: int) -> None:
        """The one command, on the gateway."""
        url, where = f"http://127.0.0.1:{port}", str(self.gateway)
        assert agent_main(["enrol", "--token", str(token), "--from", url, "--dir", where]) == 0

    def run_agent(self) -> "subprocess.Popen[bytes]":
        return self.start("agent", "agent.main", "run", str(self.gateway / "agent.toml"))

    def lets_in_with(self, certificate: Path) -> bool:
        """Whether the broker takes this certificate of the agent."""
        shown = self.gateway.parent / "shown"
        shown.mkdir(exist_ok=True)
        for name, source in (
            ("ca.crt", self.authority / "ca.crt"),
            (f"{AGENT}.crt", certificate),
            (f"{AGENT}.tls.key", self.gateway / f"{AGENT}.tls.key"),
        ):
            shutil.copy(source, shown / name)
        try:
            self.broker.connect(AGENT, certificates=shown).close()
        except OSError:
            return False
        return True

    def bring_crl(self) -> None:
        """What the broker's operator does: new list, reload."""
        before = len(self.broker.log)
        assert self.broker.process is not None
        self.broker.process.send_signal(signal.SIGHUP)
        self.broker.until_logged("Reloading config", before)

    def status(self) -> Status | None:
        return read_status(self.gateway / "state")

    def until_status(self, holds: Callable[[Status], bool], what: str) -> Status:
        def found() -> Status | None:
            status = self.status()
            return status if status is not None and holds(status) else None

        until(lambda: found() is not None, f"{what}: {self.status()}\n{self.log('agent')[-2000:]}")
        status = found() or self.status()
        assert status is not None
        return status


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"never so: {what}"
        time.sleep(0.05)


@pytest.fixture
def scene(make_broker: MakeBroker, tmp_path: Path) -> Iterator[Scene]:
    """A federation whose broker refuses what is on the authority's list."""
    authority, gateway = tmp_path / "authority", tmp_path / "gateway"
    make_federation(authority, FEDERATION)
    make_authority(authority, FEDERATION)
    issue_broker(authority, ["localhost"])
    for name in ("watcher", "coordinator"):
        issue_client(authority, name)
    assert main(["enrolment", "crl", str(authority)]) == 0
    broker = make_broker("acl", uncomment("crlfile"))
    text = broker.config.read_text().replace(str(broker.certificates), str(authority))
    broker.config.write_text(text)
    broker.certificates = authority
    broker.start()
    made = Scene(authority, gateway, broker, [])
    yield made
    for process in made.running:
        process.kill()
        process.wait()
    broker.kill()


def configuration(scene: Scene, printed: str) -> None:
    """agent.toml: what `enrol` printed, and a machine that is off."""
    (scene.gateway / "agent.toml").write_text(
        f'[agent]\nstate_dir = "state"\n{printed}\nhost = "localhost"\nport = {scene.broker.port}\n'
        'ack_timeout_s = 5\n\n[rows]\ntrigger = "a"\n[source.opcua]\n'
        'endpoint = "opc.tcp://127.0.0.1:9"\nnamespace_uri = "urn:a"\n'
        '[[source.opcua.channel]]\nname = "a"\nnode = "s=A"\n'
    )


def test_a_gateway_is_enrolled_renewed_kept_out_and_let_in_again(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    service = scene.serve(port, "--days", str(SHORT_DAYS))
    capsys.readouterr()
    token = scene.token(1)
    capsys.readouterr()
    scene.enrol(token, port)
    configuration(scene, capsys.readouterr().out)
    scene.stop(service)
    short = read_certificate(scene.gateway / f"{AGENT}.crt")
    assert short.not_valid_after_utc < datetime.now(UTC) + timedelta(minutes=11)

    # Renewed: the file that the configuration names is left as it is.
    scene.serve(port)
    agent = scene.run_agent()
    kept = scene.gateway / "state" / "identity" / f"{AGENT}.crt"
    until(kept.exists, f"a renewed certificate: {scene.log('agent')[-3000:]}")
    assert read_certificate(scene.gateway / f"{AGENT}.crt") == short
    renewed = read_certificate(kept)
    assert renewed.not_valid_after_utc > datetime.now(UTC) + timedelta(days=390)
    assert renewed.public_key() == short.public_key()
    scene.until_status(lambda status: "39" in status.certificate, "days left are told")

    # The first one is of no use any more, as if it had ended: the renewed one lets it in.
    enroller = read_enroller(scene.authority)
    now = datetime.now(UTC)
    write_crl(scene.authority, enroller, [(short.serial_number, now)], now)
    scene.broker.kill()
    before = len(scene.broker.log)
    scene.broker.start()
    assert not scene.lets_in_with(scene.gateway / f"{AGENT}.crt")
    scene.broker.until_logged(f"New client connected .* as {AGENT}", before)
    scene.until_status(lambda status: status.link == "up", "connected again")

    # Revoked: everybody is told, and after a reload the broker lets it in no more.
    assert main(["enrolment", "revoke", str(scene.authority), AGENT]) == 0
    status = scene.until_status(lambda status: bool(status.revoked), "it knows")
    assert "enrol this gateway again" in status.revoked
    watcher = scene.broker.connect("watcher")
    listed = read_revoked(
        watcher.retained(TOPICS.revoked) or b"", read_federation(scene.authority)[2]
    )
    assert highest_revoked(listed, AGENT) == 1
    watcher.close()
    scene.bring_crl()
    scene.stop(agent)
    agent, before = scene.run_agent(), len(scene.broker.log)
    scene.broker.until_logged("certificate verify failed", before)
    assert f"as {AGENT}" not in scene.broker.log[before:]
    scene.stop(agent)

    # Enrolled again, into the same directory: nothing has to be deleted.
    scene.enrol(scene.token(2), port)
    before = len(scene.broker.log)
    agent = scene.run_agent()
    scene.broker.until_logged(f"New client connected .* as {AGENT}", before)
    status = scene.until_status(lambda status: status.link == "up" and not status.revoked, "back")
    scene.stop(agent)

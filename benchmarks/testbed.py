"""A federation on disk, a real broker with the shipped limits, and the real coordinator program.

Responsible for the run directory and for the processes in it: whatever was started is ended when
the testbed is left, however that comes about.  The broker takes its limits from
`configs/broker/mosquitto.conf`, so that the configuration which is shipped is the one that is
measured; rights and TLS are left out unless asked for, because load generators speak bare MQTT.
"""

import getpass
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from agent.authoring import build_bundle
from agent.declared import Mlp
from shopfloor.plant import JOB, bundle_settings
from shopfloor.ports import free_port
from shopfloor.processes import Child, Processes, python
from wire.bundle import (
    GOLDEN,
    MODEL,
    WEIGHTS,
    Channel,
    Label,
    Level,
    Manifest,
    Tensor,
    write_bundle,
)
from wire.certificates import issue_broker, issue_client, make_authority
from wire.keys import AUTHOR_KEY, make_agent, make_federation
from wire.signing import read_private_key
from wire.tensors import write_params
from wire.topics import Topics

ROOT = Path(__file__).resolve().parent.parent
SHIPPED_BROKER = ROOT / "configs" / "broker" / "mosquitto.conf"
FEDERATION = "bench"
TOPICS = Topics(FEDERATION)
HIDDEN = (157, 623)
"""An MLP 5-157-623-1 has exactly 100,000 parameters."""
PARAMETERS = 100_000
_LIMITS = (
    "max_packet_size",
    "max_keepalive",
    "max_inflight_messages",
    "max_queued_messages",
    "max_queued_bytes",
    "queue_qos0_messages",
    "persistence",
    "retain_available",
    "set_tcp_nodelay",
)
_STARTS_WITHIN_S = 30.0
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")

T = TypeVar("T")


class BenchmarkError(Exception):
    """Something that a benchmark needs did not happen, or what it measured is not correct."""


@dataclass(frozen=True)
class Testbed:
    """One federation's directory and the processes in it."""

    directory: Path
    processes: Processes
    root: str
    """The federation root's public key, in hex."""

    @property
    def keys(self) -> Path:
        """Directory of all keys and credentials."""
        return self.directory / "keys"

    @property
    def bundle(self) -> Path:
        """The signed bundle."""
        return self.directory / "bundle.jm"

    @property
    def store(self) -> Path:
        """The coordinator's database."""
        return self.directory / "coordinator" / "coordinator.db"

    @property
    def coordinator_config(self) -> Path:
        """The coordinator's configuration."""
        return self.directory / "coordinator.toml"

    def write_coordinator(self, port: int, tables: str) -> None:
        """Configure the coordinator; `tables` is its `[strategy]` and what follows."""
        self.coordinator_config.write_text(
            f"""\
[coordinator]
state_dir = "coordinator"
bundle = "bundle.jm"
[trust]
root = "{self.root}"
charter = "keys/charter.jm"
key = "keys/coordinator.key"
[broker]
port = {port}
{tables}"""
        )

    def start_coordinator(self) -> Child:
        """Start the real program; returns at once."""
        return self.processes.start(
            "coordinator", python("coordinator.main", "run", self.coordinator_config)
        )

    def write_agent(self, agent: str, port: int, broker: str = "") -> Path:
        """Configure an agent whose machine is away; `broker` is more of its `[broker]`."""
        if not (self.keys / f"{agent}.key").exists():
            make_agent(self.keys, FEDERATION, agent, f"site-{agent}")
        channels = "".join(
            f'[[source.opcua.channel]]\nname = "{name}"\nnode = "s={name}"\n' for name in CHANNELS
        )
        path = self.directory / f"{agent}.toml"
        path.write_text(
            f"""\
[agent]
state_dir = "{agent}"
[trust]
root = "{self.root}"
charter = "keys/charter.jm"
credential = "keys/{agent}.credential"
key = "keys/{agent}.key"
[broker]
port = {port}
{broker}
[rows]
trigger = "product_count"
[source.opcua]
endpoint = "opc.tcp://127.0.0.1:{free_port()}/nobody"
namespace_uri = "urn:journeyman:nobody"
{channels}"""
        )
        return path

    def start_broker(self, port: int, listeners: str = "", connections: int = 0) -> Child:
        """Start mosquitto on 127.0.0.1:`port` and wait until it listens.

        Args:
          port: of the listener without TLS.
          listeners: more listeners, as in mosquitto.conf.
          connections: instead of the shipped `max_connections`; 0 keeps that.
        """
        limits = shipped_limits()
        most = connections or limits.pop("max_connections", "1000")
        lines = [f"{key} {value}" for key, value in limits.items() if key != "max_connections"]
        config = self.directory / f"mosquitto-{port}.conf"
        config.write_text(
            "\n".join(
                [
                    *("per_listener_settings false", f"user {getpass.getuser()}", *lines),
                    *(f"listener {port} 127.0.0.1", f"max_connections {most}"),
                    *("allow_anonymous true", listeners, ""),
                ]
            )
        )
        child = self.processes.start(f"mosquitto-{port}", [mosquitto(), "-c", str(config)])
        wait_for(lambda: _listens(port), f"mosquitto on port {port}", child)
        return child

    def tls_listener(self, port: int) -> str:
        """A TLS listener with certificates of its own, as mosquitto.conf has it."""
        make_authority(self.keys, FEDERATION)
        issue_broker(self.keys, ["127.0.0.1"])
        return (
            f"listener {port} 127.0.0.1\ncafile {self.keys}/ca.crt\n"
            f"certfile {self.keys}/broker.crt\nkeyfile {self.keys}/broker.key\n"
            "tls_version tlsv1.2\nrequire_certificate true\nuse_identity_as_username true\n"
        )

    def tls_client(self, agent: str) -> str:
        """The agent's `[broker]` lines for that listener."""
        issue_client(self.keys, agent)
        return (
            f'ca_file = "keys/ca.crt"\ncert_file = "keys/{agent}.crt"\n'
            f'key_file = "keys/{agent}.tls.key"\n'
        )


CHANNELS = (
    "air_temperature",
    "process_temperature",
    "rotational_speed",
    "torque",
    "tool_wear",
    "machine_failure",
    "product_count",
)


@contextmanager
def testbed(parent: Path, bundle: Callable[[Path], bytes]) -> Iterator[Testbed]:
    """Make a federation in a new directory under `parent`; end and remove it all afterwards.

    Args:
      parent: a directory on a real disk.
      bundle: gets the directory of the keys and returns the signed bundle.
    """
    directory = Path(tempfile.mkdtemp(prefix="federation-", dir=parent))
    processes = Processes(directory)
    try:
        root = make_federation(directory / "keys", FEDERATION)
        made = Testbed(directory, processes, root.raw.hex())
        made.bundle.write_bytes(bundle(made.keys))
        yield made
    except BenchmarkError as error:
        words = [f"--- {child.name}\n{child.last_words()}" for child in processes.children]
        raise BenchmarkError("\n".join([str(error), *words])) from error
    finally:
        processes.stop()
        shutil.rmtree(directory)


def mlp_bundle(keys: Path) -> bytes:
    """A bundle that agents adopt: the demo's job with 100,000 parameters."""
    settings = msgspec.structs.replace(bundle_settings(0), family=Mlp(hidden=HIDDEN))
    return build_bundle(JOB, settings, FEDERATION, read_private_key(keys / AUTHOR_KEY))


def bare_bundle(parameters: int) -> Callable[[Path], bytes]:
    """A bundle of any size whose graph is a stub, for what ends before a graph is read.

    The coordinator never reads graphs, and gateways cap them at 16 MiB.
    """
    manifest = Manifest(
        name="bare",
        revision=1,
        channels=(Channel(name="torque", unit="Nm"),),
        label=Label(channel="machine_failure"),
        features=(Level(channel="torque", mean=40.0, std=10.0),),
        tensors=(Tensor(name="w", shape=(parameters,)),),
        files={},
    )
    weights = np.random.default_rng(0).normal(0.0, 0.05, parameters).astype(np.float32)
    files = {MODEL: b"stub", WEIGHTS: write_params({"w": weights}), GOLDEN: b"stub"}
    return lambda keys: write_bundle(
        manifest, files, FEDERATION, read_private_key(keys / AUTHOR_KEY)
    )


def shipped_limits() -> dict[str, str]:
    """The limits that `configs/broker/mosquitto.conf` sets."""
    text = SHIPPED_BROKER.read_text(encoding="utf-8")
    found = dict(re.findall(r"^([a-z_0-9]+) +(\S+)$", text, re.MULTILINE))
    return {key: found[key] for key in (*_LIMITS, "max_connections") if key in found}


def mosquitto() -> str:
    """Path of mosquitto; `SystemExit` says what to do when it is not here."""
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        raise SystemExit("these benchmarks need a real broker: apt install mosquitto")
    return program


def real_disk() -> Path:
    """Where state directories go: under the project, never a file system in memory."""
    parent = ROOT / "build"
    parent.mkdir(exist_ok=True)
    return parent


def _listens(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def wait_for(
    what: Callable[[], T], name: str, *needed: Child, timeout_s: float = _STARTS_WITHIN_S
) -> T:
    """Wait until `what` returns something true, and return it.

    Raises:
      BenchmarkError: it did not in time, or one of the `needed` processes ended; with its log.
    """
    until_s = time.monotonic() + timeout_s
    while not (found := what()):
        for child in needed:
            if not child.pid:
                raise BenchmarkError(f"{child.name} ended:\n{child.last_words()}")
        if time.monotonic() > until_s:
            logs = "\n".join(child.last_words() for child in needed)
            raise BenchmarkError(f"waited {timeout_s:g} s for {name}\n{logs}")
        time.sleep(0.005)
    return found


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, of all its threads (proc(5), to 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def peak_rss_mb(pid: int) -> float:
    """Largest resident set of a process so far, in MB (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def use_two_cores() -> None:
    """Keep this process and its children on two cores, as the targets say."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

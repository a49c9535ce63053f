"""Lays out a run of the chaos suite: keys, bundle, machine's table, one configuration per program.

    RUN/  machine.csv  keys/  bundle.jm  job.toml
          gateway-1.toml ... coordinator.toml mosquitto.conf    configurations
          notary.toml ... notary/ ...                           three helpers, in secure mode
          gateway-1/ ... coordinator/ broker/                   state directories
          copies/gateway-1/ ...                                 old copies of disks
          replaced/                                             a helper's disk before an old copy
          tape/  witness/                                       what the links and the observer saw
          buried.jsonl                                          what wiped outboxes knew

Two agents speak MQTT 3.1.1 and two MQTT 5.  The model is small (6,657 parameters) and training
takes a moment: what is tested is delivery, and there has to be much to deliver.
"""

import getpass
import os
import random
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agent.authoring import build_bundle, read_bundle_settings
from coordinator.helper.identity import make_helper
from coordinator.helper.store import make_store
from shopfloor.chaos.schedule import AGENTS, BROKER, COORDINATOR, HELPERS
from shopfloor.machine import NAMESPACE_URI
from shopfloor.milling import generate, write_csv
from shopfloor.plant import JOB, channels_toml
from wire.keys import AUTHOR_KEY, make_agent, make_federation
from wire.messages import HelperKeys
from wire.signing import read_private_key

FEDERATION: Final = "chaos"
LEARNING_RATE: Final = 0.5
STALENESS_CAP: Final = 20
K_MIN: Final = 3
"""Of the charter in secure mode: sites in each sum, of four."""
DECAY: Final = 2.0
_ROWS: Final = 40_000
ROWS_PER_S: Final = 25.0
"""The machine goes on producing for `_ROWS` / this seconds: a wiped agent soon has rows again."""
_PACKET_BYTES: Final = 3_000
"""What the links of MQTT 5 tell their agents to be the largest packet: updates come in chunks."""
_SECURE_PACKET_BYTES: Final = 8_000
"""The same in secure mode, where a report of masked figures has 5 kB."""
_HIDDEN: Final = (64, 64, 32)
_PORTS: Final = range(18_000, 32_000)
"""Below what Linux gives to outgoing connections (32768 and up), so that nothing takes the port of
a program while it is down."""


@dataclass(frozen=True)
class Layout:
    """Where everything of a run is.

    Attributes:
      link_ports: where each program connects to reach the broker.
    """

    directory: Path
    machine_port: int
    broker_port: int
    link_ports: dict[str, int]

    @property
    def machine_url(self) -> str:
        """Endpoint of the machine."""
        return f"opc.tcp://127.0.0.1:{self.machine_port}/machine"

    def config(self, name: str) -> Path:
        """Configuration file of a program."""
        return self.directory / f"{name}.toml"

    def state(self, name: str) -> Path:
        """State directory of a program or of the broker."""
        return self.directory / name

    def copy(self, agent: str) -> Path:
        """Where an old copy of an agent's disk is."""
        return self.directory / "copies" / agent

    def outbox(self, agent: str) -> Path:
        """An agent's outbox."""
        return self.state(agent) / "outbox.db"

    @property
    def store(self) -> Path:
        """The coordinator's database."""
        return self.state(COORDINATOR) / "coordinator.db"

    @property
    def packet_bytes(self) -> int:
        """Largest packet that the links of MQTT 5 take."""
        return _SECURE_PACKET_BYTES if self.helpers else _PACKET_BYTES

    @property
    def helpers(self) -> tuple[str, ...]:
        """Helpers of secure aggregation, in the charter's order; none without it."""
        return tuple(name for name in HELPERS if self.sealing_key(name).exists())

    def sealing_key(self, helper: str) -> Path:
        """A helper's private sealing key."""
        return self.directory / "keys" / f"{helper}.sealing.key"

    @property
    def replaced(self) -> Path:
        """The disk of a helper as it was before an old copy took its place."""
        return self.directory / "replaced"

    @property
    def buried(self) -> Path:
        """What outboxes knew whose disk was wiped or replaced."""
        return self.directory / "buried.jsonl"

    @property
    def tape(self) -> Path:
        """Directory of the tape."""
        return self.directory / "tape"

    @property
    def witness(self) -> Path:
        """Directory of the observer's ledger."""
        return self.directory / "witness"


def lay_out(directory: Path, seed: int, *, is_secure: bool = False) -> Layout:
    """Write the run directory.

    Args:
      directory: where.
      seed: of the machine's table and of the first weights.
      is_secure: updates are masked, and three helpers open sums.

    Raises:
      OSError: the directory can not be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    helpers = HELPERS if is_secure else ()
    clients = (*AGENTS, COORDINATOR, *helpers)
    ports = _free_ports(2 + len(clients))
    links = dict(zip(clients, ports[2:], strict=True))
    layout = Layout(directory, ports[0], ports[1], links)
    write_csv(generate(_ROWS, seed), directory / "machine.csv")
    keys = directory / "keys"
    public = tuple(_make_helper(layout, name) for name in helpers)
    k_min = K_MIN if is_secure else 1
    root = make_federation(keys, FEDERATION, k_min=k_min, helpers=public).raw.hex()
    _write_bundle(layout, seed)
    for at, agent in enumerate(AGENTS):
        make_agent(keys, FEDERATION, agent, f"site-{at + 1}", serial=1)
        layout.config(agent).write_text(_agent_toml(layout, agent, at, root))
    for name in helpers:
        layout.config(name).write_text(_helper_toml(layout, name, root))
    layout.config(COORDINATOR).write_text(_coordinator_toml(layout, root))
    for name in (*clients, BROKER):
        layout.state(name).mkdir(exist_ok=True)
    (directory / "mosquitto.conf").write_text(_broker_conf(layout))
    return layout


def _free_ports(number: int) -> list[int]:
    ports: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == number:
            break
    return ports


def broker_command(layout: Layout) -> list[str]:
    """The command line of mosquitto.

    Raises:
      FileNotFoundError: it is not installed.
    """
    # Debian puts mosquitto in /usr/sbin, which is not on an ordinary user's PATH.
    found = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError("mosquitto is not installed; on Debian: apt install mosquitto")
    return [found, "-c", str(layout.directory / "mosquitto.conf")]


def _make_helper(layout: Layout, name: str) -> HelperKeys:
    """Make a helper's keys and the store that goes with them."""
    keys = make_helper(layout.directory / "keys", name)
    make_store(layout.state(name), keys)
    return keys


def _write_bundle(layout: Layout, seed: int) -> None:
    settings = read_bundle_settings(JOB)
    if settings.family is not None:
        family = msgspec.structs.replace(settings.family, seed=seed, hidden=_HIDDEN)
        settings = msgspec.structs.replace(settings, family=family)
    author = read_private_key(layout.directory / "keys" / AUTHOR_KEY)
    data = build_bundle(JOB, settings, FEDERATION, author)
    (layout.directory / "bundle.jm").write_bytes(data)


def _broker_conf(layout: Layout) -> str:
    """As root mosquitto would change to a user without our files, so it is told to stay."""
    return f"""\
listener {layout.broker_port} 127.0.0.1
user {getpass.getuser()}
allow_anonymous true
persistence true
persistence_location {layout.state(BROKER)}/
autosave_interval 1
max_inflight_messages 100
max_queued_messages 10000
"""


def _agent_toml(layout: Layout, agent: str, number: int, root: str) -> str:
    return f"""\
[agent]
state_dir = "{agent}"

[trust]
root = "{root}"
charter = "keys/charter.jm"
credential = "keys/{agent}.credential"
key = "keys/{agent}.key"

[broker]
port = {layout.link_ports[agent]}
protocol = "{("3.1.1", "5")[number % 2]}"
keepalive_s = 2
ack_timeout_s = 3

[history]
capacity_rows = 400
holdout_share = 0.05

[training]
pause_s = 0.6
priority = "low"
budget.enabled = false
backend = "numpy"

[personal]
rest_s = 60

[rows]
trigger = "product_count"

[source.opcua]
endpoint = "{layout.machine_url}"
namespace_uri = "{NAMESPACE_URI}"
queue_size = 10000
{channels_toml()}"""


def _helper_toml(layout: Layout, name: str, root: str) -> str:
    return f"""\
[helper]
name = "{name}"
state_dir = "{name}"

[trust]
root = "{root}"
charter = "keys/charter.jm"
signing_key = "keys/{name}.signing.key"
sealing_key = "keys/{name}.sealing.key"

[broker]
port = {layout.link_ports[name]}
keepalive_s = 2
ack_timeout_s = 3
"""


def _coordinator_toml(layout: Layout, root: str) -> str:
    """In secure mode a full ring of 16 bits holds 12 updates; weights are in units of 20 rows."""
    weights = "weight_cap = 10000"
    if layout.helpers:
        weights = 'protection = "masked"\nring = 16\nweight_unit = 20\nweight_cap = 20'
    return f"""\
[coordinator]
state_dir = "{COORDINATOR}"
bundle = "bundle.jm"

[trust]
root = "{root}"
charter = "keys/charter.jm"
key = "keys/coordinator.key"

[broker]
port = {layout.link_ports[COORDINATOR]}
keepalive_s = 2
ack_timeout_s = 3

[strategy]
name = "fedbuff"
goal = 3
deadline_s = 5

[server_optimizer]
name = "sgd"
learning_rate = {LEARNING_RATE}
[average]
decay = {DECAY}

[gate]
every = 10
quorum = {max(2, K_MIN if layout.helpers else 0)}
tolerance = 1.0
deadline_s = 20

[policy]
epochs = 1
batch_size = 32
optimizer = "sgd"
learning_rate = 0.05
min_rows = 16
clip_norm = 3.0
scale = 0.002
bits = 8
{weights}
updates_per_version = 4
staleness_cap = {STALENESS_CAP}
"""

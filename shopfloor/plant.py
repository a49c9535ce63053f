"""Lays out a run of the demo: data split by site, keys, bundle, one configuration per program.

Responsible for the run directory and nothing that runs.  Each site gets a table with the rows that
its machine will produce; the held-out rows are written to no file that an agent or a machine reads.

    RUN/  sites/L.csv ...           what each machine produces
          held_out.csv              for judging, read by the demo only
          keys/                     root, charter, coordinator, author, agents
          bundle.jm                 the signed model bundle
          coordinator.toml, gateway-l.toml ...
"""

import socket
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.authoring import BundleSettings, build_bundle, read_bundle_settings
from shopfloor.machine import NAMESPACE_URI
from shopfloor.milling import Table, generate, read_ai4i, split_held_out, write_csv
from wire.keys import AUTHOR_KEY, make_agent, make_federation
from wire.signing import read_private_key

FEDERATION = "demo"
SITES = ("L", "M", "H")
HELD_OUT_SHARE = 0.2
HELD_OUT = "held_out.csv"
_HERE = Path(__file__).resolve().parent
_CONFIGS = _HERE / "configs"  # where a wheel has them; a checkout has them at the top
JOB = (_CONFIGS if _CONFIGS.exists() else _HERE.parent / "configs") / "jobs" / "ai4i.toml"
GENERATED_ROWS = 10_000
STREAM_SHARE = 0.4
"""Share of the learning time in which the machines produce; the rest is for learning from it."""

_NODES = {
    "air_temperature": ("AirTemperature", "K"),
    "process_temperature": ("ProcessTemperature", "K"),
    "rotational_speed": ("RotationalSpeed", "rpm"),
    "torque": ("Torque", "Nm"),
    "tool_wear": ("ToolWear", "min"),
    "machine_failure": ("MachineFailure", ""),
    "product_count": ("ProductCount", ""),
}
"""The federation's channel names to the machines' string NodeIds and units."""


@dataclass(frozen=True)
class Options:
    """What a person may choose for a run.

    Attributes:
      data: a CSV in the AI4I layout to replay, or None to generate.
      stream_s: real seconds in which all rows are produced.
      learn_s: real seconds after which training closes.
      kills: how often the coordinator or an agent is killed with -9, at times chosen by the seed.
    """

    seed: int = 0
    data: Path | None = None
    strategy: str = "fedbuff"
    broker: str = "auto"
    stream_s: float = 40.0
    learn_s: float = 100.0
    down_share: float = 0.3
    mean_down_s: float = 3.0
    kills: int = 0


@dataclass(frozen=True)
class Site:
    """One factory of the run."""

    name: str
    agent: str
    train: Table
    held_out: Table
    machine_port: int
    link_port: int
    config: Path
    state: Path

    @property
    def machine_url(self) -> str:
        """Endpoint of the site's machine."""
        return f"opc.tcp://127.0.0.1:{self.machine_port}/machine"


@dataclass(frozen=True)
class Plant:
    """Everything that a run needs, on disk and in memory."""

    directory: Path
    options: Options
    sites: tuple[Site, ...]
    broker_port: int
    page_port: int
    coordinator_config: Path
    coordinator_state: Path
    bundle: Path


def lay_out(directory: Path, options: Options) -> Plant:
    """Write the run directory.

    Raises:
      TableError: the CSV can not be read, with file, line and column.
      OSError: the directory can not be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table = _table(options)
    train, held_out = split_held_out(table, HELD_OUT_SHARE, options.seed)
    write_csv(table.take(held_out), directory / HELD_OUT)
    broker_port, page_port, *ports = _free_ports(2 + 2 * len(SITES))
    keys = directory / "keys"
    root = make_federation(keys, FEDERATION)
    bundle = directory / "bundle.jm"
    bundle.write_bytes(
        build_bundle(
            JOB, bundle_settings(options.seed), FEDERATION, read_private_key(keys / AUTHOR_KEY)
        )
    )
    sites = []
    for at, name in enumerate(SITES):
        agent = f"gateway-{name.lower()}"
        make_agent(keys, FEDERATION, agent, name, serial=at + 1)
        site = Site(
            name=name,
            agent=agent,
            train=table.take(train[table.quality[train] == name]),
            held_out=table.take(held_out[table.quality[held_out] == name]),
            machine_port=ports[2 * at],
            link_port=ports[2 * at + 1],
            config=directory / f"{agent}.toml",
            state=directory / agent,
        )
        (directory / "sites").mkdir(exist_ok=True)
        write_csv(site.train, directory / "sites" / f"{name}.csv")
        site.config.write_text(_agent_toml(site, root.raw.hex()))
        sites.append(site)
    coordinator = directory / "coordinator.toml"
    coordinator.write_text(_coordinator_toml(options, root.raw.hex(), broker_port, page_port))
    return Plant(
        directory=directory,
        options=options,
        sites=tuple(sites),
        broker_port=broker_port,
        page_port=page_port,
        coordinator_config=coordinator,
        coordinator_state=directory / "coordinator",
        bundle=bundle,
    )


def bundle_settings(seed: int) -> BundleSettings:
    """The job's description with the run's seed for the initial weights."""
    settings = read_bundle_settings(JOB)
    family = settings.family
    if family is None:
        return settings
    return msgspec.structs.replace(settings, family=msgspec.structs.replace(family, seed=seed))


def _table(options: Options) -> Table:
    if options.data is not None:
        return read_ai4i(options.data)
    return generate(GENERATED_ROWS, options.seed)


def _free_ports(number: int) -> list[int]:
    """Ports that nobody uses now; all are held until all are known, so they differ."""
    holders = [socket.socket() for _ in range(number)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [int(holder.getsockname()[1]) for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def channels_toml() -> str:
    """The machines' channels, as an agent's configuration names them."""
    return "".join(
        f'\n[[source.opcua.channel]]\nname = "{name}"\nnode = "s={node}"\nunit = "{unit}"\n'
        for name, (node, unit) in _NODES.items()
    )


def _agent_toml(site: Site, root: str) -> str:
    return f"""\
[agent]
state_dir = "{site.agent}"

[trust]
root = "{root}"
charter = "keys/charter.jm"
credential = "keys/{site.agent}.credential"
key = "keys/{site.agent}.key"

[broker]
port = {site.link_port}
keepalive_s = 3
ack_timeout_s = 4

[history]
holdout_share = 0.05

[training]
pause_s = 1.2
priority = "low"
budget.enabled = false

[personal]
rest_s = 30

[rows]
trigger = "product_count"

[source.opcua]
endpoint = "{site.machine_url}"
namespace_uri = "{NAMESPACE_URI}"
queue_size = 10000
{channels_toml()}"""


def _coordinator_toml(options: Options, root: str, broker_port: int, page_port: int) -> str:
    return f"""\
[coordinator]
state_dir = "coordinator"
bundle = "bundle.jm"

[trust]
root = "{root}"
charter = "keys/charter.jm"
key = "keys/coordinator.key"

[broker]
port = {broker_port}
keepalive_s = 5

[web]
listen = "127.0.0.1:{page_port}"

[strategy]
name = "{options.strategy}"
goal = 2
clients = {len(SITES)}
deadline_s = 12

[server_optimizer]
name = "sgd"
learning_rate = {0.5 if options.strategy == "fedbuff" else 1.0}

[average]
decay = 8

[gate]
every = 3
quorum = 2
tolerance = 0.05
# A site's held-out rows have few failures, so figures jump: what is hardly worse is kept back, and
# only what is much worse, or worse for long, ends a lineage.
abandon_below = 0.3
patience = 6
deadline_s = 20

[policy]
epochs = 5
batch_size = 32
optimizer = "adam"
learning_rate = 0.006
proximal = 0.003
min_rows = 64
clip_norm = 3.0
scale = 0.002
bits = 8
weight_cap = 10000
"""

"""Lays out a run of the demo: data split by site, keys, bundle, one configuration per program.

Responsible for the run directory and nothing that runs.  Each site gets a table with the rows that
its machine will produce; the held-out rows are written to no file that an agent or a machine reads.

    RUN/  sites/L.csv ...           what each machine produces
          held_out/L.csv ...        for judging, read by the demo only
          sites.json                names of the sites, in order
          keys/                     root, charter, coordinator, author, agents, helpers
          bundle.jm                 the signed model bundle
          coordinator.toml, gateway-l.toml ...
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.authoring import BundleSettings, build_bundle, read_bundle_settings
from agent.privacy.accounting import epsilon_of, gaussian_cost
from coordinator.helper.identity import make_helper
from coordinator.helper.store import make_store
from shopfloor.machine import NAMESPACE_URI
from shopfloor.milling import Table, generate, read_ai4i, split_held_out, write_csv
from shopfloor.ports import free_ports
from wire.keys import AUTHOR_KEY, make_agent, make_federation
from wire.messages import HelperKeys
from wire.signing import read_private_key

FEDERATION = "demo"
SITES = ("L", "M", "H")
SECURE_SITES = ("L1", "L2", "L3", "L4", "L5", "L6", "M1", "M2", "M3", "H1")
"""Of about a thousand rows each; the letter is the quality that a site makes."""
HELPERS = ("notary", "union", "insurer")
K_MIN = 5
HELD_OUT_SHARE = 0.2
HELD_OUT = "held_out"
NAMES = "sites.json"
_HERE = Path(__file__).resolve().parent
_CONFIGS = _HERE / "configs"  # where a wheel has them; a checkout has them at the top
JOB = (_CONFIGS if _CONFIGS.exists() else _HERE.parent / "configs") / "jobs" / "ai4i.toml"
GENERATED_ROWS = 10_000
DELTA = 1e-5
_PLANNED_UPDATES = 20
"""Updates of a site that its privacy budget lasts for."""
_GOAL, _WEIGHT_UNIT, _WEIGHT_CAP = 8, 32, 32
"""Eight updates of weight up to 32 with 8 bits fit a ring of 16."""
_PLAIN_TRAINING: dict[str, str | float] = {
    "epochs": 5,
    "batch_size": 32,
    "optimizer": "adam",
    "learning_rate": 0.006,
    "proximal": 0.003,
    "min_rows": 64,
    "clip_norm": 3.0,
    "scale": 0.002,
    "bits": 8,
}
_NOISED_STEPS = 10
_NOISED_TRAINING: dict[str, str | float] = {
    "epochs": _NOISED_STEPS,
    "batch_size": 65_536,
    "optimizer": "sgd",
    "learning_rate": 4.0,
    "positive_weight": 10.0,
    "example_clip": 0.5,
    "proximal": 0.0,
    "min_rows": 600,
    "clip_norm": 30.0,
    "scale": 0.008,
}
"""Few large steps over all of a site's rows: noise is added to each step, and weighs less the more
rows are behind it (tried for this model at epsilon 3: PR-AUC .45, Adam in small batches .09)."""
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
      sites: how the rows are shared out.
      secure: updates are masked, and three helpers open sums.
      epsilon: each site's budget of record-level differential privacy; 0: no noise.
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
    sites: tuple[str, ...] = SITES
    secure: bool = False
    epsilon: float = 0.0


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
    helpers: tuple[tuple[str, Path], ...] = ()
    """Name and configuration of each."""


def lay_out(directory: Path, options: Options) -> Plant:
    """Write the run directory.

    Raises:
      TableError: the CSV can not be read, with file, line and column.
      OSError: the directory can not be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table = _table(options)
    train, held_out = split_held_out(table, HELD_OUT_SHARE, options.seed)
    broker_port, page_port, *ports = free_ports(2 + 2 * len(options.sites))
    keys = directory / "keys"
    helpers = [_make_helper(directory, name) for name in HELPERS] if options.secure else []
    k_min = K_MIN if options.secure else 1
    root = make_federation(keys, FEDERATION, k_min=k_min, helpers=tuple(helpers))
    bundle = directory / "bundle.jm"
    bundle.write_bytes(
        build_bundle(
            JOB, bundle_settings(options.seed), FEDERATION, read_private_key(keys / AUTHOR_KEY)
        )
    )
    for folder in ("sites", HELD_OUT):
        (directory / folder).mkdir(exist_ok=True)
    (directory / NAMES).write_bytes(msgspec.json.encode(options.sites))
    rows, judged = (shared_out(table, index, options.sites) for index in (train, held_out))
    sites = []
    for at, name in enumerate(options.sites):
        agent = f"gateway-{name.lower()}"
        make_agent(keys, FEDERATION, agent, name, serial=at + 1)
        site = Site(
            name=name,
            agent=agent,
            train=rows[name],
            held_out=judged[name],
            machine_port=ports[2 * at],
            link_port=ports[2 * at + 1],
            config=directory / f"{agent}.toml",
            state=directory / agent,
        )
        write_csv(site.train, directory / "sites" / f"{name}.csv")
        write_csv(site.held_out, directory / HELD_OUT / f"{name}.csv")
        site.config.write_text(_agent_toml(site, root.raw.hex()) + _privacy_toml(options))
        sites.append(site)
    coordinator = directory / "coordinator.toml"
    coordinator.write_text(
        _coordinator_toml(options, root.raw.hex(), broker_port, page_port) + policy_toml(options)
    )
    configs = tuple(
        (helper.name, _write_helper(directory, helper.name, root.raw.hex(), broker_port))
        for helper in helpers
    )
    return Plant(
        directory=directory,
        options=options,
        sites=tuple(sites),
        broker_port=broker_port,
        page_port=page_port,
        coordinator_config=coordinator,
        coordinator_state=directory / "coordinator",
        bundle=bundle,
        helpers=configs,
    )


def shared_out(table: Table, index: NDArray[np.int64], names: Sequence[str]) -> dict[str, Table]:
    """Share rows out to sites: each has its letter's quality, several of one letter take turns."""
    found = {}
    for name in names:
        alike = [other for other in names if other[0] == name[0]]
        rows = index[table.quality[index] == name[0]]
        found[name] = table.take(rows[alike.index(name) :: len(alike)])
    return found


def _make_helper(directory: Path, name: str) -> HelperKeys:
    """Make keys and store of a helper, in a folder of its own as if elsewhere."""
    keys = make_helper(directory / name, name)
    make_store(directory / name, keys)
    return keys


def _write_helper(directory: Path, name: str, root: str, broker_port: int) -> Path:
    path = directory / f"{name}.toml"
    path.write_text(f"""\
[helper]
name = "{name}"
state_dir = "{name}"

[trust]
root = "{root}"
charter = "keys/charter.jm"
signing_key = "{name}/{name}.signing.key"
sealing_key = "{name}/{name}.sealing.key"

[broker]
port = {broker_port}
keepalive_s = 5
""")
    return path


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
goal = {_GOAL if len(options.sites) > len(SITES) else 2}
clients = {len(options.sites)}
deadline_s = 12

[server_optimizer]
name = "sgd"
learning_rate = {_server_rate(options)}

[average]
decay = 8

[gate]
every = 3
quorum = {K_MIN if options.secure else 2}
tolerance = 0.05
# A site's held-out rows have few failures, so figures jump: what is hardly worse is kept back, and
# only what is much worse, or worse for long, ends a lineage.
abandon_below = 0.3
patience = 6
deadline_s = 20

[policy]
weight_cap = {_WEIGHT_CAP if options.secure else 10000}
"""


def _server_rate(options: Options) -> float:
    """Two updates of three sites are half of them; eight of ten are nearly all."""
    is_few = options.strategy == "fedbuff" and len(options.sites) == len(SITES)
    return 0.5 if is_few else 1.0


def policy_toml(options: Options) -> str:
    """The rest of the policy: how sites train, masks, and noise that the budget lasts with."""
    lines = dict(_PLAIN_TRAINING)
    if options.secure:
        lines |= {"protection": "masked", "ring": 16, "weight_unit": _WEIGHT_UNIT}
    if options.epsilon:
        noise = noise_for(options.epsilon)
        lines |= {**_NOISED_TRAINING, "privacy": "record", "noise_multiplier": round(noise, 3)}
    return "".join(
        f'{key} = "{value}"\n' if isinstance(value, str) else f"{key} = {value}\n"
        for key, value in lines.items()
    )


def noise_for(epsilon: float) -> float:
    """Least noise multiplier with which a site's budget lasts for the planned updates."""
    low, high = 0.3, 10_000.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        spent = gaussian_cost(middle, _NOISED_STEPS * _PLANNED_UPDATES)
        low, high = (middle, high) if epsilon_of(spent, DELTA) > epsilon else (low, middle)
    return high


def _privacy_toml(options: Options) -> str:
    if not options.epsilon:
        return ""
    return f"""
[privacy]
unit = "record"
protection = "masked"
epsilon = {options.epsilon}
delta = {DELTA}
"""

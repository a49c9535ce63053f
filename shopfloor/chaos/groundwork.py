"""Writes the run directory of the chaos suite: keys, bundle, machine's table, configurations.

Two agents speak MQTT 3.1.1 and two MQTT 5.  The model is small (6,657 parameters) and training
takes a moment: what is tested is delivery, and there has to be much to deliver.
"""

import getpass
from pathlib import Path
from typing import Final

import msgspec

from agent.authoring import build_bundle, read_bundle_settings
from coordinator.helper.identity import make_helper
from coordinator.helper.store import make_store
from shopfloor.chaos.layout import (
    DECAY,
    FEDERATION,
    K_MIN,
    LEARNING_RATE,
    STALENESS_CAP,
    Layout,
)
from shopfloor.chaos.schedule import AGENTS, BROKER, COORDINATOR, HELPERS
from shopfloor.machine import NAMESPACE_URI
from shopfloor.milling import generate, write_csv
from shopfloor.plant import JOB, channels_toml
from shopfloor.ports import free_ports
from wire.keys import AUTHOR_KEY, make_agent, make_federation
from wire.messages import HelperKeys
from wire.signing import read_private_key

_ROWS: Final = 40_000
_HIDDEN: Final = (64, 64, 32)


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
    ports = free_ports(2 + len(clients))
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

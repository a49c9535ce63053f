"""Lays out a run of `journeyman demo --mcu`: keys, bundle, one configuration for each program.

RUN/  keys/, bundle.jm          as the big demo has them
      board.bin                 the board's flash, which outlives a reset
      bridge.toml, bridge.sock  of the gateway with the board
      gateway-1.toml ...        gateway-1 has the board; the others replay a like machine
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agent.authoring import build_bundle, read_bundle_settings
from shopfloor.mcu.signals import NAMES, PERIOD_S, write_samples
from shopfloor.plant import JOB as FIRST_JOB
from shopfloor.ports import free_port
from wire.keys import AUTHOR_KEY, make_agent, make_federation
from wire.signing import read_private_key

FEDERATION: Final = "demo"
BOARD_AGENT: Final = "gateway-1"
AGENTS: Final = (BOARD_AGENT, "gateway-2", "gateway-3")
JOB = FIRST_JOB.with_name("microcontroller.toml")
LEAST_ROWS: Final = 20
"""Scores that decide about a new model."""
REST_S: Final = 40.0
"""Long enough for a trial and for the scores that a run wants to compare."""
_LONGEST_S: Final = 400
_UNITS = ("mm", "mm", "mm2")


@dataclass(frozen=True)
class McuPlant:
    """What a run needs, on disk."""

    directory: Path
    broker_port: int

    @property
    def coordinator(self) -> Path:
        """The coordinator's configuration."""
        return self.directory / "coordinator.toml"

    @property
    def bridge(self) -> Path:
        """The bridge's configuration."""
        return self.directory / "bridge.toml"

    @property
    def memory(self) -> Path:
        """The board's flash."""
        return self.directory / "board.bin"

    def agent(self, name: str) -> Path:
        """An agent's configuration."""
        return self.directory / f"{name}.toml"


def lay_out(directory: Path, seed: int, rest_s: float = REST_S) -> McuPlant:
    """Write the run's files, all but the bridge's, which needs the board's line.

    Args:
      directory: of the run.
      seed: of the first weights, and of the other machines' noise.
      rest_s: the board gets no new model sooner after the last one came.

    Raises:
      OSError: the disk does not take them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    keys = directory / "keys"
    root = make_federation(keys, FEDERATION).raw.hex()
    settings = read_bundle_settings(JOB)
    if settings.family is not None:
        family = msgspec.structs.replace(settings.family, seed=seed)
        settings = msgspec.structs.replace(settings, family=family)
    author = read_private_key(keys / AUTHOR_KEY)
    (directory / "bundle.jm").write_bytes(build_bundle(JOB, settings, FEDERATION, author))
    plant = McuPlant(directory, free_port())
    for at, agent in enumerate(AGENTS):
        make_agent(keys, FEDERATION, agent, f"hall-{at + 1}", serial=at + 1)
        source = _board_toml(rest_s) if agent == BOARD_AGENT else _replay_toml(agent)
        plant.agent(agent).write_text(_agent_toml(agent, root, plant.broker_port) + source)
        if agent != BOARD_AGENT:
            write_samples(directory / f"{agent}.csv", round(_LONGEST_S / PERIOD_S), seed + at)
    plant.coordinator.write_text(_coordinator_toml(root, plant.broker_port))
    return plant


def write_bridge(plant: McuPlant, line: str) -> None:
    """Write the bridge's file.

    Args:
      plant: of the run.
      line: path of the board's pseudo-terminal.

    Raises:
      OSError: the disk does not take it.
    """
    channels = "".join(
        f'\n[[line.device.stream.channel]]\nname = "{name}"\nunit = "{unit}"\nscale = {2.0**-10}\n'
        for name, unit in zip(NAMES, _UNITS, strict=True)
    )
    plant.bridge.write_text(f"""\
[bridge]
socket = "bridge.sock"
metrics = ""

[[line]]
name = "uart"
port = "{line}"
baudrate = 921600

[[line.device]]
name = "board"

[[line.device.stream]]
number = 0
name = "motion"
{channels}""")


def _agent_toml(agent: str, root: str, port: int) -> str:
    return f"""\
[agent]
state_dir = "{agent}"

[trust]
root = "{root}"
charter = "keys/charter.jm"
credential = "keys/{agent}.credential"
key = "keys/{agent}.key"

[broker]
port = {port}

[history]
capacity_rows = 6000
holdout_stretch_s = 2.0

[training]
pause_s = 2
priority = "low"
budget.enabled = false

[personal]
enabled = false

[rows]
trigger = "product"
"""


def _board_toml(rest_s: float) -> str:
    channels = "".join(
        f'\n[[source.firmware.channel]]\nname = "{name}"\nunit = "{unit}"\n'
        for name, unit in zip(NAMES, _UNITS, strict=True)
    )
    return f"""
[[source.firmware]]
socket = "bridge.sock"
device = "board"
stream = "motion"
{channels}
[[device]]
socket = "bridge.sock"
device = "board"
stream = "motion"
trial_s = 60
rest_s = {rest_s}
least_rows = {LEAST_ROWS}
"""


def _replay_toml(agent: str) -> str:
    channels = "".join(
        f'\n[[source.replay.channel]]\nname = "{name}"\ncolumn = "{name}"\nunit = "{unit}"\n'
        for name, unit in zip(NAMES, _UNITS, strict=True)
    )
    return f"""
[source.replay]
file = "{agent}.csv"
interval_s = {PERIOD_S}
time = "now"
{channels}"""


def _coordinator_toml(root: str, port: int) -> str:
    return f"""\
[coordinator]
state_dir = "coordinator"
bundle = "bundle.jm"

[trust]
root = "{root}"
charter = "keys/charter.jm"
key = "keys/coordinator.key"

[broker]
port = {port}

[strategy]
name = "fedbuff"
goal = 2
clients = {len(AGENTS)}
deadline_s = 12

[gate]
every = 3
quorum = 2
tolerance = 0.05
deadline_s = 15

[policy]
epochs = 8
batch_size = 32
optimizer = "adam"
learning_rate = 0.003
min_rows = 64
clip_norm = 3.0
scale = 0.002
bits = 8
weight_cap = 10000
"""

"""Where everything of a run of the chaos suite is, and what all its parts know of the federation.

    RUN/  machine.csv  keys/  bundle.jm
          gateway-1.toml ... coordinator.toml mosquitto.conf    configurations
          gateway-1/ ... coordinator/ broker/                   state directories
          notary.toml notary/ ...                               three helpers, in secure mode
          copies/gateway-1/ ...                                 old copies of disks
          replaced/                                             a helper's disk before an old copy
          tape/  witness/                                       what the links and the observer saw
          buried.jsonl                                          what wiped outboxes knew

`groundwork.py` makes it.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shopfloor.chaos.schedule import COORDINATOR, HELPERS

FEDERATION: Final = "chaos"
LEARNING_RATE: Final = 0.5
STALENESS_CAP: Final = 20
K_MIN: Final = 3
"""Of the charter in secure mode: sites in each sum, of four."""
DECAY: Final = 2.0
ROWS_PER_S: Final = 25.0
"""So fast that a wiped agent soon has rows again."""
_PACKET_BYTES: Final = 3_000
"""What the links of MQTT 5 tell their agents to be the largest packet: updates come in chunks."""
_SECURE_PACKET_BYTES: Final = 12_000
"""The same in secure mode, where masked figures about two versions have 9 kB."""


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

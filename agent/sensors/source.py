"""What every source of samples is to the agent, and what it says about itself.

A source is one asynchronous generator of blocks.  It runs until it is cancelled or has nothing
more to give (a replay), connects again by itself for ever, and never raises because of what a
machine, a line or a network does: that is in its report, and in the gaps of its blocks.

A source never writes to a machine.  Its channels are numbered from 0; the agent shifts them.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from agent.signals.block import Block
from wire.settings import Settings

WELL = ("subscribed", "reading", "finished")
"""States of a source with which nothing is wrong; any other says what is."""

Length = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class ChannelSettings(Settings, frozen=True, kw_only=True):
    """What the channels of all sources have.

    Attributes:
      name: the federation's name for it (see the bundle).
      unit: of the values as they leave the source.
      shape: of one value: () a number, (4096,) a waveform, (1, 64, 64) an image.
      states: numbers for texts, such as {"RUN" = 1, "STOP" = 0}; other texts are Bad.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    unit: Annotated[str, msgspec.Meta(max_length=20)] = ""
    shape: Annotated[tuple[Length, ...], msgspec.Meta(max_length=4)] = ()
    states: Annotated[dict[str, float], msgspec.Meta(max_length=1000)] = msgspec.field(
        default_factory=dict
    )


@dataclass
class SourceReport:
    """What a source says about itself to people; only the source writes it.

    Attributes:
      name: `opcua opc.tcp://10.0.0.5:4840`.
      state: one line; one of `WELL`, or what is going on: `lost: connection reset`.
      problems: what is wrong with single channels or devices, by their name, until it is not.
      counters: since the process started: `reconnects`, `gaps`, `bad_frames` and such.
    """

    name: str
    state: str = "connecting"
    problems: dict[str, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def is_well(self) -> bool:
        """Whether it gives what it should."""
        return self.state in WELL

    def count(self, name: str, by: int = 1) -> None:
        """Raise a counter."""
        self.counters[name] = self.counters.get(name, 0) + by


@dataclass(frozen=True)
class SourceContext:
    """What the agent gives a source.

    Attributes:
      config_dir: folder of the configuration file; relative paths begin there.
      state_dir: the agent's state directory; a source keeps its files under `sources/KIND` there.
      agent: the agent's id, for application URIs and the like.
    """

    config_dir: Path
    state_dir: Path
    agent: str


Blocks = AsyncGenerator[Block, None]
OpenSource = Callable[[SourceContext, SourceReport], Blocks]
"""A source whose settings are bound; nothing happens before the first block is asked for."""

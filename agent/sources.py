"""The sources of a configuration: which kinds there are, and whose channels come first.

One place knows all drivers.  A driver's channels are numbered from 0; here they become the agent's:
in the order of `SourceTable`'s keys, of the tables of each kind, and of the channels in each table;
after them those that no source feeds, the labels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent.sensors.firmware import FirmwareSettings, firmware_blocks
from agent.sensors.firmware import problems as firmware_problems
from agent.sensors.images import ImagesSettings, images_blocks
from agent.sensors.images import problems as images_problems
from agent.sensors.lines import LinesSettings, lines_blocks
from agent.sensors.lines import problems as lines_problems
from agent.sensors.modbus import ModbusSettings, modbus_blocks
from agent.sensors.modbus import problems as modbus_problems
from agent.sensors.opcua import OpcUaSettings, opcua_blocks
from agent.sensors.opcua import problems as opcua_problems
from agent.sensors.replay import ReplaySettings, replay_blocks
from agent.sensors.replay import problems as replay_problems
from agent.sensors.source import Blocks, ChannelSettings, OpenSource, SourceContext, SourceReport
from wire.settings import Settings


class SourceTable(Settings, frozen=True, kw_only=True):
    """`[source]`: where samples come from.

    Each kind once, as `[source.opcua]`, or several times, as `[[source.opcua]]` for each.

    Attributes:
      opcua: OPC UA servers.
      modbus: Modbus over TCP and serial lines.
      lines: serial lines with text or binary frames.
      replay: recorded files.
      images: pictures from a folder or a command.
      firmware: microcontrollers behind `journeyman-bridge`.
    """

    opcua: OpcUaSettings | tuple[OpcUaSettings, ...] = ()
    modbus: ModbusSettings | tuple[ModbusSettings, ...] = ()
    lines: LinesSettings | tuple[LinesSettings, ...] = ()
    replay: ReplaySettings | tuple[ReplaySettings, ...] = ()
    images: ImagesSettings | tuple[ImagesSettings, ...] = ()
    firmware: FirmwareSettings | tuple[FirmwareSettings, ...] = ()


@dataclass(frozen=True)
class _Driver:
    """What a kind of source brings; `settings` are always its own."""

    blocks: Callable[[Any, SourceContext, SourceReport], Blocks]
    problems: Callable[[Any], Iterator[tuple[str, str]]]
    place: Callable[[Any], str]
    silent_s: Callable[[Any], float] = lambda _: 0.0
    """How long settings may keep it from giving any block, an empty one too."""


_DRIVERS = {
    "opcua": _Driver(
        opcua_blocks,
        opcua_problems,
        lambda settings: settings.endpoint,
        lambda settings: settings.retry_max_s + settings.keep_alive_s + settings.silence_s,
    ),
    "modbus": _Driver(modbus_blocks, modbus_problems, lambda settings: settings.where),
    "lines": _Driver(
        lines_blocks,
        lines_problems,
        lambda settings: settings.device,
        lambda settings: (settings.retries + 1) * settings.answer_timeout_ms / 1000,
    ),
    "replay": _Driver(replay_blocks, replay_problems, lambda settings: settings.file),
    "images": _Driver(
        images_blocks,
        images_problems,
        lambda settings: settings.folder or " ".join(settings.command),
    ),
    "firmware": _Driver(
        firmware_blocks,
        firmware_problems,
        lambda settings: f"{settings.device} {settings.stream}",
    ),
}


@dataclass(frozen=True)
class ConfiguredSource:
    """One source of a configuration.

    Attributes:
      key: its table, `source.opcua` or `source.modbus[1]`.
      kind: `opcua`, `modbus`, ...
      title: for people: `opcua opc.tcp://10.0.0.5:4840`.
      first: number of its first channel among the agent's.
      channels: its channels, in order.
      settings: its table.
      open: makes its blocks.
      silent_s: how long its settings may keep it from giving any block, an empty one too.
    """

    key: str
    kind: str
    title: str
    first: int
    channels: tuple[ChannelSettings, ...]
    settings: Settings
    open: OpenSource
    silent_s: float = 0.0


def sources_of(table: SourceTable) -> list[ConfiguredSource]:
    """All sources of a configuration, in the order of their channels."""
    found: list[ConfiguredSource] = []
    first = 0
    for key, kind, settings in _tables(table):
        driver, channels = _DRIVERS[kind], tuple(settings.channel)
        title = f"{kind} {driver.place(settings)}"
        opened = partial(driver.blocks, settings)
        silent_s = driver.silent_s(settings)
        found.append(
            ConfiguredSource(key, kind, title, first, channels, settings, opened, silent_s)
        )
        first += len(channels)
    return found


def problems(table: SourceTable) -> Iterator[tuple[str, str]]:
    """Yield (key path, reason) for everything wrong with the tables' contents."""
    for key, kind, settings in _tables(table):
        for of_key, reason in _DRIVERS[kind].problems(settings):
            yield f"{key}.{of_key}", reason


def _tables(table: SourceTable) -> Iterator[tuple[str, str, Any]]:
    """Key, kind and settings of every source."""
    for kind in table.__struct_fields__:
        value = getattr(table, kind)
        if isinstance(value, tuple):
            for at, settings in enumerate(value):
                yield f"source.{kind}[{at}]", kind, settings
        else:
            yield f"source.{kind}", kind, value

"""`[[source.firmware]]`: one stream of one microcontroller behind a bridge.

`sample.toml` beside this file shows every key.
"""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from agent.sensors.source import ChannelSettings
from wire.settings import Settings

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class FirmwareChannel(ChannelSettings, frozen=True, kw_only=True):
    """One of the stream's channels; one with a shape takes as many samples in a row as it holds.

    Attributes:
      field: its name in the bridge's configuration; without it, `name`.
    """

    field: Annotated[str, msgspec.Meta(max_length=100)] = ""


class FirmwareSettings(Settings, frozen=True, kw_only=True):
    """A stream.  Scale and offset are the bridge's.

    Attributes:
      socket: the bridge's; relative to this file.
      device: name of the microcontroller in the bridge's configuration.
      stream: name of its stream there.
      silent_after_s: no samples for so long is an outage and reported; 0 for never.
      channel: what to take out of it.
    """

    socket: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    device: Name
    stream: Name
    silent_after_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 30.0
    channel: Annotated[tuple[FirmwareChannel, ...], msgspec.Meta(min_length=1, max_length=256)]


def field_of(channel: FirmwareChannel) -> str:
    """What the bridge calls a channel."""
    return channel.field or channel.name


def problems(settings: FirmwareSettings) -> Iterator[tuple[str, str]]:
    """Key paths within the table, and what can not work."""
    for at, channel in enumerate(settings.channel):
        if channel.states:
            yield f"channel[{at}].states", "a microcontroller sends numbers; states are for texts"

"""The `[labels]` table: answers that people, files or later events give to rows of the past."""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from agent.sensors.source import ChannelSettings
from wire.listening import address_of, is_loopback
from wire.settings import Settings


class LabelChannel(ChannelSettings, frozen=True, kw_only=True):
    """One `[[labels.channel]]`: a label that people, a file or an event fill in.

    Attributes:
      event: channel whose change to a value of at least `event_from` is an event, such as a
        failure; empty for none.
      event_from: from which value on.
      horizon_s: rows up to this long before an event get `value`.
      value: what an event labels them with.
      otherwise: what rows get that no event follows within the horizon; none: they stay without.
      file: CSV of labels, looked at again whenever it changes (see README.md); empty for none.
    """

    event: str = ""
    event_from: float = 0.5
    horizon_s: Annotated[float, msgspec.Meta(ge=0, le=366 * 86_400)] = 0.0
    value: float = 1.0
    otherwise: float | None = None
    file: str = ""


class LabelsTable(Settings, frozen=True, kw_only=True):
    """`[labels]`: labels that come later than their rows.

    Attributes:
      listen: `127.0.0.1:8485` serves a small form for operators; empty for none.
      channel: the labels.  One that a source feeds too is the source's until somebody says
        otherwise.
    """

    listen: str = ""
    channel: tuple[LabelChannel, ...] = ()


def listen_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8485` or `[::1]:8485`.

    Raises:
      ValueError: it is no address of this machine alone.
    """
    host, port = address_of(text)
    if not is_loopback(host):
        reason = "the form knows no users, so it listens on this machine alone (127.0.0.1); a "
        raise ValueError(f"{reason}reverse proxy that knows them can show it to others")
    return host, port


def problems(table: LabelsTable) -> Iterator[tuple[str, str]]:
    """Yield (key path, reason) for everything wrong with settings whose types are right."""
    if table.listen:
        try:
            listen_address(table.listen)
        except ValueError as error:
            yield "labels.listen", str(error)
    seen: set[str] = set()
    for at, channel in enumerate(table.channel):
        if channel.name in seen:
            yield f"labels.channel[{at}].name", f"{channel.name!r} is used twice"
        seen.add(channel.name)
        if channel.shape:
            yield f"labels.channel[{at}].shape", "a label is a number"

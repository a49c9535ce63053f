"""`[[device]]`: a microcontroller that is to run the served model.

`sample.toml` beside this file shows every key.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from agent.sensors.firmware import FirmwareSettings
from wire.settings import Settings

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class DeviceTable(Settings, frozen=True, kw_only=True):
    """A device behind `journeyman-bridge`; a `[[source.firmware]]` reads the same stream.

    Attributes:
      socket: the bridge's; relative to this file.
      device: name of the microcontroller in the bridge's configuration.
      stream: whose samples its model sees: all channels, in the bridge's order.
      trial_s: how long a new model may run before it is confirmed; then the device goes back.
      rest_s: a device's flash wears: it gets no new model sooner after the last one came.
      least_rows: so many compared scores decide about a new model.
      window_rows: agreement is that of the newest so many scores.
      bits_share: of them that must equal the int8 reference bit by bit.
      bound_steps: by how many steps of its int8 output a score may differ from the gateway's
        float model; the bound is so many times the output's scale.
    """

    socket: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    device: Name
    stream: Name
    trial_s: Annotated[int, msgspec.Meta(ge=5, le=7 * 86_400)] = 600
    rest_s: Annotated[float, msgspec.Meta(ge=0, le=30 * 86_400)] = 3600.0
    least_rows: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20
    window_rows: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 200
    bits_share: Annotated[float, msgspec.Meta(ge=0.5, le=1.0)] = 0.99
    bound_steps: Annotated[float, msgspec.Meta(ge=1, le=255)] = 16.0


def source_of(table: DeviceTable, sources: Sequence[FirmwareSettings]) -> FirmwareSettings | None:
    """The source that reads the same stream."""
    wanted = table.socket, table.device, table.stream
    found = (each for each in sources if (each.socket, each.device, each.stream) == wanted)
    return next(found, None)


def problems(
    tables: Sequence[DeviceTable], sources: Sequence[FirmwareSettings]
) -> Iterator[tuple[str, str]]:
    """Key paths, and what can not work.

    Args:
      tables: all of the file.
      sources: its `[[source.firmware]]` tables.
    """
    seen: set[tuple[str, str]] = set()
    for at, table in enumerate(tables):
        if (key := (table.socket, table.device)) in seen:
            yield f"device[{at}].device", f"{table.device!r} has two tables"
        seen.add(key)
        if table.window_rows < table.least_rows:
            yield f"device[{at}].window_rows", "must not be less than least_rows"
        if source_of(table, sources) is None:
            reason = "no [[source.firmware]] has this socket, device and stream"
            yield f"device[{at}].stream", reason

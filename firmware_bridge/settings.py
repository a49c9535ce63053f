"""The bridge's configuration: lines, devices, streams; `configs/bridge.toml` explains all keys."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from firmware_bridge.messages import ID_BYTES
from wire.listening import own_address
from wire.settings import Settings, read_settings, settings_error

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
MOST_DEVICES = 126
"""Of one line: addresses."""
_MOST_DEVICES, _MOST_CHANNELS = 256, 4096
"""Of all lines: what is told of them is one message."""


class ChannelTable(Settings, frozen=True, kw_only=True):
    """`[[line.device.stream.channel]]`: one value of each sample, in the device's order.

    Attributes:
      name: by which agents ask for it.
      unit: of the value after scaling.
      scale: the sample is raw * scale + offset.
      offset: in `unit`.
    """

    name: Name
    unit: Annotated[str, msgspec.Meta(max_length=20)] = ""
    scale: float = 1.0
    offset: float = 0.0


class StreamTable(Settings, frozen=True, kw_only=True):
    """`[[line.device.stream]]`: samples that are taken together.

    Attributes:
      number: by which the device's firmware calls it.
      name: by which agents ask for it.
      channel: what a sample consists of.
    """

    number: Annotated[int, msgspec.Meta(ge=0, le=255)]
    name: Name
    channel: Annotated[tuple[ChannelTable, ...], msgspec.Meta(min_length=1, max_length=255)]


class DeviceTable(Settings, frozen=True, kw_only=True):
    """`[[line.device]]`: a microcontroller.

    Attributes:
      name: by which agents ask for it; one of its kind in this file.
      address: 0 for the only device of a line, 1 to 126 on RS-485.
      id: serial number, 32 hexadecimal digits, as `status` shows it; another device in its place
        is refused.  Empty: any will do.
      stream: what it measures.
    """

    name: Name
    address: Annotated[int, msgspec.Meta(ge=0, le=MOST_DEVICES)] = 0
    id: Annotated[str, msgspec.Meta(max_length=2 * ID_BYTES)] = ""
    stream: Annotated[tuple[StreamTable, ...], msgspec.Meta(max_length=256)] = ()


class LineTable(Settings, frozen=True, kw_only=True):
    """`[[line]]`: a serial port.

    Attributes:
      name: for people.
      port: path; take a stable one from `/dev/serial/by-id` or `/dev/journeyman`.
      baudrate: as the device's; a USB device has none of its own and takes any.
      poll_interval_ms: how often a device with an address is asked for what it has.
      device: on it; one with address 0, or several with others.
    """

    name: Name
    port: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    baudrate: Annotated[int, msgspec.Meta(ge=1200, le=12_000_000)] = 115_200
    poll_interval_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)] = 20
    device: Annotated[tuple[DeviceTable, ...], msgspec.Meta(min_length=1, max_length=MOST_DEVICES)]


class BridgeTable(Settings, frozen=True, kw_only=True):
    """`[bridge]`: whom it serves.

    Attributes:
      socket: where agents connect.
      group: that may; empty for the group of this program.
      clients: how many at a time.
      client_bytes: of samples that wait for a slow one; the oldest are dropped and marked.
      metrics: `127.0.0.1:9486` for `/metrics` and `/healthz`; empty for none.
    """

    socket: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    group: Annotated[str, msgspec.Meta(max_length=32)] = ""
    clients: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    client_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 28)] = 4 << 20
    metrics: str = ""


class BridgeSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    bridge: BridgeTable
    line: Annotated[tuple[LineTable, ...], msgspec.Meta(min_length=1, max_length=64)]


def read_bridge_settings(path: Path) -> BridgeSettings:
    """Read and check the file; relative paths in it begin at its folder.

    Raises:
      SettingsError: names file, line and key of the first problem.
    """
    settings = read_settings(path, BridgeSettings)
    for key, reason in problems(settings):
        raise settings_error(path, key, reason)
    socket = str(path.parent / settings.bridge.socket)
    return msgspec.structs.replace(
        settings, bridge=msgspec.structs.replace(settings.bridge, socket=socket)
    )


def problems(settings: BridgeSettings) -> Iterator[tuple[str, str]]:
    """Yield (key path, reason) for what can not work although all types are right."""
    if settings.bridge.metrics:
        try:
            own_address(settings.bridge.metrics)
        except ValueError as error:
            yield "bridge.metrics", str(error)
    yield from _twice("line", [line.port for line in settings.line], "port")
    yield from _twice("line", [line.name for line in settings.line], "name")
    devices = [device for line in settings.line for device in line.device]
    channels = sum(len(stream.channel) for device in devices for stream in device.stream)
    if len(devices) > _MOST_DEVICES or channels > _MOST_CHANNELS:
        reason = f"one bridge serves {_MOST_DEVICES} devices and {_MOST_CHANNELS} channels at most"
        yield "line", f"{reason}; these are {len(devices)} and {channels}: start another bridge"
    names: dict[str, str] = {}
    for at, line in enumerate(settings.line):
        for of_key, reason in _line_problems(line):
            yield f"line[{at}].{of_key}", reason
        for number, device in enumerate(line.device):
            key = f"line[{at}].device[{number}]"
            if device.name in names:
                yield f"{key}.name", f"{names[device.name]} has the name {device.name!r} already"
            names.setdefault(device.name, key)


def _line_problems(line: LineTable) -> Iterator[tuple[str, str]]:
    addresses = [device.address for device in line.device]
    if len(addresses) > 1 and 0 in addresses:
        at = addresses.index(0)
        yield f"device[{at}].address", "address 0 is for a device that is alone on its line"
    yield from _twice("device", addresses, "address")
    for at, device in enumerate(line.device):
        if device.id and not _is_id(device.id):
            yield f"device[{at}].id", f"a serial number has {2 * ID_BYTES} hexadecimal digits"
        streams = device.stream
        yield from _twice(f"device[{at}].stream", [each.number for each in streams], "number")
        yield from _twice(f"device[{at}].stream", [each.name for each in streams], "name")
        for number, stream in enumerate(streams):
            names = [channel.name for channel in stream.channel]
            yield from _twice(f"device[{at}].stream[{number}].channel", names, "name")


def _is_id(text: str) -> bool:
    return len(text) == 2 * ID_BYTES and all(each in "0123456789abcdefABCDEF" for each in text)


def _twice(table: str, values: list[str] | list[int], key: str) -> Iterator[tuple[str, str]]:
    for (first, one), (second, other) in itertools.combinations(enumerate(values), 2):
        if one == other:
            yield f"{table}[{second}].{key}", f"{table}[{first}] has {key} = {one!r} already"
            return

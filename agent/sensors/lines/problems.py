"""What can not work about the settings of a serial line, beyond the types of single keys.

Pure.
"""

import math
from collections.abc import Iterator, Sequence
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agent.sensors.lines.binary import field_count, fields_at, frame_layout, record_type
from agent.sensors.lines.framing import FrameLayout
from agent.sensors.lines.patterns import PatternError, compiled
from agent.sensors.lines.settings import (
    AnyTextSettings,
    BinarySettings,
    DelimitedSettings,
    LineChannel,
    LinesSettings,
    RegexSettings,
    TextSettings,
)

Problems = Iterator[tuple[str, str]]
_MAX_FRAME_BYTES = 1 << 16
_MAX_COLUMNS = 1 << 14
_TEXTS = ("terminator", "start", "comment", "checksum_separator")


def problems(settings: LinesSettings) -> Problems:
    """Key paths within the table, and what is wrong with them."""
    yield from _line(settings)
    yield from _channels(settings.channel)
    if isinstance(settings, BinarySettings):
        yield from _binary(settings)
        return
    yield from _text(settings)
    if isinstance(settings, DelimitedSettings):
        yield from _columns(settings)
    else:
        for at, channel in enumerate(settings.channel):
            if channel.shape:
                yield f"channel[{at}].shape", "only delimited lines and binary frames hold arrays"
    if isinstance(settings, RegexSettings):
        yield from _pattern(settings)


def _line(settings: LinesSettings) -> Problems:
    if not settings.device.startswith("/"):
        yield "device", "not an absolute path; see `ls /dev/serial/by-id`"
    if settings.request and settings.request_hex:
        yield "request_hex", "give either request or request_hex"
    try:
        settings.request.encode("latin-1")
    except UnicodeEncodeError:
        yield "request", "it holds characters that are not one byte; use request_hex"
    if _from_hex(settings.request_hex) is None:
        yield "request_hex", "not hexadecimal bytes such as `05 30 31 0D`"


def _channels(channels: Sequence[LineChannel]) -> Problems:
    for at, channel in enumerate(channels):
        if not math.isfinite(channel.scale) or not channel.scale:
            yield f"channel[{at}].scale", "not a finite number other than 0"
        if not math.isfinite(channel.offset):
            yield f"channel[{at}].offset", "not a finite number"
        if not all(map(math.isfinite, channel.states.values())):
            yield f"channel[{at}].states", "the number of a state is not finite"
        if channel.states and (channel.scale != 1 or channel.offset or channel.shape):
            yield f"channel[{at}].states", "states have no scale, offset or shape"


def _text(settings: AnyTextSettings) -> Problems:
    for key in _TEXTS:
        if not _is_encodable(getattr(settings, key), settings):
            yield key, f"can not be written in {settings.encoding}"
    try:
        ZoneInfo(settings.timestamp_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield "timestamp_zone", "not a time zone that this system knows, such as Europe/Berlin"


def _is_encodable(text: str, settings: TextSettings) -> bool:
    try:
        text.encode(settings.encoding)
    except UnicodeEncodeError:
        return False
    return True


def _columns(settings: DelimitedSettings) -> Problems:
    most = settings.columns or _MAX_COLUMNS
    if settings.decimal in settings.delimiter:
        yield "decimal", "also the delimiter"
    if settings.timestamp is not None and settings.timestamp >= most:
        yield "timestamp", f"there are only {most} columns, and the first is 0"
    for at, channel in enumerate(settings.channel):
        width = math.prod(channel.shape)
        if channel.column + width > most:
            yield f"channel[{at}].column", f"there are only {most} columns, and the first is 0"


def _pattern(settings: RegexSettings) -> Problems:
    try:
        groups = compiled(settings.pattern, settings.max_line_bytes).groupindex
    except PatternError as error:
        yield "pattern", str(error)
        return
    known = ", ".join(groups) or "none; write (?P<name>...)"
    if settings.timestamp is not None and settings.timestamp not in groups:
        yield "timestamp", f"not a group of the pattern, which has {known}"
    for at, channel in enumerate(settings.channel):
        if channel.group not in groups:
            yield f"channel[{at}].group", f"not a group of the pattern, which has {known}"


def _binary(settings: BinarySettings) -> Problems:
    found = [*_codes(settings)]
    yield from found
    if settings.bytesize != 8:
        yield "bytesize", "binary frames need 8"
    if settings.flow_control == "xon_xoff":
        yield "flow_control", "xon_xoff takes bytes out of binary frames"
    if settings.length_at is not None and settings.frame_bytes is not None:
        yield "frame_bytes", "frames have a length field (length_at)"
    if found:
        return
    yield from _fields(settings)
    yield from _places(settings, frame_layout(settings))


def _codes(settings: BinarySettings) -> Problems:
    """Hexadecimal and types, without which nothing else can be said."""
    for key, text in (("sync", settings.sync), ("end", settings.end)):
        if _from_hex(text) is None or (key == "sync" and not _from_hex(text)):
            yield key, "not hexadecimal bytes such as `AA 55`"
    total = 0
    for name, code in settings.fields.items():
        try:
            total += field_count(code)[1]
        except ValueError as error:
            yield f"fields.{name}", str(error)
    if total > _MAX_FRAME_BYTES:
        yield "fields", f"more than {_MAX_FRAME_BYTES} values"


def _fields(settings: BinarySettings) -> Problems:
    kinds = {name: field_count(code) for name, code in settings.fields.items()}
    known = ", ".join(name for name, (kind, _) in kinds.items() if kind != "x")
    for at, channel in enumerate(settings.channel):
        kind, count = kinds.get(channel.field, ("x", 1))
        if kind == "x":
            yield f"channel[{at}].field", f"not a field; there are {known}"
        elif count != math.prod(channel.shape):
            wanted = f"{math.prod(channel.shape)}{kind}"
            yield f"channel[{at}].shape", f"field {channel.field} holds {count}, not {wanted}"
        if channel.states:
            yield f"channel[{at}].states", "they stand for texts, and binary fields are numbers"
    if settings.timestamp is None:
        return
    kind, count = kinds.get(settings.timestamp, ("x", 1))
    if kind == "x" or count != 1:
        yield "timestamp", f"not a field with one value; there are {known}"
    if settings.timestamp_format == "iso":
        yield "timestamp_format", "a number has epoch_s, epoch_ms or epoch_us"


def _places(settings: BinarySettings, layout: FrameLayout) -> Problems:
    """Whether the parts of a frame fit into it and do not lie upon each other."""
    end_of_fields = fields_at(settings) + record_type(settings).itemsize
    size = layout.size if layout.size is not None else settings.max_frame_bytes
    key = "frame_bytes" if layout.size is not None else "max_frame_bytes"
    value_at = layout.checksum_at + (size if layout.checksum_at < 0 else 0)
    header = len(layout.sync)
    if layout.size is None:
        if layout.length_at < header:
            yield "length_at", f"within the {header} sync bytes"
        header = layout.length_at + layout.length_bytes
    if end_of_fields + len(layout.end) > size or size > _MAX_FRAME_BYTES:
        yield key, f"{size} bytes; the fields end at {end_of_fields}, {len(layout.end)} end bytes"
    if not layout.checksum.size:
        return
    if value_at + layout.checksum.size > size - len(layout.end) or value_at < header:
        yield "checksum_at", f"its {layout.checksum.size} bytes are not within the {size} bytes"
    if value_at < end_of_fields and value_at + layout.checksum.size > fields_at(settings):
        yield "checksum_at", f"{value_at}, but the fields end at {end_of_fields}"
    if layout.checksum_from >= value_at:
        yield "checksum_from", f"not before the checksum, which stands at {value_at}"


def _from_hex(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None

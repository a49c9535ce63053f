"""`[[source.lines]]`: the tables of serial lines, one for each of the four formats.

`sample.toml` beside this file shows every key; `problems` of the package says what can not work.
"""

from typing import Annotated, Literal

import msgspec

from agent.sensors.lines.checksums import ChecksumName
from agent.sensors.source import ChannelSettings
from wire.settings import Settings

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=86_400_000)]
Text = Annotated[str, msgspec.Meta(max_length=256)]
Symbol = Annotated[str, msgspec.Meta(min_length=1, max_length=8)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
TimestampFormat = Literal["iso", "epoch_s", "epoch_ms", "epoch_us"]


class LineChannel(ChannelSettings, frozen=True, kw_only=True):
    """What the channels of all formats have: the value is `raw * scale + offset`.

    Attributes:
      scale: the sample is raw * scale + offset.
      offset: in `unit`.
    """

    scale: float = 1.0
    offset: float = 0.0


class DelimitedChannel(LineChannel, frozen=True, kw_only=True):
    """A column; a channel with a shape takes as many columns as it has values.

    Attributes:
      column: its number, from 0.
    """

    column: Annotated[int, msgspec.Meta(ge=0, le=16_383)]


class KeyValueChannel(LineChannel, frozen=True, kw_only=True):
    """The value behind a key.

    Attributes:
      key: as it stands in the line.
    """

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class RegexChannel(LineChannel, frozen=True, kw_only=True):
    """A named group.

    Attributes:
      group: its name in `pattern`.
    """

    group: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class BinaryChannel(LineChannel, frozen=True, kw_only=True):
    """One of the frame's fields; a channel with a shape takes a field of as many values.

    Attributes:
      field: its name in `fields`.
    """

    field: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class PortSettings(Settings, frozen=True, kw_only=True):
    r"""What all formats have: the line, and what is sent to the device, if anything.

    Attributes:
      device: path; take a stable one from `/dev/serial/by-id`.
      baudrate: bits per second; also gives the duration of a byte for the source timestamp.
      bytesize: data bits.
      parity: with one, a byte whose parity is wrong arrives as NUL, so its frame is refused.
      stopbits: 1 or 2.
      flow_control: `none`, `rts_cts` or `xon_xoff` (never with binary frames).
      dtr: level of that output while the port is open; many boards restart when it rises.
      rts: as `dtr`; not with `rts_cts`.
      silent_after_ms: no frame for so long is an outage and reported; 0 for never.
      request: text to send for each answer, such as `READ?\r\n`; empty: the device speaks itself.
      request_hex: the same as bytes, such as `05 30 31 0D`.
      poll_interval_ms: from request to request.
      answer_timeout_ms: longest wait for the whole answer.
      retries: requests repeated at once when no good answer came.
      timestamp_format: of the frame's own time, where `timestamp` names one.
      channel: what to take out of it.
    """

    device: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    baudrate: Annotated[int, msgspec.Meta(ge=50, le=4_000_000)] = 9600
    bytesize: Literal[7, 8] = 8
    parity: Literal["none", "even", "odd", "mark", "space"] = "none"
    stopbits: Literal[1, 2] = 1
    flow_control: Literal["none", "rts_cts", "xon_xoff"] = "none"
    dtr: bool = True
    rts: bool = True
    silent_after_ms: Milliseconds = 30_000
    request: Text = ""
    request_hex: Text = ""
    poll_interval_ms: Annotated[int, msgspec.Meta(ge=10, le=86_400_000)] = 1000
    answer_timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] = 500
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    timestamp_format: TimestampFormat = "iso"


class TextSettings(PortSettings, frozen=True, kw_only=True):
    r"""What the formats of text lines have.

    Attributes:
      terminator: ends a line; with `\n`, a `\r` before it is taken away too.
      max_line_bytes: longer lines are dropped and counted.
      encoding: of the line; what it can not decode is refused.
      start: begins a line, such as `$` or STX; what stands before its last occurrence is garbage.
      comment: lines that begin with it are passed over.
      checksum: of the text between `start` and `checksum_separator`, in hexadecimal behind it.
      checksum_separator: `*` in NMEA 0183, whose checksum is `xor8`.
      decimal: the decimal mark.
      timestamp_zone: of ISO times without an offset, such as `Europe/Berlin`.
    """

    terminator: Symbol = "\n"
    max_line_bytes: Annotated[int, msgspec.Meta(ge=8, le=65_536)] = 1024
    encoding: Literal["ascii", "utf-8", "latin-1"] = "utf-8"
    start: Annotated[str, msgspec.Meta(max_length=8)] = ""
    comment: Annotated[str, msgspec.Meta(max_length=100)] = ""
    checksum: ChecksumName = "none"
    checksum_separator: Symbol = "*"
    decimal: Literal[".", ","] = "."
    timestamp_zone: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] = "UTC"


class DelimitedSettings(
    TextSettings, frozen=True, kw_only=True, tag_field="format", tag="delimited"
):
    """`format = "delimited"`: ASCII tables, CSV.

    Attributes:
      delimiter: between columns; a blank stands for any run of blanks and tabs.
      columns: how many a line has; others are refused.  Without it, more columns are let pass.
      timestamp: the column that holds the time.
    """

    delimiter: Symbol = ","
    columns: Annotated[int, msgspec.Meta(ge=1, le=16_384)] | None = None
    timestamp: Annotated[int, msgspec.Meta(ge=0, le=16_383)] | None = None
    channel: Annotated[tuple[DelimitedChannel, ...], msgspec.Meta(min_length=1)]


class KeyValueSettings(
    TextSettings, frozen=True, kw_only=True, tag_field="format", tag="key_value"
):
    """`format = "key_value"`: `T=21.5;P=1.2`, in any order, with any of the keys.

    Attributes:
      pair_separator: between pairs; a blank stands for any run of blanks and tabs.
      key_separator: between key and value.
      timestamp: the key that holds the time.
    """

    pair_separator: Symbol = ";"
    key_separator: Symbol = "="
    timestamp: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    channel: Annotated[tuple[KeyValueChannel, ...], msgspec.Meta(min_length=1)]


class RegexSettings(TextSettings, frozen=True, kw_only=True, tag_field="format", tag="regex"):
    """`format = "regex"`: named groups of a regular expression.

    Attributes:
      pattern: must match the whole line.
      timestamp: the group that holds the time.
    """

    pattern: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    timestamp: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    channel: Annotated[tuple[RegexChannel, ...], msgspec.Meta(min_length=1)]


class BinarySettings(PortSettings, frozen=True, kw_only=True, tag_field="format", tag="binary"):
    """`format = "binary"`: frames with sync bytes; offsets count from the first of them.

    Attributes:
      sync: hexadecimal, such as `AA 55`; two different bytes are better than one.
      end: hexadecimal, the last bytes of a frame.
      byte_order: of fields, length and checksum.
      fields: name to type in the notation of Python's struct (`h`, `f`, `16H`, `3x`), in order.
      fields_at: offset of the first; else behind sync and a length field that follows it.
      frame_bytes: length of every frame; else just what the parts above need.
      length_at: offset of a length field, where frames differ in length.
      length_type: `u8` or `u16`.
      length_adds: bytes of a frame that the length field does not count.
      max_frame_bytes: longer ones are taken for garbage.
      checksum: algorithm; `none` lets every frame with the right sync pass.
      checksum_at: offset of its value, negative from the end; else before `end`.
      checksum_from: first offset that it covers; the last is just before its value.
      checksum_byte_order: where it differs (that of Modbus is always little).
      timestamp: the field that holds the time; `timestamp_format` is one of the epochs.
    """

    sync: Annotated[str, msgspec.Meta(min_length=2, max_length=40)]
    end: Annotated[str, msgspec.Meta(max_length=40)] = ""
    byte_order: Literal["little", "big"]
    fields: Annotated[dict[str, str], msgspec.Meta(min_length=1, max_length=1000)]
    fields_at: Offset | None = None
    frame_bytes: Annotated[int, msgspec.Meta(ge=2, le=65_536)] | None = None
    length_at: Offset | None = None
    length_type: Literal["u8", "u16"] = "u8"
    length_adds: Annotated[int, msgspec.Meta(ge=-256, le=65_535)] = 0
    max_frame_bytes: Annotated[int, msgspec.Meta(ge=2, le=65_536)] = 1024
    checksum: ChecksumName
    checksum_at: Annotated[int, msgspec.Meta(ge=-256, le=65_535)] | None = None
    checksum_from: Offset = 0
    checksum_byte_order: Literal["little", "big"] | None = None
    timestamp: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    channel: Annotated[tuple[BinaryChannel, ...], msgspec.Meta(min_length=1)]


AnyTextSettings = DelimitedSettings | KeyValueSettings | RegexSettings
LinesSettings = DelimitedSettings | KeyValueSettings | RegexSettings | BinarySettings
"""One `[[source.lines]]`; `format` says which."""


def request_bytes(settings: PortSettings) -> bytes:
    """What is sent for each answer; empty where the device speaks by itself.

    Raises:
      ValueError: `request_hex` is not hexadecimal, or `request` has characters beyond Latin-1.
    """
    if settings.request_hex:
        return bytes.fromhex(settings.request_hex)
    return settings.request.encode("latin-1")

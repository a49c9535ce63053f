"""Settings of `[[source.replay]]`, and what is wrong with them beyond their types."""

import importlib.util
from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Literal

import msgspec

from agent.sensors.source import ChannelSettings
from agent.signals.time_text import UNITS, read_zone
from wire.settings import Settings

FileFormat = Literal["csv", "parquet", "npz"]
FORMATS: dict[str, FileFormat] = {
    ".csv": "csv",
    ".txt": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".npz": "npz",
}
PARQUET_MISSING = "reading Parquet needs pyarrow: pip install journeyman[parquet]"

Name = Annotated[str, msgspec.Meta(max_length=200)]
Code = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]


class ReplayChannelSettings(ChannelSettings, frozen=True, kw_only=True):
    """One `[[source.replay.channel]]`.

    Attributes:
      column: wide: the column, or the npz array; long: the text in the tag column.
      quality_column: wide only: the column with this channel's quality, if it has one of its own.
    """

    column: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    quality_column: Name = ""


class ReplaySettings(Settings, frozen=True, kw_only=True):
    """One `[[source.replay]]`.

    Attributes:
      file: path or glob, relative to the configuration file; several are read in order of name.
      format: `auto` goes by the extension.
      layout: `wide` has a column for each channel; `long` one row for each sample, as historians
        export them.
      delimiter, decimal, encoding, header, skip_lines: how the CSV is written.
      time_column: column with the source timestamp; empty with `interval_s`.
      time_format: `auto`, `iso8601`, `s`, `ms`, `us`, `ns` or a pattern with percent signs.
      time_zone: of times that do not say theirs.
      interval_s: seconds from row to row where no column holds the time.
      start: source timestamp of the first row, with `interval_s` and the original time.
      tag_column, value_column: of the long layout.
      quality_column: with the quality of all values of a row.
      quality_codes: whose codes they are: OPC UA StatusCodes, or OPC Classic's (192 is Good).
      quality: StatusCodes of words that the file uses, before all other rules.
      missing: cells without a value are Bad samples, or none at all.
      missing_text: what stands in a cell without a value.
      speed: 1 is the original time, 60 a minute in a second, 0 as fast as they are taken.
      repeat: how often; 0 for ever.
      time: `original` keeps the source timestamps, `now` shifts them so that the first is now.
      resume: after a restart, go on where it stopped.
      channel: what to take out of the file.
    """

    file: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    format: Literal["auto", "csv", "parquet", "npz"] = "auto"
    layout: Literal["wide", "long"] = "wide"
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    encoding: Literal["utf-8", "cp1252"] = "utf-8"
    header: bool = True
    skip_lines: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    time_column: Name = ""
    time_format: Annotated[str, msgspec.Meta(max_length=64)] = "auto"
    time_zone: Annotated[str, msgspec.Meta(max_length=64)] = "UTC"
    interval_s: Annotated[float, msgspec.Meta(ge=1e-6, le=86_400)] | None = None
    start: datetime | None = None
    tag_column: Name = "tag"
    value_column: Name = "value"
    quality_column: Name = ""
    quality_codes: Literal["opcua", "opcda"] = "opcua"
    quality: Annotated[dict[str, Code], msgspec.Meta(max_length=1000)] = msgspec.field(
        default_factory=dict
    )
    missing: Literal["bad", "skip"] = "bad"
    missing_text: Annotated[tuple[Name, ...], msgspec.Meta(max_length=100)] = (
        "",
        "NaN",
        "nan",
        "null",
        "NULL",
        "No Data",
    )
    speed: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1.0
    repeat: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1
    time: Literal["original", "now"] = "original"
    resume: bool = False
    channel: Annotated[
        tuple[ReplayChannelSettings, ...], msgspec.Meta(min_length=1, max_length=10_000)
    ]

    @property
    def is_long(self) -> bool:
        """One row for each sample."""
        return self.layout == "long"


def file_format(settings: ReplaySettings, name: str) -> FileFormat | None:
    """How a file is written; None when neither the settings nor its name say it."""
    if settings.format == "auto":
        return FORMATS.get(PurePath(name).suffix.lower())
    return settings.format


def problems(settings: ReplaySettings) -> Iterator[tuple[str, str]]:
    """Yield the key, relative to the table, and what is wrong with its value."""
    kind = file_format(settings, settings.file)
    if kind is None:
        known = ", ".join(FORMATS)
        yield "file", f"its extension is none of {known}; say format = 'csv', 'parquet' or 'npz'"
    if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
        yield "file", PARQUET_MISSING
    if settings.delimiter in ('"', "\n", "\r", settings.decimal):
        yield "delimiter", "must differ from the decimal sign, quotes and line ends"
    yield from _time_problems(settings)
    yield from _channel_problems(settings, kind)


def _time_problems(settings: ReplaySettings) -> Iterator[tuple[str, str]]:
    if bool(settings.time_column) == (settings.interval_s is not None):
        yield "time_column", "give either time_column or interval_s"
    if settings.is_long and settings.interval_s is not None:
        yield "interval_s", "rows of the long layout have a time_column, not an interval"
    if settings.interval_s is not None and settings.start is None and settings.time == "original":
        yield "start", "is required with interval_s, or say time = 'now'"
    if settings.start is not None and settings.interval_s is None:
        yield "start", "is only used with interval_s"
    if settings.time_format not in ("auto", "iso8601", *UNITS) and "%" not in settings.time_format:
        yield "time_format", f"must be auto, iso8601, {', '.join(UNITS)} or a pattern like %d.%m.%Y"
    try:
        read_zone(settings.time_zone)
    except ValueError as error:
        yield "time_zone", str(error)


def _channel_problems(settings: ReplaySettings, kind: str | None) -> Iterator[tuple[str, str]]:
    first: dict[str, int] = {}
    for at, channel in enumerate(settings.channel):
        where = f"channel[{at}]"
        if channel.shape and (kind == "csv" or settings.is_long):
            yield f"{where}.shape", "arrays come from wide Parquet and npz files only"
        if settings.is_long and channel.quality_column:
            yield f"{where}.quality_column", "the long layout has one quality_column for all"
        if settings.is_long and first.setdefault(channel.column, at) != at:
            other = first[channel.column]
            yield f"{where}.column", f"{channel.column!r} is channel[{other}]'s already"

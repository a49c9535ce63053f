"""Text lines: from the bytes of a line to the texts of its channels, and to numbers.

A line is refused as a whole when its checksum, its encoding or its form is wrong: it then says
nothing.  A line in order may hold a value that is no number; that one is Bad.

Pure.  Python's `float` takes more than instruments send (`1_000`, `nan`, digits of other scripts);
only ASCII digits, sign, point and exponent are numbers here.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from agent.sensors.lines.checksums import checksum
from agent.sensors.lines.patterns import compiled
from agent.sensors.lines.readings import LATEST_US, NO_TIME
from agent.sensors.lines.settings import (
    AnyTextSettings,
    DelimitedSettings,
    KeyValueSettings,
    RegexSettings,
    TextSettings,
    TimestampFormat,
)

EPOCH_UNIT_US = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = 60
Texts = Sequence[str | None]
"""Of the line's time, if it has one, and of every value; None where the line says nothing."""
ReadLine = Callable[[str], Texts]
"""Raises `RefusedError`."""


class RefusedError(Exception):
    """A line that is not of its form.

    Attributes:
      counter: what is counted.
    """

    def __init__(self, reason: str, counter: str = "refused_lines") -> None:
        super().__init__(reason)
        self.counter = counter


def read_line(settings: AnyTextSettings) -> ReadLine:
    """The function that takes a line of this format apart."""
    if isinstance(settings, DelimitedSettings):
        return _delimited(settings)
    if isinstance(settings, KeyValueSettings):
        return _key_values(settings)
    return _groups(settings)


def widths(settings: AnyTextSettings) -> list[int]:
    """How many texts each channel has in a line."""
    return [math.prod(channel.shape) for channel in settings.channel]


def _delimited(settings: DelimitedSettings) -> ReadLine:
    delimiter = None if settings.delimiter == " " else settings.delimiter
    columns = [] if settings.timestamp is None else [settings.timestamp]
    for channel, width in zip(settings.channel, widths(settings), strict=True):
        columns += range(channel.column, channel.column + width)
    expected, least = settings.columns, max(columns) + 1

    def read(line: str) -> Texts:
        texts = line.split(delimiter)
        if len(texts) < least or (expected and len(texts) != expected):
            wanted = expected or f"at least {least}"
            raise RefusedError(f"{len(texts)} columns instead of {wanted}")
        return [texts[column] for column in columns]

    return read


def _key_values(settings: KeyValueSettings) -> ReadLine:
    between = None if settings.pair_separator == " " else settings.pair_separator
    keys = [] if settings.timestamp is None else [settings.timestamp]
    keys += [channel.key for channel in settings.channel]
    separator = settings.key_separator

    def read(line: str) -> Texts:
        found: dict[str, str] = {}
        for pair in line.split(between):
            key, is_there, value = pair.partition(separator)
            key = key.strip()
            if not is_there:
                if key:
                    raise RefusedError(f"{key[:_SHOWN]!r} has no {separator!r}")
            elif key in found:
                raise RefusedError(f"key {key[:_SHOWN]!r} stands twice")
            else:
                found[key] = value
        return [found.get(key) for key in keys]

    return read


def _groups(settings: RegexSettings) -> ReadLine:
    pattern = compiled(settings.pattern, settings.max_line_bytes)
    names = [] if settings.timestamp is None else [settings.timestamp]
    names += [channel.group for channel in settings.channel]

    def read(line: str) -> Texts:
        match = pattern.fullmatch(line)
        if match is None:
            raise RefusedError("the pattern does not match")
        return [match[name] for name in names]

    return read


def strip_line(settings: TextSettings) -> Callable[[bytes], str]:
    """The function that checks a line's checksum and encoding and takes its wrapping off.

    It returns an empty text for lines to pass over, and raises `RefusedError`.
    """
    encoding = settings.encoding
    start, comment = settings.start.encode(encoding), settings.comment.encode(encoding)
    without_checksum = _checked(settings)
    let_pass = {ord("\t"): " "}
    if isinstance(settings, DelimitedSettings):
        let_pass |= dict.fromkeys(map(ord, settings.delimiter), " ")

    def strip(raw: bytes) -> str:
        content = raw.strip(b"\r\n")
        if not content.strip(b" \t") or (comment and content.lstrip(b" ").startswith(comment)):
            return ""
        if start:
            _, is_there, content = content.rpartition(start)
            if not is_there:
                raise RefusedError(f"no {settings.start!r} at its start")
        try:
            line = without_checksum(content).decode(encoding).strip(" ")
        except UnicodeDecodeError:
            raise RefusedError(f"it is not {encoding}") from None
        if not line.isprintable() and not line.translate(let_pass).isprintable():
            raise RefusedError("it holds control characters")
        return line

    return strip


def _checked(settings: TextSettings) -> Callable[[bytes], bytes]:
    """The function that takes the checksum off; it raises `RefusedError` if that is wrong."""
    algorithm = checksum(settings.checksum)
    if not algorithm.size:
        return lambda content: content
    separator = settings.checksum_separator.encode(settings.encoding)
    digits_format = b"%%0%dx" % (2 * algorithm.size)

    def check(content: bytes) -> bytes:
        covered, is_there, digits = content.rpartition(separator)
        if not is_there or digits.rstrip(b" \t").lower() != digits_format % algorithm.of(covered):
            raise RefusedError("its checksum is wrong", "bad_checksums")
        return covered

    return check


def number(text: str) -> float:
    """The number that a text is; NaN if it is none (`nan` and `inf` are not)."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    if "_" in text or not text.isascii() or not math.isfinite(value):
        return math.nan
    return value


def time_of(form: TimestampFormat, zone: str) -> Callable[[str], int]:
    """The function from a text to microseconds since 1970 UTC, or `NO_TIME`.

    ISO 8601 as `datetime.fromisoformat` takes it; without an offset it is in `zone`, and the first
    of the two in the hour that comes twice in autumn.
    """
    local = ZoneInfo(zone)

    def from_iso(text: str) -> int:
        try:
            moment = datetime.fromisoformat(text.strip())
            since = (moment if moment.tzinfo else moment.replace(tzinfo=local)) - _EPOCH
        except (ValueError, OverflowError):
            return NO_TIME
        return _believed(since.days * 86_400_000_000 + since.seconds * 10**6 + since.microseconds)

    def from_epoch(text: str) -> int:
        value = number(text)
        if math.isnan(value) or abs(value) > LATEST_US:
            return NO_TIME
        return _believed(round(value * EPOCH_UNIT_US[form]))

    return from_iso if form == "iso" else from_epoch


def _believed(time_us: int) -> int:
    return time_us if 0 <= time_us <= LATEST_US else NO_TIME

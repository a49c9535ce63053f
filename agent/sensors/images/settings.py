"""Settings of `[[source.images]]`, and what is wrong with them beyond their types."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Annotated, Literal

import msgspec

from agent.sensors.source import ChannelSettings
from agent.signals.time_text import UNITS, read_zone
from wire.settings import Settings

NETPBM_SUFFIXES = (".pgm", ".ppm", ".pnm")
PILLOW_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
SUFFIXES = (*NETPBM_SUFFIXES, *PILLOW_SUFFIXES)
PILLOW_MISSING = "reading PNG, JPEG and BMP needs Pillow: pip install journeyman[images]"

PathText = Annotated[str, msgspec.Meta(max_length=4096)]
Pixels = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0.01, le=86_400)]


class ImagesChannelSettings(ChannelSettings, frozen=True, kw_only=True):
    """One `[[source.images.channel]]`: every frame, cut and scaled to one shape.

    Attributes:
      crop: left, top, width and height of what is looked at, in pixels of the frame; empty for all.
    """

    crop: Annotated[tuple[Pixels, ...], msgspec.Meta(max_length=4)] = ()


class ImagesSettings(Settings, frozen=True, kw_only=True):
    """One `[[source.images]]`: a folder, or a command that prints frames.

    Attributes:
      folder: relative to the configuration file.
      glob: which of its files; `**/` looks into folders below.
      complete: `stable` takes a file when its size and time have not changed for `settle_s`;
        `renamed` at once, for writers that rename whole files into place.
      settle_s: seconds without a change after which a file counts as whole.
      poll_s: how often the folder is looked into, in seconds.
      existing: whether files that are there at the very first start are taken.
      after: what becomes of a file that was taken.
      move_to: folder, on the same file system.
      remember: how many files are remembered as taken.
      command: program and arguments, run without a shell in the configuration file's folder.
      frames: how the command prints them.
      frame_timeout_s: a command without a frame for so long is ended and started again.
      restart_max_s: longest wait before it is started again.
      queue: frames that wait; the oldest are dropped.
      time: where the source timestamp comes from; a `comment` is one of a netpbm header.
      time_pattern: regular expression with a group `time`, for the file name or comment.
      time_format, time_zone: how that time is written.
      max_pixels, max_bytes: of one frame; larger ones are Bad.
      channel: what is cut out of each frame.
    """

    folder: PathText = ""
    glob: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "*"
    complete: Literal["stable", "renamed"] = "stable"
    settle_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    poll_s: Annotated[float, msgspec.Meta(ge=0.01, le=60)] = 0.5
    existing: Literal["take", "skip"] = "take"
    after: Literal["leave", "delete", "move"] = "leave"
    move_to: PathText = ""
    remember: Annotated[int, msgspec.Meta(ge=100, le=200_000)] = 20_000
    command: Annotated[tuple[PathText, ...], msgspec.Meta(max_length=100)] = ()
    frames: Literal["netpbm", "mjpeg"] = "netpbm"
    frame_timeout_s: Seconds = 10.0
    restart_max_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 30.0
    queue: Annotated[int, msgspec.Meta(ge=1, le=100)] = 4
    time: Literal["mtime", "name", "comment", "arrival"] | None = None
    time_pattern: Annotated[str, msgspec.Meta(max_length=500)] = ""
    time_format: Annotated[str, msgspec.Meta(max_length=64)] = "auto"
    time_zone: Annotated[str, msgspec.Meta(max_length=64)] = "UTC"
    max_pixels: Annotated[int, msgspec.Meta(ge=1, le=150_000_000)] = 50_000_000
    max_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)] = 160 << 20
    channel: Annotated[tuple[ImagesChannelSettings, ...], msgspec.Meta(min_length=1, max_length=16)]


def problems(settings: ImagesSettings) -> Iterator[tuple[str, str]]:
    """Yield the key, relative to the table, and what is wrong with its value."""
    if bool(settings.folder) == bool(settings.command):
        yield "folder", "give either folder or command"
    yield from _move_problems(settings)
    suffix = PurePath(settings.glob).suffix.lower()
    if not set(suffix) & set("*?[]") and suffix and suffix not in SUFFIXES:
        yield "glob", f"only {', '.join(SUFFIXES)} are read"
    needs_pillow = suffix in PILLOW_SUFFIXES if settings.folder else settings.frames == "mjpeg"
    if needs_pillow and importlib.util.find_spec("PIL") is None:
        yield ("glob" if settings.folder else "frames"), PILLOW_MISSING
    yield from _time_problems(settings)
    for at, channel in enumerate(settings.channel):
        if len(channel.shape) != 3 or channel.shape[0] not in (1, 3):
            reason = "must be [1, height, width] for gray or [3, height, width] for color"
            yield f"channel[{at}].shape", reason
        if channel.crop and not (len(channel.crop) == 4 and channel.crop[2] and channel.crop[3]):
            yield f"channel[{at}].crop", "must be [left, top, width, height], not empty"


def _move_problems(settings: ImagesSettings) -> Iterator[tuple[str, str]]:
    if settings.after != "move":
        if settings.move_to:
            yield "move_to", "is only used with after = 'move'"
        return
    target, watched = PurePath(settings.move_to), PurePath(settings.folder)
    is_deep = "/" in settings.glob or "**" in settings.glob
    if not settings.move_to:
        yield "move_to", "is required with after = 'move'"
    elif target == watched or (is_deep and target.is_relative_to(watched)):
        yield "move_to", "lies in the watched folder, where its files would be taken again"


def _time_problems(settings: ImagesSettings) -> Iterator[tuple[str, str]]:
    if settings.command and settings.time in ("mtime", "name"):
        yield "time", "a command has no files; use 'arrival' or 'comment'"
    if settings.command and settings.time == "comment" and settings.frames != "netpbm":
        yield "time", "only netpbm frames have comments"
    if settings.time in ("name", "comment") and not settings.time_pattern:
        yield "time_pattern", "is required to find the time in a name or comment"
    if settings.time_pattern:
        try:
            if "time" not in re.compile(settings.time_pattern).groupindex:
                yield "time_pattern", r"needs a group such as (?P<time>\d+)"
        except re.error as error:
            yield "time_pattern", f"is not a regular expression: {error}"
    if settings.time_format not in ("auto", "iso8601", *UNITS) and "%" not in settings.time_format:
        yield "time_format", f"must be auto, iso8601, {', '.join(UNITS)} or a pattern like %Y%m%d"
    try:
        read_zone(settings.time_zone)
    except ValueError as error:
        yield "time_zone", str(error)

"""Where a replay stopped, so that a restarted agent goes on there.

Responsible for one small file for each replay, replaced whole; it belongs to settings that read
the same rows, so that other settings begin anew.  Written every few seconds: after a power cut the
rows of that time come once more, with the same source timestamps.
"""

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.sensors.replay.rows import START, Count, Point
from agent.sensors.replay.settings import ReplaySettings
from wire.errors import SettingsError
from wire.files import read_small, replace_file

HEAD_BYTES = 1024
_MAX_FILE_BYTES = 1 << 16
_Short = Annotated[str, msgspec.Meta(max_length=8192)]
_Stamp = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 62)]


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The next row to play.

    Attributes:
      turn: which repetition, from 0.
      file: its name, relative to the configuration file; empty before the first.
      head: SHA-256 of its first `head_bytes`, which tells another file of the same name.
      rows_before: rows of the files before it, in this turn.
      point: where in the file.
      shift_us: added to the source timestamps in this turn.
      first_us, last_us: source timestamps that this turn has had, shifted; -1 for none.
      step_us: time between the last two that differ.
    """

    turn: Count = 0
    file: _Short = ""
    head: _Short = ""
    head_bytes: Count = 0
    rows_before: Count = 0
    point: Point = START
    shift_us: Count = 0
    first_us: _Stamp = -1
    last_us: _Stamp = -1
    step_us: Count = 1


def after_rows(position: Position, row_us: NDArray[np.int64], point: Point) -> Position:
    """The position after rows with these source timestamps (-1 for none)."""
    stamps = np.unique(row_us[row_us >= 0])
    if not len(stamps):
        return msgspec.structs.replace(position, point=point)
    first, last = int(stamps[0]), int(stamps[-1])
    before = int(stamps[-2]) if len(stamps) > 1 else position.last_us
    return msgspec.structs.replace(
        position,
        point=point,
        first_us=first if position.first_us < 0 else min(first, position.first_us),
        last_us=max(last, position.last_us),
        step_us=last - before if 0 <= before < last else position.step_us,
    )


def next_turn(position: Position) -> Position:
    """The beginning of the next repetition, which follows the one before in time."""
    span_us = position.last_us - position.first_us + position.step_us
    return Position(
        turn=position.turn + 1, shift_us=position.shift_us + span_us, step_us=position.step_us
    )


def next_file(position: Position, file: str, path: Path) -> Position:
    """The beginning of a file."""
    head, head_bytes = file_head(path, HEAD_BYTES)
    return msgspec.structs.replace(
        position,
        file=file,
        head=head,
        head_bytes=head_bytes,
        rows_before=position.rows_before + position.point.row,
        point=START,
    )


def file_head(path: Path, head_bytes: int) -> tuple[str, int]:
    """SHA-256 of the beginning of a file, and of how many bytes; empty when it can not be read."""
    try:
        with path.open("rb") as file:
            head = file.read(head_bytes)
    except OSError:
        return "", 0
    return hashlib.sha256(head).hexdigest(), len(head)


def position_path(settings: ReplaySettings, state_dir: Path) -> Path:
    """The file of one replay; speed does not matter to where it is."""
    same = msgspec.structs.replace(settings, speed=1.0, resume=True)
    name = hashlib.sha256(msgspec.json.encode(same, order="sorted")).hexdigest()[:16]
    return state_dir / "sources" / "replay" / f"{name}.json"


def read_position(path: Path) -> Position:
    """Where to go on; the beginning when there is no file.

    Raises:
      SettingsError: the file can not be used.
    """
    if not path.exists():
        return Position()
    data = read_small(path, _MAX_FILE_BYTES, "where the replay stopped")
    try:
        return msgspec.json.decode(data, type=Position)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(str(path), None, None, f"begins anew: {error}") from None


def write_position(path: Path, position: Position) -> None:
    """Replace the file.

    Raises:
      SettingsError: it can not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(str(path), None, None, f"can not write: {error.strerror}") from None
    replace_file(path, msgspec.json.encode(position))

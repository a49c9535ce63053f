"""All rows of a replay in their order: repetition by repetition, file by file, batch by batch.

Responsible for going on with the next file after one that can not be read.  Blocks on disks: the
caller takes one step after the other in a thread.
"""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from agent.sensors.replay.csv_rows import csv_rows
from agent.sensors.replay.decode import RowDecoder
from agent.sensors.replay.npz_rows import npz_rows
from agent.sensors.replay.parquet_rows import parquet_rows
from agent.sensors.replay.part import Findings, Part
from agent.sensors.replay.position import Position, after_rows, file_head, next_file, next_turn
from agent.sensors.replay.rows import START, FileError, Point, Rows
from agent.sensors.replay.settings import ReplaySettings, file_format
from agent.signals.block import EMPTY, Block

MAX_FILES = 100_000
Reader = Callable[[Path, ReplaySettings, Sequence[str], Sequence[str], Point], Iterator[Rows]]
_READERS: dict[str, Reader] = {"csv": csv_rows, "parquet": parquet_rows, "npz": npz_rows}


@dataclass(frozen=True)
class Step:
    """Samples, and where the replay is before each of their rows.

    Attributes:
      part: the samples.
      before: the position before its first row.
    """

    part: Part
    before: Position

    def position(self, rows: int) -> Position:
        """Where the replay is after some rows of the part."""
        return after_rows(self.before, self.part.row_us[:rows], self.part.points[rows])


def find_files(pattern: str, folder: Path) -> list[tuple[str, Path]]:
    """Files of a path or glob by their name relative to `folder`, in order of name."""
    whole = folder / pattern
    found = [str(whole)]
    if not whole.is_file():
        found = [name for name in glob.glob(str(whole), recursive=True) if os.path.isfile(name)]  # noqa: PTH113, PTH207  paths of a pattern that may be absolute
    return sorted((os.path.relpath(name, folder), Path(name)) for name in found)[:MAX_FILES]


def steps(
    settings: ReplaySettings, files: Sequence[tuple[str, Path]], position: Position
) -> Iterator[Step]:
    """Yield everything from `position` on.

    Args:
      settings: that have no problems.
      files: their names and paths, sorted.
      position: where to begin.
    """
    decoder = RowDecoder(settings)
    while True:
        is_whole_turn, samples = not position.file, 0
        for name, path in files:
            if name < position.file:
                continue
            if name != position.file:
                position = next_file(position, name, path)
            elif file_head(path, position.head_bytes)[0] != position.head:
                position = next_file(msgspec.structs.replace(position, point=START), name, path)
                yield _found(position, "changed_files", name, "changed; read from its beginning")
            for step in _file_steps(decoder, settings, path, position):
                yield step
                position = step.position(len(step.part.row_us))
                samples += step.part.block.samples
        is_barren = position.last_us < 0 or (is_whole_turn and not samples)
        if is_barren or position.turn + 1 == settings.repeat:
            break
        position = next_turn(position)
    yield Step(_part(decoder.close(), position.point, Findings()), position)


def _file_steps(
    decoder: RowDecoder, settings: ReplaySettings, path: Path, position: Position
) -> Iterator[Step]:
    kind = file_format(settings, path.name)
    try:
        if kind is None:
            raise FileError(str(path), "its extension does not say its format")  # noqa: TRY301
        reader = _READERS[kind]
        for rows in reader(path, settings, decoder.needed, decoder.wanted, position.point):
            part = decoder.decode(rows, position.rows_before, position.shift_us)
            step = Step(part, position)
            yield step
            position = step.position(len(rows))
    except FileError as error:
        decoder.lose_rest(str(error))
        yield _found(position, "bad_files", str(path), str(error))


def _found(position: Position, counter: str, subject: str, problem: str) -> Step:
    findings = Findings()
    findings.note(counter, subject, problem)
    return Step(_part(EMPTY, position.point, findings), position)


def _part(block: Block, point: Point, findings: Findings) -> Part:
    """A part of no rows."""
    none = np.empty(0, np.int64)
    return Part(none, block, none, (), tuple(0 for _ in block.gaps), (point,), findings)

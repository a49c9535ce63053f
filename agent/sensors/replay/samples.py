"""From the cells of a batch to samples: wide (a column for each channel) or long (a row for each).

Pure.  Invariant: a cell of a row that has a time becomes a sample, Good or Bad, or is left out
because the settings say so.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.sensors.replay.arrays import read_array
from agent.sensors.replay.cells import Column, NumberReader
from agent.sensors.replay.part import Findings
from agent.sensors.replay.quality import BAD, BAD_NO_DATA, Qualities
from agent.sensors.replay.rows import Rows, listed
from agent.sensors.replay.settings import ReplayChannelSettings, ReplaySettings
from agent.signals.block import ArraySample

Codes = NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Samples:
    """N numbers of one batch.

    Attributes:
      channel: int64 (N,).
      row: int64 (N,), index of the row that it comes from.
      value: float64 (N,).
      status: uint32 (N,).
    """

    channel: NDArray[np.int64]
    row: NDArray[np.int64]
    value: NDArray[np.float64]
    status: Codes


class SampleReader:
    """Reads the samples of batches; settings have no problems."""

    def __init__(self, settings: ReplaySettings) -> None:
        self._settings = settings
        self._numbers = NumberReader(frozenset(settings.missing_text), settings.decimal)
        self._qualities = Qualities(settings.quality_codes, settings.quality)
        self.channels = {channel.column: at for at, channel in enumerate(settings.channel)}
        """By tag, in the long layout."""

    def wide(
        self,
        rows: Rows,
        row_us: NDArray[np.int64],
        is_placed: NDArray[np.bool_],
        findings: Findings,
    ) -> tuple[Samples, list[tuple[int, ArraySample]]]:
        """Numbers of all columns, and the arrays with their rows; both in order of rows."""
        common = self._quality(rows, self._settings.quality_column, findings)
        found: list[Samples] = []
        arrays: list[tuple[int, ArraySample]] = []
        placed = np.flatnonzero(is_placed)
        for at, channel in enumerate(self._settings.channel):
            if _lacks(rows, channel, findings):
                continue
            quality = self._quality(rows, channel.quality_column, findings)
            quality = common if quality is None else quality
            if channel.shape:
                arrays += self._arrays(at, rows, row_us, quality, findings)
                continue
            numbers = self._numbers.read(rows.columns[channel.column], channel.states)
            for row, reason in numbers.damaged.items():
                _note_cell(rows, row, channel.column, channel.name, reason, findings)
            status, kept = self._judge(numbers.status, quality)
            here = placed[kept[placed]]
            numbered = np.full(len(here), at)
            found.append(Samples(numbered, here, numbers.value[here], status[here]))
        arrays = [each for each in arrays if is_placed[each[0]]]
        arrays.sort(key=lambda each: each[0])
        return _in_order(found), arrays

    def long(self, rows: Rows, is_placed: NDArray[np.bool_], findings: Findings) -> Samples:
        """Samples of a batch in which each row is one sample."""
        settings = self._settings
        tags = rows.columns[settings.tag_column]
        channel = np.array([self.channels.get(str(tag).strip(), -1) for tag in tags], np.int64)
        others = int((channel < 0).sum())
        if others:
            findings.counters["other_tags"] = others
        quality = self._quality(rows, settings.quality_column, findings)
        plain = [at for at, each in enumerate(settings.channel) if not each.states]
        groups = [plain, *([at] for at, each in enumerate(settings.channel) if each.states)]
        found: list[Samples] = []
        for group in groups:
            here = np.flatnonzero(is_placed & np.isin(channel, group))
            if not len(here):
                continue
            states = settings.channel[group[0]].states
            numbers = self._numbers.read(_cells(rows.columns[settings.value_column], here), states)
            for index, reason in numbers.damaged.items():
                row = int(here[index])
                name = settings.channel[channel[row]].name
                _note_cell(rows, row, settings.value_column, name, reason, findings)
            status, kept = self._judge(numbers.status, None if quality is None else quality[here])
            at = here[kept]
            found.append(Samples(channel[at], at, numbers.value[kept], status[kept]))
        return _in_order(found)

    def _quality(self, rows: Rows, name: str, findings: Findings) -> Codes | None:
        if not name:
            return None
        cells = rows.columns[name]
        status, unknown = self._qualities.read(cells)
        for row in unknown:
            reason = f"{str(cells[row])[:40]!r} is no known quality; name it under quality"
            findings.note("unknown_quality", name, f"{rows.where(row, name)}: {reason}")
        return status

    def _judge(self, status: Codes, quality: Codes | None) -> tuple[Codes, NDArray[np.bool_]]:
        """Statuses of cells with what the file says about them, and which cells are samples.

        A quality that is Bad says why a cell is empty, so it wins, and the sample stays.
        """
        judged = status
        if quality is not None:
            judged = np.where((quality >= BAD) | (status == 0), quality, status)
        if self._settings.missing == "skip":
            return judged, (status != BAD_NO_DATA) | (judged != BAD_NO_DATA)
        return judged, np.ones(len(status), np.bool_)

    def _arrays(
        self,
        at: int,
        rows: Rows,
        row_us: NDArray[np.int64],
        quality: Codes | None,
        findings: Findings,
    ) -> list[tuple[int, ArraySample]]:
        channel = self._settings.channel[at]
        samples: list[tuple[int, ArraySample]] = []
        for row, cell in enumerate(rows.columns[channel.column]):
            value, status, reason = read_array(cell, channel.shape)
            if reason:
                _note_cell(rows, row, channel.column, channel.name, reason, findings)
            row_quality = None if quality is None else quality[row : row + 1]
            judged, kept = self._judge(np.array([status], np.uint32), row_quality)
            if kept[0]:
                if judged[0] >= BAD or value is None:
                    value = np.full(channel.shape, np.nan, np.float32)
                samples.append((row, ArraySample(at, value, int(judged[0]), int(row_us[row]))))
        return samples


def _lacks(rows: Rows, channel: ReplayChannelSettings, findings: Findings) -> bool:
    """Whether the file has no column for a channel; the others are read all the same."""
    names = [name for name in (channel.column, channel.quality_column) if name]
    absent = [name for name in names if name not in rows.columns]
    if absent and len(rows):
        reason = f"no column {absent[0]!r}; the file has {listed(rows.header)}"
        findings.problems[channel.name] = f"{rows.where(0, absent[0])}: {reason}"
    return bool(absent)


def _note_cell(
    rows: Rows, row: int, column: str, name: str, reason: str, findings: Findings
) -> None:
    findings.note("damaged_cells", name, f"{rows.where(row, column)}: {reason}")


def _cells(cells: Column, rows: NDArray[np.int64]) -> Column:
    if isinstance(cells, np.ndarray):
        return cells[rows]
    return [cells[row] for row in rows.tolist()]


def _in_order(found: list[Samples]) -> Samples:
    """Samples of several columns in the order of their rows, then of their channels."""
    none = np.empty(0, np.int64)
    empty = Samples(none, none, np.empty(0), np.empty(0, np.uint32))
    channel = np.concatenate([each.channel for each in (*found, empty)])
    row = np.concatenate([each.row for each in (*found, empty)])
    value = np.concatenate([each.value for each in (*found, empty)])
    status = np.concatenate([each.status for each in (*found, empty)])
    order = np.argsort(row, kind="stable")
    return Samples(channel[order], row[order], value[order], status[order])

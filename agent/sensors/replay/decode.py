"""From rows of a file to a block of samples, each with its time, and with gaps for what is lost.

Pure but for what it remembers between the batches of one run: the last sample of each channel, for
the gaps that damaged rows leave.  Invariant: a row is decoded, or marked as a gap of its channels.
"""

import numpy as np
from numpy.typing import NDArray

from agent.sensors.replay.cells import read_times
from agent.sensors.replay.losses import Loss, Losses, Series
from agent.sensors.replay.part import Findings, Part
from agent.sensors.replay.rows import Rows
from agent.sensors.replay.samples import SampleReader, Samples
from agent.sensors.replay.settings import ReplaySettings
from agent.signals.block import ArraySample, Block, block_of
from agent.signals.time_text import instant_us, read_zone, time_reader


class RowDecoder:
    """Decodes the batches of one run in their order; settings have no problems."""

    def __init__(self, settings: ReplaySettings) -> None:
        self._settings = settings
        zone = read_zone(settings.time_zone)
        self._start_us = 0 if settings.start is None else instant_us(settings.start, zone)
        self._time = time_reader(settings.time_format, zone)
        self._samples = SampleReader(settings)
        self._losses = Losses(len(settings.channel))

    @property
    def needed(self) -> list[str]:
        """Columns without which no row makes sense."""
        settings = self._settings
        long = [settings.tag_column, settings.value_column] if settings.is_long else []
        return [name for name in (settings.time_column, *long, settings.quality_column) if name]

    @property
    def wanted(self) -> list[str]:
        """Columns of single channels."""
        channels = () if self._settings.is_long else self._settings.channel
        names = [name for each in channels for name in (each.column, each.quality_column)]
        return [name for name in names if name]

    def decode(self, rows: Rows, rows_before: int, shift_us: int) -> Part:
        """Samples of a batch.

        Args:
          rows: the batch.
          rows_before: how many rows the files before this one had, in this pass.
          shift_us: added to every source timestamp.
        """
        findings = Findings()
        row_us, is_placed = self._times(rows, rows_before, findings)
        row_us = np.where(is_placed, row_us + shift_us, -1)
        losses = self._row_losses(rows, is_placed, findings)
        arrays: list[tuple[int, ArraySample]] = []
        if self._settings.is_long:
            samples = self._samples.long(rows, is_placed, findings)
        else:
            samples, arrays = self._samples.wide(rows, row_us, is_placed, findings)
        return self._part(rows, row_us, samples, arrays, losses, findings)

    def lose_rest(self, reason: str) -> None:
        """The rest of a file can not be read: nobody knows how many samples it had."""
        self._losses.note(Loss(0, reason, None, is_counted=False))

    def close(self) -> Block:
        """The gaps at the end of the run, which no sample ends."""
        return block_of((), (), (), (), gaps=tuple(self._losses.close()))

    def _times(
        self, rows: Rows, rows_before: int, findings: Findings
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Source timestamp of each row without shift, and which rows have one."""
        settings = self._settings
        is_placed = np.ones(len(rows), np.bool_)
        if settings.interval_s is not None:
            number = np.array([point.row for point in rows.points], np.float64) + rows_before
            step_us = settings.interval_s * 1e6
            return self._start_us + np.rint(number * step_us).astype(np.int64), is_placed
        name = settings.time_column
        row_us, damaged = read_times(rows.columns[name], settings.time_format, self._time)
        for row, reason in damaged.items():
            is_placed[row] = False
            findings.note("damaged_rows", name, f"{rows.where(row, name)}: {reason}")
        return row_us, is_placed

    def _row_losses(
        self, rows: Rows, is_placed: NDArray[np.bool_], findings: Findings
    ) -> list[Loss]:
        """Rows that could not be read or placed, in order."""
        is_long = self._settings.is_long
        losses = [Loss(each.before, each.reason, None, not is_long) for each in rows.damage]
        for damage in rows.damage:
            findings.note("damaged_rows", "rows", damage.reason)
        tags = rows.columns[self._settings.tag_column] if is_long else ()
        for row in np.flatnonzero(~is_placed).tolist():
            reason = f"{rows.where(row, self._settings.time_column)}: a row without a time"
            channel = self._samples.channels.get(str(tags[row]).strip()) if is_long else None
            if not is_long or channel is not None:
                losses.append(Loss(row, reason, channel))
        return sorted(losses, key=lambda loss: loss.before)

    def _part(
        self,
        rows: Rows,
        row_us: NDArray[np.int64],
        samples: Samples,
        arrays: list[tuple[int, ArraySample]],
        losses: list[Loss],
        findings: Findings,
    ) -> Part:
        stamps = row_us[samples.row]
        series = Series(samples.channel, samples.row, stamps)
        if arrays:
            series = _with_arrays(series, arrays)
        gaps = self._losses.gaps(series, losses, len(rows))
        block = block_of(
            samples.channel,
            samples.value,
            samples.status,
            stamps,
            arrays=tuple(sample for _, sample in arrays),
            gaps=tuple(gap for _, gap in gaps),
            is_replayed=self._settings.time == "original",
        )
        return Part(
            row_us,
            block,
            samples.row,
            tuple(row for row, _ in arrays),
            tuple(row for row, _ in gaps),
            (*rows.points, rows.end),
            findings,
        )


def _with_arrays(series: Series, arrays: list[tuple[int, ArraySample]]) -> Series:
    channel = np.append(series.channel, [sample.channel for _, sample in arrays])
    row = np.append(series.row, [row for row, _ in arrays])
    stamps = np.append(
        series.source_timestamp_us, [sample.source_timestamp_us for _, sample in arrays]
    )
    order = np.argsort(row, kind="stable")
    return Series(channel[order], row[order], stamps[order])

"""Labels that come later than their rows join them by source time."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from agent.history import History
from agent.labels import OPERATOR, LabelChannel, Labels, LabelsTable
from agent.signals.label_file import LabelRecord
from agent.signals.rows import Rows, rows_of

CHANNELS = ["torque", "pump_failed", "defect"]
SECOND = 1_000_000


def labels_at(folder: Path, **label: object) -> Labels:
    channel = LabelChannel(name="defect", **label)  # type: ignore[arg-type]
    return Labels(folder / "labels.db", LabelsTable(channel=(channel,)), CHANNELS, folder)


def rows(first_s: int, last_s: int, failing: tuple[int, ...] = ()) -> Rows:
    seconds = range(first_s, last_s)
    values = [(float(at), float(at in failing), math.nan) for at in seconds]
    return rows_of(values, [at * SECOND for at in seconds])


def said(labels: Labels, found: Rows) -> list[float | None]:
    labels.relabel(found)
    return [None if math.isnan(value) else value for value in found.values[:, 2].tolist()]


def record(first_s: float, last_s: float, value: float) -> LabelRecord:
    return LabelRecord("defect", round(first_s * SECOND), round(last_s * SECOND), value)


def test_a_label_reaches_the_rows_of_its_time_span_and_no_other(tmp_path: Path) -> None:
    labels = labels_at(tmp_path)
    labels.add(record(2, 3, 1.0), OPERATOR)
    assert said(labels, rows(0, 5)) == [None, None, 1.0, 1.0, None]


def test_rows_that_were_kept_long_before_are_labelled_when_they_are_read(tmp_path: Path) -> None:
    labels = labels_at(tmp_path)
    history = History(tmp_path / "history.db", CHANNELS, 100, 0.0, relabel=labels.relabel)
    history.append(rows(0, 4))
    assert np.isnan(history.read(held_out=False).values[:, 2]).all()
    number = labels.add(record(1, 1, 3.0), OPERATOR)
    assert history.read(held_out=False).values[1, 2] == 3.0
    assert labels.remove(number)
    assert np.isnan(history.read(held_out=False).values[:, 2]).all()


def test_the_later_word_counts_and_can_take_a_label_away(tmp_path: Path) -> None:
    labels = labels_at(tmp_path)
    labels.add(record(0, 9, 0.0), OPERATOR)
    labels.add(record(1, 2, 1.0), OPERATOR)
    labels.add(record(2, 2, math.nan), OPERATOR)
    assert said(labels, rows(0, 4)) == [0.0, 1.0, None, 0.0]


def test_a_restart_finds_every_label(tmp_path: Path) -> None:
    first = labels_at(tmp_path)
    first.add(record(1, 2, 1.0), OPERATOR, "scratched")
    first.close()
    again = labels_at(tmp_path)
    kept = again.newest(10)
    assert [(each.record, each.origin, each.note) for each in kept] == [
        (record(1, 2, 1.0), OPERATOR, "scratched")
    ]
    assert said(again, rows(0, 3)) == [None, 1.0, 1.0]


def test_what_came_within_the_horizon_before_an_event_is_labelled(tmp_path: Path) -> None:
    labels = labels_at(tmp_path, event="pump_failed", horizon_s=2)
    lived = rows(0, 10, failing=(5, 6))
    for start in range(0, 10, 3):  # in parts, as they come by
        labels.note_events(rows(start, min(start + 3, 10), failing=(5, 6)))
    assert said(labels, lived) == [None, None, None, 1.0, 1.0, 1.0, None, None, None, None]


def test_an_event_that_lasts_is_one_event(tmp_path: Path) -> None:
    labels = labels_at(tmp_path, event="pump_failed", horizon_s=1)
    for at in range(8):
        labels.note_events(rows(at, at + 1, failing=(2, 3, 4, 7)))
    assert [each.record.until_us // SECOND for each in labels.newest(10)] == [7, 2]


def test_rows_that_no_event_followed_get_the_other_label_once_the_horizon_is_past(
    tmp_path: Path,
) -> None:
    labels = labels_at(tmp_path, event="pump_failed", horizon_s=2, otherwise=0.0)
    lived = rows(0, 8, failing=(3,))
    labels.note_events(lived)
    assert said(labels, lived) == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, None, None]


def write(path: Path, *lines: str, mtime_s: int) -> None:
    path.write_text("\n".join(("channel,from,until,value", *lines)) + "\n")
    os.utime(path, (mtime_s, mtime_s))


def test_a_file_of_labels_is_taken_again_when_it_changes_and_replaces_its_own(
    tmp_path: Path,
) -> None:
    labels = labels_at(tmp_path, file="defects.csv", states={"scratch": 2.0})
    channel = labels._table.channel[0]  # noqa: SLF001  what `run` passes
    path = tmp_path / "defects.csv"
    labels.read_file(channel)
    labels.add(record(4, 4, 9.0), OPERATOR)
    write(path, "defect,1970-01-01T00:00:01Z,1970-01-01T00:00:02Z,scratch", mtime_s=1)
    labels.read_file(channel)
    labels.read_file(channel)
    assert said(labels, rows(0, 5)) == [None, 2.0, 2.0, None, 9.0]
    write(path, "defect,1970-01-01T00:00:03Z,,1", mtime_s=2)
    labels.read_file(channel)
    assert said(labels, rows(0, 5)) == [None, None, None, 1.0, 9.0]


def test_a_damaged_file_of_labels_is_named_and_leaves_the_labels_as_they_are(
    tmp_path: Path,
) -> None:
    labels = labels_at(tmp_path, file="defects.csv")
    channel = labels._table.channel[0]  # noqa: SLF001
    path = tmp_path / "defects.csv"
    write(path, "defect,1970-01-01T00:00:01Z,,1", mtime_s=1)
    labels.read_file(channel)
    write(path, "defect,yesterday,,1", mtime_s=2)
    labels.read_file(channel)
    assert f"{path}:2" in labels.problem
    assert said(labels, rows(0, 3)) == [None, 1.0, None]
    write(path, "defect,1970-01-01T00:00:02Z,,1", mtime_s=3)
    labels.read_file(channel)
    assert labels.problem == ""
    assert said(labels, rows(0, 3)) == [None, None, 1.0]


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_source_that_feeds_the_label_is_overruled_only_where_somebody_spoke(
    tmp_path: Path, value: float
) -> None:
    labels = labels_at(tmp_path)
    labels.add(record(1, 1, value), OPERATOR)
    found = rows(0, 3)
    found.values[:, 2] = 5.0
    assert said(labels, found) == [5.0, value, 5.0]

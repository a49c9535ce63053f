"""Replay of CSV files: wide and long, and what is wrong with lines and cells."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sensors.replay import csv_rows as csv_rows_module
from agent.sensors.replay.csv_rows import csv_rows
from agent.sensors.replay.rows import START, FileError
from tests.agent.replaying import T0, channels, replayed, settings_of

NO_DATA, NOT_DECODED = 0x809B0000, 0x80070000


def written(folder: Path, text: str, name: str = "history.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_a_wide_table_gives_each_cell_with_the_time_of_its_row(tmp_path: Path) -> None:
    written(tmp_path, "time,a,b\n2023-11-14T22:13:20Z,1,2\n2023-11-14T22:13:20.5Z,3,4e1\n")
    got = replayed(
        tmp_path,
        settings_of(file="history.csv", time_column="time", channel=channels("b", "a")),
    )
    assert got.rows() == [(0, 2, 0, 0), (1, 1, 0, 0), (0, 40, 0, 500_000), (1, 3, 0, 500_000)]
    assert got.report.state == "finished"
    assert got.report.problems == {}
    assert all(block.is_replayed for block in got.blocks)


def test_a_long_table_gives_the_samples_of_its_tags_with_their_quality(tmp_path: Path) -> None:
    written(
        tmp_path,
        "tag,time,value,quality\n"
        "A1,1700000000,5,Good\n"
        "X9,1700000000,7,Good\n"
        "B1,1700000001,RUN,GOOD\n"
        "A1,1700000002,6,BadSensorFailure\n"
        "B1,1700000003,STOP,Uncertain\n"
        "A1,1700000004,,Bad\n"
        "B1,1700000005,BROKEN,Good\n",
    )
    table = [
        {"name": "A", "column": "A1"},
        {"name": "B", "column": "B1", "states": {"RUN": 1.0, "STOP": 0.0}},
    ]
    got = replayed(
        tmp_path,
        settings_of(
            file="history.csv",
            layout="long",
            time_column="time",
            quality_column="quality",
            missing="skip",
            channel=table,
        ),
    )
    rows = got.rows()
    assert [(c, s) for c, _, s, _ in rows] == [
        (0, 0),
        (1, 0),
        (0, 0x80000000),
        (1, 0x40000000),
        (0, 0x80000000),
        (1, NOT_DECODED),
    ]
    assert [us // 1_000_000 for *_, us in rows] == [0, 1, 2, 3, 4, 5]
    assert [v for _, v, s, _ in rows if not s >> 31] == [5, 1, 0]
    assert all(math.isnan(v) for _, v, s, _ in rows if s >> 31)
    assert got.report.counters == {"other_tags": 1, "damaged_cells": 1}
    assert got.report.problems["B"].startswith(f"{tmp_path / 'history.csv'}:8:3 (value): 'BROKEN'")


@pytest.mark.parametrize(("codes", "expected"), [("opcua", [0, 192, 64]), ("opcda", [2, 0, 1])])
def test_quality_codes_of_opc_ua_and_of_opc_classic_differ(
    tmp_path: Path, codes: str, expected: list[int]
) -> None:
    written(tmp_path, "time,a,q\n1700000000,1,0\n1700000001,1,192\n1700000002,1,64\n")
    got = replayed(
        tmp_path,
        settings_of(
            file="history.csv",
            time_column="time",
            quality_column="q",
            quality_codes=codes,
            channel=channels("a"),
        ),
    )
    statuses = [status for _, _, status, _ in got.rows()]
    assert statuses == (expected if codes == "opcua" else [code << 30 for code in expected])


def test_each_channel_may_have_a_quality_column_and_words_of_its_own(tmp_path: Path) -> None:
    written(
        tmp_path,
        "time,a,aq,b\n1700000000,1,stale,1\n1700000001,2,0x80310000,2\n1700000002,3,what,3\n",
    )
    table = [{"name": "A", "column": "a", "quality_column": "aq"}, *channels("b")]
    got = replayed(
        tmp_path,
        settings_of(
            file="history.csv",
            time_column="time",
            quality={"Stale": 0x40900000},
            channel=table,
        ),
    )
    assert [s for c, _, s, _ in got.rows() if c == 0] == [0x40900000, 0x80310000, NOT_DECODED]
    assert [s for c, _, s, _ in got.rows() if c == 1] == [0, 0, 0]
    assert "history.csv:4:3 (aq): 'what' is no known quality" in got.report.problems["aq"]


def test_missing_cells_are_bad_samples_or_none(tmp_path: Path) -> None:
    written(tmp_path, "time,a,b\n1700000000,,1\n1700000001,No Data,2\n1700000002,5,NaN\n")
    keys = {"file": "history.csv", "time_column": "time", "channel": channels("a", "b")}
    bad = replayed(tmp_path, settings_of(**keys))
    assert [s for c, _, s, _ in bad.rows() if c == 0] == [NO_DATA, NO_DATA, 0]
    assert len(bad.rows()) == 6
    skipped = replayed(tmp_path, settings_of(**keys, missing="skip"))
    assert [(c, v) for c, v, _, _ in skipped.rows()] == [(1, 1), (1, 2), (0, 5)]


def test_a_european_export_is_read(tmp_path: Path) -> None:
    path = tmp_path / "export.txt"
    path.write_bytes('Anlage 7\r\nZeit;Öl;\r\n14.11.2023 23:13:20,500;"1,5";\r\n'.encode("cp1252"))
    got = replayed(
        tmp_path,
        settings_of(
            file="export.txt",
            delimiter=";",
            decimal=",",
            encoding="cp1252",
            skip_lines=1,
            time_column="Zeit",
            time_format="%d.%m.%Y %H:%M:%S,%f",
            time_zone="Europe/Berlin",
            channel=channels("Öl"),
        ),
    )
    assert got.rows() == [(0, 1.5, 0, 500_000)]


def test_rows_without_times_have_an_interval_over_all_files(tmp_path: Path) -> None:
    written(tmp_path, "1,2\n3,4\n", "a.csv")
    written(tmp_path, "5,6\n", "b.csv")
    got = replayed(
        tmp_path,
        settings_of(
            file="?.csv",
            header=False,
            interval_s=0.25,
            start="2023-11-14T22:13:20Z",
            channel=channels("2"),
        ),
    )
    assert got.rows() == [(0, 2, 0, 0), (0, 4, 0, 250_000), (0, 6, 0, 500_000)]


def test_damaged_lines_are_named_counted_and_become_gaps(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "time,a,b\n"
        "1700000000,1,1\n"
        "1700000001,2\n"
        '1700000002,"3,3\n'
        "never,4,4\n"
        "1700000004,5,5\n"
        "1700000005,oops,6\n"
        "1700000006,7,7\n"
        "1700000007,8",
    )
    got = replayed(
        tmp_path,
        settings_of(file="history.csv", time_column="time", channel=channels("a", "b")),
    )
    assert got.values(1) == [1, 5, 6, 7]
    assert [s for c, _, s, _ in got.rows() if c == 0] == [0, 0, NOT_DECODED, 0]
    assert got.report.counters == {"damaged_rows": 4, "damaged_cells": 1}
    assert got.report.problems["A"] == f"{path}:7:2 (a): 'oops' is not a number"
    assert got.report.problems["time"].startswith(f"{path}:5:1 (time): 'never' is not a time")
    assert got.report.problems["rows"] == f"{path}:9: 2 cells, where the header has 3"
    assert [(g.channel, g.from_us - T0, g.until_us - T0, g.lost) for g in got.gaps] == [
        (0, 0, 4_000_000, 3),
        (1, 0, 4_000_000, 3),
        (0, 6_000_000, 6_000_000, 1),
        (1, 6_000_000, 6_000_000, 1),
    ]


def test_every_row_is_given_or_marked_lost(tmp_path: Path) -> None:
    lines = [f"{1_700_000_000 + at},{at}" for at in range(5000)]
    for at in range(0, 5000, 7):
        lines[at] = lines[at].split(",")[0]
    written(tmp_path, "time,a\n" + "\n".join(lines) + "\n")
    got = replayed(
        tmp_path, settings_of(file="history.csv", time_column="time", channel=channels("a"))
    )
    assert len(got.values()) + sum(gap.lost or 0 for gap in got.gaps) == 5000
    assert got.report.counters["damaged_rows"] == len(range(0, 5000, 7))


def test_a_missing_column_is_the_problem_of_its_channel_alone(tmp_path: Path) -> None:
    path = written(tmp_path, "time,a\n1700000000,1\n")
    got = replayed(
        tmp_path, settings_of(file="history.csv", time_column="time", channel=channels("b", "a"))
    )
    assert got.rows() == [(1, 1, 0, 0)]
    assert f"{path}:2:1 (b): no column 'b'; the file has time, a" == got.report.problems["B"]


def test_a_file_that_can_not_be_read_does_not_stop_the_next(tmp_path: Path) -> None:
    written(tmp_path, "time,a\n1700000000,1\n", "1.csv")
    bad = written(tmp_path, "when,a\n1700000000,1\n", "2.csv")
    (tmp_path / "3.csv").write_bytes("time,a\n".encode("utf-16"))
    written(tmp_path, "\ufefftime,a\n1700000005,1\n", "4.csv")
    got = replayed(tmp_path, settings_of(file="*.csv", time_column="time", channel=channels("a")))
    assert [us for *_, us in got.rows()] == [0, 5_000_000]
    assert got.report.counters == {"bad_files": 2}
    assert got.report.problems[str(bad)] == f"{bad}:1: no column 'time'; the file has when, a"
    assert "UTF-16" in got.report.problems[str(tmp_path / "3.csv")]
    assert [(g.until_us - g.from_us, g.lost) for g in got.gaps] == [(5_000_000, None)]


def test_a_column_that_stands_twice_is_refused_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, "time,a,a\n")
    some = settings_of(file="history.csv", time_column="time", channel=channels("a"))
    with pytest.raises(FileError, match=rf"{path}:1:3: a second column 'a'"):
        list(csv_rows(path, some, ["time"], ["a"], START))


def test_a_line_without_an_end_costs_one_row_and_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_rows_module, "MAX_LINE_BYTES", 100)
    long = "1700000001," + "9" * 1000
    path = written(tmp_path, f"time,a\n1700000000,1\n{long}\n1700000002,3\n")
    got = replayed(
        tmp_path, settings_of(file="history.csv", time_column="time", channel=channels("a"))
    )
    assert got.values() == [1, 3]
    assert got.report.problems["rows"].startswith(f"{path}:3: a line longer than")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_rows_or_an_error_that_names_its_place(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.csv"
    path.write_bytes(b"time,a\n" + data)
    some = settings_of(file="any.csv", time_column="time", channel=channels("a"))
    rows = list(csv_rows(path, some, ["time"], ["a"], START))
    assert rows[-1].end.offset == len(data) + 7
    lines = [line for line in data.split(b"\n") if line.strip()]
    assert sum(len(batch) + len(batch.damage) for batch in rows) == len(lines)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["1700000000,1", "x", "", '"1700000001","2"', "é,é,"]), max_size=30),
    st.data(),
)
def test_reading_goes_on_at_every_row_as_if_it_had_not_stopped(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("points") / "any.csv"
    path.write_bytes(("time,a\n" + "\n".join(lines)).encode())
    some = settings_of(file="any.csv", time_column="time", channel=channels("a"))
    (whole,) = csv_rows(path, some, ["time"], ["a"], START)
    at = data.draw(st.integers(0, len(whole)))
    (rest,) = csv_rows(path, some, ["time"], ["a"], whole.point(at))
    assert list(rest.columns["a"]) == list(whole.columns["a"])[at:]
    assert list(rest.points) == list(whole.points)[at:]
    assert rest.end == whole.end

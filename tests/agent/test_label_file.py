"""Files of labels: what is read, and what is refused with which place."""

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.signals import label_file
from agent.signals.label_file import LabelFileError, LabelRecord, parse_labels, read_label_file

T0 = 1_700_000_000_000_000
HEADER = "channel,from,until,value\n"


def test_spans_and_moments_with_numbers_and_classes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "﻿note,value,channel,from,until\n"
        '"a, b",Scratch,Defect,2023-11-14T22:13:20Z,2023-11-14T22:13:21Z\n'
        "\n"
        "x,2.5,Wear,1700000002.5,\n"
        "x,0,Defect,2023-11-14 23:13:23+01:00,1700000004\n",
        encoding="utf-8",
    )
    assert read_label_file(path, {"Defect": {"OK": 0.0, "Scratch": 3.0}}) == [
        LabelRecord("Defect", T0, T0 + 1_000_000, 3.0),
        LabelRecord("Wear", T0 + 2_500_000, T0 + 2_500_000, 2.5),
        LabelRecord("Defect", T0 + 3_000_000, T0 + 4_000_000, 0.0),
    ]


def test_times_without_a_zone_are_those_of_the_plant() -> None:
    (record,) = parse_labels(
        f"{HEADER}A,2023-11-14T23:13:20,,1\n".encode(), "f", None, ZoneInfo("Europe/Berlin")
    )
    assert record == LabelRecord("A", T0, T0, 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f:1: the header has no column 'channel'"),
        ("channel,from,value\n", "f:1: the header has no column 'until'"),
        ("channel,from,until,value,from\n", "f:1: the header has more than one column 'from'"),
        (HEADER + "A,1700000000,,x\n", "f:2:4: 'x' is not a number (channel 'A')"),
        (HEADER + "A,1700000000,,nan\n", "f:2:4: 'nan' is not a finite number"),
        (HEADER + "A,yesterday,,1\n", "f:2:2: 'yesterday' is not a time"),
        (HEADER + "\nA,1700000001,1700000000,1\n", "f:3:3: ends before it begins"),
        (HEADER + ",1700000000,,1\n", "f:2:1: no channel"),
        (HEADER + "A,1700000000\n", "f:2:2: 2 cells, where the header has 4"),
        (HEADER + 'A,1700000000,,"1\n', "f:2: not CSV"),
        (HEADER + "A" * 5000 + "\n", "f:2: longer than 4096 characters"),
    ],
)
def test_the_first_problem_refuses_the_file_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(LabelFileError) as caught:
        parse_labels(text.encode(), "f")
    assert str(caught.value).startswith(expected)


def test_a_class_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(LabelFileError, match=r"f:2:4: 'C' is not one of its classes \['A', 'B'\]"):
        parse_labels(f"{HEADER}X,1700000000,,C\n".encode(), "f", {"X": {"A": 0, "B": 1}})


def test_files_that_are_too_large_or_no_text_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LabelFileError, match="f:2: not UTF-8"):
        parse_labels(b"channel\n\xff\n", "f")
    with pytest.raises(LabelFileError, match="can not read: No such file"):
        read_label_file(tmp_path / "none.csv")
    monkeypatch.setattr(label_file, "MAX_RECORDS", 2)
    with pytest.raises(LabelFileError, match="f:4: more than 2 labels"):
        parse_labels((HEADER + "A,1700000000,,1\n" * 3).encode(), "f")
    monkeypatch.setattr(label_file, "MAX_FILE_BYTES", 10)
    with pytest.raises(LabelFileError, match="larger than 10 bytes"):
        parse_labels(HEADER.encode(), "f")


@given(st.binary(max_size=200))
def test_any_bytes_are_labels_or_an_error_with_a_place(data: bytes) -> None:
    records: list[LabelRecord] = []
    place = 2
    try:
        records = parse_labels(HEADER.encode() + data, "f")
    except LabelFileError as error:
        place = error.line or 0
    assert place >= 2
    assert all(record.from_us <= record.until_us for record in records)

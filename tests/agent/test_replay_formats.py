"""Replay of Parquet and npz files: numbers, times, arrays, damage."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sensors.replay import ReplaySettings, npz_rows, parquet_rows, problems
from agent.sensors.replay.rows import FileError, Point, Rows
from tests.agent.replaying import T0, channels, replayed, settings_of

STAMPS_US = T0 + np.arange(10) * 1000


def parquet(folder: Path, columns: dict[str, Any], rows: int = 3) -> Path:
    path = folder / "history.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def test_parquet_gives_numbers_states_and_missing_values(tmp_path: Path) -> None:
    parquet(
        tmp_path,
        {
            "time": pa.array(STAMPS_US[:4], pa.timestamp("us", tz="UTC")),
            "number": pa.array([1, None, 3, 4], pa.int16()),
            "state": pa.array(["RUN", "STOP", None, "GONE"]).dictionary_encode(),
            "flag": [True, False, None, True],
        },
    )
    table = [
        {"name": "N", "column": "number"},
        {"name": "S", "column": "state", "states": {"RUN": 1, "STOP": 0}},
        {"name": "F", "column": "flag"},
    ]
    got = replayed(tmp_path, settings_of(file="history.parquet", time_column="time", channel=table))
    by_channel = [[(v, s) for c, v, s, _ in got.rows() if c == at] for at in range(3)]
    none = (pytest.approx(np.nan, nan_ok=True), 0x809B0000)
    undecoded = (pytest.approx(np.nan, nan_ok=True), 0x80070000)
    assert by_channel[0] == [(1, 0), none, (3, 0), (4, 0)]
    assert by_channel[1] == [(1, 0), (0, 0), none, undecoded]
    assert by_channel[2] == [(1, 0), (0, 0), none, (1, 0)]
    assert f"{tmp_path / 'history.parquet'}:4:state: 'GONE'" in got.report.problems["S"]
    assert [us for c, _, _, us in got.rows() if c == 0] == [0, 1000, 2000, 3000]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_times_of_any_unit_are_exact(tmp_path: Path, unit: str) -> None:
    whole_s = np.array([1_700_000_000, 1_700_000_007])
    factor = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
    parquet(
        tmp_path,
        {"time": pa.array(whole_s * factor, pa.timestamp(unit)), "raw": whole_s * factor},
    )
    keys = {"file": "history.parquet", "channel": channels("raw")}
    stamped = replayed(tmp_path, settings_of(**keys, time_column="time"))
    assert stamped.times_s().tolist() == [0, 7]
    counted = replayed(tmp_path, settings_of(**keys, time_column="raw", time_format=unit))
    assert counted.times_s().tolist() == [0, 7]
    guessed = replayed(tmp_path, settings_of(**keys, time_column="raw"))
    assert guessed.times_s().tolist() == [0, 7]


def test_local_times_of_parquet_follow_the_zone(tmp_path: Path) -> None:
    local = pa.array([1_700_003_600_000_000], pa.timestamp("us"))
    parquet(tmp_path, {"time": local, "a": [1]})
    got = replayed(
        tmp_path,
        settings_of(
            file="history.parquet",
            time_column="time",
            time_zone="Europe/Berlin",
            channel=channels("a"),
        ),
    )
    assert got.times_s().tolist() == [0]


def test_lists_in_parquet_are_waveforms(tmp_path: Path) -> None:
    waves = [[1.0, 2.0], [3.0, 4.0, 5.0], None, [float("nan"), 1.0]]
    path = parquet(tmp_path, {"time": STAMPS_US[:4], "wave": waves})
    table = [{"name": "W", "column": "wave", "shape": [2]}]
    got = replayed(tmp_path, settings_of(file="history.parquet", time_column="time", channel=table))
    assert [each.status for each in got.arrays] == [0, 0x80740000, 0x809B0000, 0x80070000]
    assert got.arrays[0].value.tolist() == [1, 2]
    assert got.arrays[0].value.dtype == np.float32
    assert all(np.isnan(each.value).all() for each in got.arrays[1:])
    assert got.report.counters == {"damaged_cells": 2}
    assert got.report.problems["W"].startswith(f"{path}:4:wave: 1 of its numbers")


def test_parquet_is_read_by_row_group_and_goes_on_in_the_middle(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"time": STAMPS_US, "a": np.arange(10.0)})
    some = settings_of(file=path.name, time_column="time", channel=channels("a"))
    batches = list(parquet_rows.parquet_rows(path, some, ["time"], ["a"], Point()))
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    rest = parquet_rows.parquet_rows(path, some, ["time"], ["a"], Point(row=4))
    assert np.concatenate([batch.columns["a"] for batch in rest]).tolist() == list(range(4, 10))


_READ = """
import sys
from pathlib import Path
import pyarrow
from agent.sensors.replay.parquet_rows import parquet_rows
from agent.sensors.replay.rows import START
from tests.agent.replaying import channels, settings_of

some = settings_of(file="a.parquet", time_column="time", time_format="s", channel=channels("a"))
batches = parquet_rows(Path(sys.argv[1]), some, ["time"], ["a"], START)
print(sum(len(batch) for batch in batches), pyarrow.default_memory_pool().max_memory())
"""


def test_a_row_group_of_any_size_is_read_in_little_memory(tmp_path: Path) -> None:
    rows = 500_000
    path = tmp_path / "history.parquet"
    noise = np.random.default_rng(0).normal(size=rows)
    table = pa.table({"time": np.arange(rows), "a": noise})
    pq.write_table(table, path, row_group_size=rows, use_dictionary=False)
    read = subprocess.run(
        [sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True
    )
    count, largest_bytes = (int(word) for word in read.stdout.split())
    assert count == rows
    assert 0 < largest_bytes < path.stat().st_size / 2


def test_without_pyarrow_the_settings_and_the_source_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path, {"time": STAMPS_US, "a": np.arange(10.0)})
    some = settings_of(file=path.name, time_column="time", channel=channels("a"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FileError, match=r"pip install journeyman\[parquet\]"):
        list(parquet_rows.parquet_rows(path, some, ["time"], ["a"], Point()))
    assert [key for key, reason in problems(some) if "journeyman[parquet]" in reason] == ["file"]


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "history.npz"
    np.savez_compressed(path, **arrays)
    return path


def test_npz_gives_numbers_beside_images_in_order(tmp_path: Path) -> None:
    images = np.arange(10 * 6, dtype=np.uint8).reshape(10, 1, 2, 3)
    npz(
        tmp_path,
        t=STAMPS_US.astype("datetime64[us]"),
        image=images,
        torque=np.arange(10, dtype=">i2"),
        quality=np.array([b"Good"] * 9 + [b"Bad"]),
    )
    table = [
        {"name": "Image", "column": "image", "shape": [1, 2, 3]},
        {"name": "Torque", "column": "torque", "quality_column": "quality"},
    ]
    got = replayed(tmp_path, settings_of(file="history.npz", time_column="t", channel=table))
    assert got.values(1)[:9] == list(range(9))
    assert got.rows()[-1][2] == 0x80000000
    assert [each.source_timestamp_us for each in got.arrays] == STAMPS_US.tolist()
    assert np.array_equal(np.stack([each.value for each in got.arrays]), images)


def test_npz_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npz(tmp_path, t=np.arange(2500.0), a=np.arange(2500.0))
    some = settings_of(file=path.name, time_column="t", time_format="s", channel=channels("a"))
    whole = list(npz_rows.npz_rows(path, some, ["t"], ["a"], Point()))
    assert [len(batch) for batch in whole] == [1000, 1000, 500]
    rest = list(npz_rows.npz_rows(path, some, ["t"], ["a"], Point(row=1234)))
    assert np.concatenate([each.columns["a"] for each in rest]).tolist() == list(range(1234, 2500))
    monkeypatch.setattr(npz_rows, "MAX_BATCH_BYTES", 64)
    assert max(len(batch) for batch in npz_rows.npz_rows(path, some, ["t"], ["a"], Point())) == 4


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"a": np.array([{}, []], dtype=object)}, ":1:a: holds object"),
        ({"a": np.asfortranarray(np.ones((2, 3)))}, ":1:a: the array is in Fortran order"),
        ({"a": np.ones(3)}, ":1:a: 3 rows, but t has 2"),
        ({"a": np.float64(1)}, ":1:a: the array has no rows"),
        ({"a": np.empty((2, 0))}, ":1:a: a row of 0 bytes"),
    ],
)
def test_npz_arrays_that_are_no_rows_are_refused_by_name(
    tmp_path: Path, arrays: dict[str, Any], reason: str
) -> None:
    path = npz(tmp_path, t=np.arange(2.0), **arrays)
    some = settings_of(file=path.name, time_column="t", time_format="s", channel=channels("a"))
    with pytest.raises(FileError) as caught:
        list(npz_rows.npz_rows(path, some, ["t"], ["a"], Point()))
    assert str(caught.value).startswith(f"{path}{reason}")


@pytest.mark.parametrize("name", ["history.npz", "history.parquet"])
def test_a_half_written_file_is_the_problem_of_itself(tmp_path: Path, name: str) -> None:
    columns = {"time": STAMPS_US, "a": np.arange(10.0)}
    path = parquet(tmp_path, columns) if name.endswith("parquet") else npz(tmp_path, **columns)
    path.write_bytes(path.read_bytes()[:-60])
    (tmp_path / "z.csv").write_text("time,a\n1700000000,1\n")
    some = settings_of(file=name, time_column="time", channel=channels("a"))
    reader = parquet_rows.parquet_rows if name.endswith("parquet") else npz_rows.npz_rows
    with pytest.raises(FileError, match=name):
        list(reader(path, some, ["time"], ["a"], Point()))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_bytes_give_rows_or_a_file_error_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    is_npz = data.draw(st.booleans())
    columns = {"time": STAMPS_US, "a": np.arange(10.0), "b": np.array(["x"] * 10)}
    path = npz(folder, **columns) if is_npz else parquet(folder, columns)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    some = msgspec.convert(
        {"file": path.name, "time_column": "time", "channel": channels("a", "b")}, ReplaySettings
    )
    reader = npz_rows.npz_rows if is_npz else parquet_rows.parquet_rows
    rows: list[Rows] = []
    said = str(path)
    try:
        rows += reader(path, some, ["time"], ["a", "b"], Point())
    except FileError as error:
        said = str(error)
    assert said.startswith(str(path))
    assert sum(len(batch) for batch in rows) <= 1000

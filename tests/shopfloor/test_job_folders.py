"""A person's own rows: a folder with a file for each site."""

import csv
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from agent.history import is_held_out
from shopfloor import line, milling
from shopfloor.boards import DESIGNS
from shopfloor.boards import generate as patches
from shopfloor.engines import CHANNELS, WINDOW
from shopfloor.jobs.choice import rows_of, task_named
from shopfloor.jobs.folders import LEAST_ROWS, is_folder_of_sites, read_folder
from shopfloor.jobs.supply_chain import ODD
from shopfloor.jobs.task import TIME, DataError, SiteRows
from shopfloor.orders import generate as orders

MAINTENANCE = task_named("maintenance")
LIFE = task_named("life")
MACHINES = ("air_temperature", "process_temperature", "rotational_speed", "torque", "tool_wear")
ROWS = 120


def write(path: Path, header: list[str], cell: Callable[[int, str], object], rows: int) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([cell(row, name) for name in header] for row in range(rows))
    return path


def machine(path: Path, time: Callable[[int], object] | None = None, rows: int = ROWS) -> Path:
    """Rows of a machine whose torque counts them; every tenth fails; a customer's name beside."""

    def cell(row: int, name: str) -> object:
        if name == TIME and time is not None:
            return time(row)
        return {"machine_failure": int(row % 10 == 0), "customer": "Miller"}.get(name, row)

    header = [*MACHINES, "machine_failure", "customer", *([TIME] if time is not None else [])]
    return write(path, header, cell, rows)


def engines(path: Path, units: int, cycles: int) -> Path:
    """Engines that run side by side: a row of each in turn."""

    def cell(row: int, name: str) -> object:
        unit, cycle = row % units, row // units
        known = {"engine": f"serial {unit}", "rul": cycles - cycle, TIME: 3600 * cycle}
        return known.get(name, 1000 * unit + cycle)

    return write(path, [*CHANNELS, "rul", "engine", TIME], cell, units * cycles)


def test_the_last_rows_in_time_judge_and_other_columns_are_not_read(tmp_path: Path) -> None:
    machine(tmp_path / "North mill.csv", lambda row: 5000 - 10 * row)
    machine(tmp_path / "south.csv")
    (tmp_path / "notes.txt").write_text("no site")
    north, south = rows_of(MAINTENANCE, tmp_path, 0)
    assert [north.name, south.name] == ["North-mill", "south"]
    assert set(north.train) == {TIME, *MACHINES, "machine_failure"}
    assert len(north.test[TIME]) == ROWS / 4  # the share that a description without [split] has
    assert north.train["torque"].tolist() == list(range(119, 29, -1))
    assert north.test[TIME].tolist() == [5000.0 - 10 * row for row in range(29, -1, -1)]
    assert south.test["torque"].tolist() == list(range(90, 120))
    assert south.test[TIME][0] - south.train[TIME][-1] == 60.0


def test_times_may_be_words_and_equal_ones_are_a_microsecond_apart(tmp_path: Path) -> None:
    machine(tmp_path / "a.csv", lambda row: f"2026-03-01T06:{row // 4:02}:00+01:00")
    machine(tmp_path / "b.csv", lambda row: 1.75e9 + row // 50)
    a, b = read_folder(MAINTENANCE, tmp_path, 0)
    first = datetime(2026, 3, 1, 5, tzinfo=UTC).timestamp()
    assert a.train[TIME][[0, 4]].tolist() == [first, first + 60]
    assert np.rint(np.diff(a.train[TIME])[:3] * 1e6).tolist() == [1, 1, 1]
    assert a.train["torque"].tolist() == list(range(90))
    assert np.all(np.diff(np.rint(b.train[TIME] * 1e6)) >= 1)


@pytest.mark.parametrize("units", [2, 5, 12])
def test_whole_engines_judge_and_each_has_a_stretch_of_time_to_itself(
    tmp_path: Path, units: int
) -> None:
    for name in ("a", "b"):
        engines(tmp_path / f"{name}.csv", units, 60)
    for site in rows_of(LIFE, tmp_path, 1):
        sides = [{int(value) // 1000 for value in side["s2"]} for side in (site.train, site.test)]
        assert sides[0] | sides[1] == set(range(units))
        assert not sides[0] & sides[1]
        assert np.count_nonzero(np.diff(site.train["engine"])) == len(sides[0]) - 1
        stretch = site.train[TIME] // LIFE.holdout_stretch_s
        assert len(np.unique(stretch)) == len(sides[0])
        held_out = {at for at in stretch if is_held_out(int(at), LIFE.holdout_share)}
        assert len(held_out) == 1
        assert np.all(np.diff(site.train["s2"][:60]) == 1)


def test_orders_of_ones_own_are_made_odd_to_judge_a_detector(tmp_path: Path) -> None:
    for at in range(2):
        np.savez(tmp_path / f"plant-{at}.npz", **orders(at, 200, 0))  # type: ignore[arg-type]
    for site in rows_of(task_named("odd-orders"), tmp_path, 0):
        assert ODD not in site.train
        assert site.test[ODD].sum() == 5
    late = rows_of(task_named("supply-chain"), tmp_path, 0)
    assert {"late"} == set(late[0].train) - set(site.train)


def test_images_come_as_npz(tmp_path: Path) -> None:
    for design in DESIGNS[:2]:
        made = patches(design, LEAST_ROWS, 0)
        np.savez(tmp_path / f"{design.name}.npz", patch=made.patch, defect=made.defect)
    sites = rows_of(task_named("inspection"), tmp_path, 0)
    assert [site.train["patch"].shape for site in sites] == [(80, 2, 64, 64)] * 2
    assert all(len(site.test["defect"]) == 20 for site in sites)


def test_lines_of_ones_own_need_no_time(tmp_path: Path) -> None:
    for site in range(3):
        line.write_csv(line.generate(site, ROWS, 0), tmp_path / f"mill-{site}.csv")
    sites: list[SiteRows] = rows_of(task_named("process"), tmp_path, 0)
    assert [site.name for site in sites] == ["mill-0", "mill-1", "mill-2"]
    together = np.concatenate([sites[1].train["energy"], sites[1].test["energy"]])
    assert np.allclose(together, line.generate(1, ROWS, 0).energy, atol=0.0006)


def test_published_tables_are_no_sites_of_ones_own(tmp_path: Path) -> None:
    for name in ("first", "second"):
        milling.write_csv(milling.generate(50, 0), tmp_path / f"{name}.csv")
    assert not is_folder_of_sites(MAINTENANCE, tmp_path)
    assert not is_folder_of_sites(MAINTENANCE, tmp_path / "first.csv")
    with pytest.raises(DataError, match=r"your own rows: a folder with a CSV or npz file for each"):
        rows_of(MAINTENANCE, tmp_path, 0)


def test_files_that_can_not_be_used_are_refused_with_file_and_line(tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(DataError, match=words):
            rows_of(MAINTENANCE, tmp_path, 0)

    machine(tmp_path / "a.csv")
    refused("a folder with a CSV or npz file for each site")
    file = machine(tmp_path / "b.csv", rows=LEAST_ROWS - 1)
    refused(r"b\.csv: 99 rows; give 100 or more")
    text = machine(file).read_text()
    file.write_text(text.replace("17,17,17", "17,hot,17"))
    refused(r"b\.csv:19: column 'process_temperature': 'hot', not a number")
    file.write_text(text.replace("torque", "Torque"))
    refused(r"b\.csv: columns missing: torque .*every .csv and .npz file of the folder is a site")
    file.write_text(text.replace("17,0,Miller", "17,3,Miller"))
    refused(r"b\.csv: column 'machine_failure' holds 3, expected the number of a class, 0 to 1")
    machine(file, lambda row: 1.7e12 + row)
    refused(r"b\.csv: column 'time' goes from 1\.7e\+12 .*give seconds since 1970")
    machine(file).rename(tmp_path / "A.csv")
    refused("two sites have one name")


def test_engines_that_are_too_few_or_too_short_are_refused(tmp_path: Path) -> None:
    engines(tmp_path / "a.csv", 4, 60)
    engines(tmp_path / "b.csv", 1, 120)
    with pytest.raises(DataError, match=r"b\.csv: can not hold out whole groups: 1 group"):
        rows_of(LIFE, tmp_path, 0)
    engines(tmp_path / "b.csv", 6, WINDOW - 1)
    with pytest.raises(DataError, match=r"b\.csv: no group of rows is as long as a window"):
        rows_of(LIFE, tmp_path, 0)

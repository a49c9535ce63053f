"""The jobs `process` and `energy`: whose rows, of which columns, who judges, what is refused."""

import itertools
import tomllib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.authoring import build_draft, read_bundle_settings
from coordinator.config import ScheduleTable
from shopfloor import line, steel_meters
from shopfloor.jobs.process import ENERGY, PROCESS, ROWS, WEEK_ROWS
from shopfloor.jobs.task import TIME, DataError, SiteRows, Task
from wire.bundle import read_draft

JOBS = pytest.mark.parametrize("task", [PROCESS, ENERGY], ids=lambda task: task.name)
HEADER = (
    "date,Usage_kWh,Lagging_Current_Reactive.Power_kVarh,Leading_Current_Reactive_Power_kVarh,"
    "CO2(tCO2),Lagging_Current_Power_Factor,Leading_Current_Power_Factor,NSM,WeekStatus,"
    "Day_of_week,Load_Type"
)


def columns_of(task: Task) -> set[str]:
    manifest = read_draft(build_draft(task.description, read_bundle_settings(task.description)))[0]
    label = manifest.manifest.label
    assert label is not None
    return {TIME, label.channel, *(channel.name for channel in manifest.manifest.channels)}


def label_of(task: Task, site: SiteRows) -> NDArray[np.float64]:
    return site.train["energy" if task is PROCESS else "usage"]


@JOBS
def test_sites_have_the_bundles_columns_and_are_the_same_for_one_seed(task: Task) -> None:
    sites, again, other = task.generate(3), task.generate(3), task.generate(4)
    assert len(sites) >= 5
    for site, same, different in zip(sites, again, other, strict=True):
        assert set(site.train) == set(site.test) == columns_of(task)
        assert all(np.isfinite(values).all() for values in site.train.values())
        assert np.array_equal(label_of(task, site), label_of(task, same))
        assert not np.array_equal(label_of(task, site)[:50], label_of(task, different)[:50])


@JOBS
def test_sites_differ_by_more_than_their_means_can_by_chance(task: Task) -> None:
    labels = [label_of(task, site) for site in task.generate(0)]
    means = np.array([each.mean() for each in labels])
    errors = np.array([each.std() / np.sqrt(len(each)) for each in labels])
    assert np.ptp(means) > 10 * errors.max()


@JOBS
def test_a_fifth_of_the_rows_judges_and_shares_no_time_with_the_others(task: Task) -> None:
    for site in task.generate(1):
        train, test = site.train[TIME], site.test[TIME]
        assert not np.intersect1d(train, test).size
        assert 0.18 < len(test) / (len(train) + len(test)) < 0.22


def test_the_line_is_judged_by_whole_weeks_of_each_sites_own_regime() -> None:
    for number, site in enumerate(PROCESS.generate(0)):
        assert len(site.train[TIME]) + len(site.test[TIME]) == ROWS
        week = 8 * 3600 * WEEK_ROWS
        first = min(site.train[TIME][0], site.test[TIME][0])
        weeks = [set((side[TIME] - first) // week) for side in (site.train, site.test)]
        assert not weeks[0] & weeks[1]
        for name, (low, high) in zip(line.SETTINGS, line.REGIMES[number], strict=True):
            assert low <= site.test[name].min() <= site.test[name].max() <= high


def test_a_simulated_meter_obeys_the_power_triangle_to_its_rounding() -> None:
    for site in range(steel_meters.SITES):
        rows = steel_meters.generate(site, 0)
        for kind in ("lagging", "leading"):
            usage, reactive = rows["usage"], rows[f"{kind}_reactive"]
            expected = 100 * usage / np.hypot(usage, reactive)
            assert np.abs(rows[f"{kind}_power_factor"] - expected).max() < 0.35
        both = (rows["lagging_reactive"] > 0) & (rows["leading_reactive"] > 0)
        assert 0 <= both.mean() < 0.6
        assert rows["usage"].min() > 0
    with pytest.raises(ValueError, match="site must be 0 to 9, not 10"):
        steel_meters.generate(steel_meters.SITES, 0)


def test_a_line_has_no_published_file_so_a_folder_of_sites_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("energy\n1\n")
    for path in (file, tmp_path):
        with pytest.raises(DataError, match=r"for each site, of the columns in process\.toml"):
            PROCESS.read(path, 0)


def readings(months: tuple[int, ...], usage: str = "5.5") -> str:
    rows = [
        f"01/{month:02}/2018 00:{15 * quarter:02},{usage},2.5,0,0.01,91,100,{900 * quarter},"
        "Weekday,Monday,Light_Load"
        for month in months
        for quarter in range(10)
    ]
    return "\n".join([HEADER, *rows])


def test_months_of_the_published_table_are_sites_by_their_number(tmp_path: Path) -> None:
    (tmp_path / "Steel_industry_data.csv").write_text(readings((6, 2)), encoding="utf-8-sig")
    for path in (tmp_path, tmp_path / "Steel_industry_data.csv"):
        sites = ENERGY.read(path, 0)
        assert [site.name for site in sites] == ["month-02", "month-06"]
        assert [(len(site.train[TIME]), len(site.test[TIME])) for site in sites] == [(8, 2)] * 2
        assert set(sites[0].train) == columns_of(ENERGY)


def test_readings_of_another_form_are_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has neither Steel_industry_data\.csv nor"):
        ENERGY.read(tmp_path, 0)
    with pytest.raises(DataError, match=r"can not read.*give the table of UCI data set 851"):
        ENERGY.read(tmp_path / "none.csv", 0)
    file = tmp_path / "own.csv"
    file.write_text(readings((1,), usage="much"))
    with pytest.raises(DataError, match=r"own\.csv:2: column 'Usage_kWh': 'much'.*give the table"):
        ENERGY.read(file, 0)
    file.write_text("\n".join(readings((1,)).splitlines()[:3]))
    with pytest.raises(DataError, match="month-01: 2 rows"):
        ENERGY.read(file, 0)


@JOBS
def test_the_federations_rate_falls_until_its_last_version(task: Task) -> None:
    tables = tomllib.loads(task.federation.read_text())
    schedule, first = ScheduleTable(**tables["schedule"]), tables["policy"]["learning_rate"]
    rates = [schedule.rate(first, version) for version in range(schedule.versions + 1)]
    assert rates[0] == first
    assert rates[-1] == pytest.approx(schedule.last_learning_rate)
    assert all(after < before for before, after in itertools.pairwise(rates))

"""What a job's run is laid out as: the product's programs accept it, and no test row is in it."""

import csv
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.authoring import build_draft, read_bundle_settings
from agent.config import read_agent_settings
from coordinator.config import read_coordinator_settings, read_identity
from shopfloor.jobs.choice import NAMES, task_named
from shopfloor.jobs.moving import in_words, moved, moved_rows
from shopfloor.jobs.plant import LABELS, SITES, JobOptions, JobPlant, lay_out, write_agent
from shopfloor.jobs.task import TIME, Columns, DataError, SiteRows, Task
from wire.bundle import read_draft

NOON = 1.7e9


def columns(rows: int, seed: int) -> Columns:
    random = np.random.default_rng(seed)
    names = ("air_temperature", "process_temperature", "rotational_speed", "torque", "tool_wear")
    found = {name: random.normal(100.0, 5.0, rows) for name in names}
    found["machine_failure"] = (random.random(rows) < 0.3).astype(np.float64)
    return found | {TIME: NOON + 60.0 * np.arange(rows), "price": np.full(rows, 8675309.0)}


def sites(number: int = 3) -> list[SiteRows]:
    return [SiteRows(f"site-{at}", columns(40, at), columns(20, 100 + at)) for at in range(number)]


def small_sites() -> list[SiteRows]:
    """Three with two rows each, of no job's channels but the label that comes late."""
    rows: Columns = {TIME: np.arange(2.0), "rul": np.arange(2.0)}
    return [SiteRows(f"s{at}", rows, rows) for at in range(3)]


def task(**changes: object) -> Task:
    return replace(task_named("maintenance"), **changes)  # type: ignore[arg-type]


def plant_in(directory: Path, asked: Task, **options: object) -> JobPlant:
    return lay_out(directory, asked, sites(), JobOptions(**options))  # type: ignore[arg-type]


def test_the_programs_accept_what_is_laid_out(tmp_path: Path) -> None:
    plant = plant_in(tmp_path, task())
    settings = read_coordinator_settings(plant.coordinator_config)
    assert read_identity(plant.coordinator_config, settings).bundle.manifest == plant.manifest
    for site in plant.sites:
        agent = read_agent_settings(site.config)
        assert agent.broker.port == site.link_port
        assert not agent.personal.enabled
        write_agent(plant, site, is_choosing=True)
        again = read_agent_settings(site.config)
        assert again.personal.enabled
        assert again.personal.learning_rate == settings.policy.learning_rate


def test_every_jobs_own_tables_are_accepted_as_they_are_laid_out(tmp_path: Path) -> None:
    for name in NAMES:
        laid_out = lay_out(tmp_path / name, task_named(name), small_sites(), JobOptions())
        settings = read_coordinator_settings(laid_out.coordinator_config)
        assert settings.schedule.versions == laid_out.versions
        expected = tomllib.loads(task_named(name).federation.read_text())
        assert settings.policy.epochs == expected["policy"]["epochs"]


def test_rows_that_judge_are_in_no_file_and_unread_columns_in_no_configuration(
    tmp_path: Path,
) -> None:
    plant = plant_in(tmp_path, task())
    test_rows = {float(value) for site in plant.sites for value in site.rows.test["torque"]}
    for file in tmp_path.rglob("*.npz"):
        with np.load(file) as arrays:
            assert "price" in arrays  # it lies at the site
            assert test_rows.isdisjoint(arrays["torque"].tolist())
    for site in plant.sites:
        assert "price" not in site.config.read_text()


def test_late_labels_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    plant = plant_in(tmp_path, task(late_labels=True))
    with np.load(tmp_path / SITES / "site-0-1.npz") as arrays:
        assert "machine_failure" not in arrays
    with (tmp_path / LABELS / "site-0.csv").open() as file:
        rows = list(csv.DictReader(file))
    said = [(float(row["from"]), float(row["value"])) for row in rows]
    train = plant.sites[0].rows.train
    assert said == list(zip(train[TIME].tolist(), train["machine_failure"].tolist(), strict=True))
    assert {row["channel"] for row in rows} == {"machine_failure"}
    channels = read_agent_settings(plant.sites[0].config).labels.channel
    assert [channel.name for channel in channels] == ["machine_failure"]


def test_goal_quorum_and_versions_fit_the_sites_and_what_was_asked(tmp_path: Path) -> None:
    asked = task_named("inspection")  # wants updates of seven sites, which three never send
    plant = lay_out(tmp_path, asked, small_sites(), JobOptions(versions=3))
    tables = read_coordinator_settings(plant.coordinator_config)
    assert (plant.versions, tables.schedule.versions, tables.strategy.goal) == (3, 3, 3)
    few = plant_in(tmp_path / "few", task(), newcomer="site-2")
    settings = read_coordinator_settings(few.coordinator_config)
    assert settings.strategy.goal <= 2
    assert settings.gate.quorum <= 2
    assert [site.name for site in few.members] == ["site-0", "site-1"]


def test_moved_rows_come_later_and_differ_in_one_channel(tmp_path: Path) -> None:
    asked = task(moving="torque")
    plant = plant_in(tmp_path, asked)
    train = plant.sites[0].rows.train
    later = moved_rows(asked, plant.manifest, train)
    assert later[TIME][0] > train[TIME][-1]
    changed = [name for name in train if not np.array_equal(train[name], later[name])]
    assert sorted(changed) == sorted([TIME, "torque"])
    assert np.mean(later["torque"] - train["torque"]) == pytest.approx(2 * train["torque"].std())
    assert "torque" in in_words(asked, plant.manifest)


def test_moved_images_have_some_of_their_pixels_turned_over() -> None:
    asked = task_named("inspection")
    bundle = read_draft(build_draft(asked.description, read_bundle_settings(asked.description)))[0]
    patch = np.random.default_rng(0).integers(0, 2, (50, 2, 64, 64), np.uint8)
    changed = moved(asked, bundle.manifest, {"patch": patch, TIME: np.arange(50.0)})
    share = float(np.mean(changed["patch"] != patch))
    assert share == pytest.approx(0.2, abs=0.01)
    assert set(np.unique(changed["patch"])) == {0, 1}


@pytest.mark.parametrize("fault", ["length", "time", "order"])
def test_rows_without_one_length_or_growing_times_are_refused(fault: str) -> None:
    good = columns(10, 0)
    wrong = {
        "length": good | {"torque": np.zeros(9)},
        "time": {name: values for name, values in good.items() if name != TIME},
        "order": good | {TIME: good[TIME][::-1]},
    }[fault]
    with pytest.raises(DataError, match="site-9"):
        SiteRows("site-9", wrong, good)

"""Sites of milling machines and of engines: who has which rows, and files that are refused."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agent.authoring import read_bundle_settings
from agent.history import is_held_out
from shopfloor.engines import BEHAVIOR, CHANNELS, FIRST_WEAR, WINDOW, generate, health_after
from shopfloor.jobs.life import LIFE
from shopfloor.jobs.maintenance import MAINTENANCE
from shopfloor.jobs.task import TIME, Columns, DataError, SiteRows, Task
from shopfloor.milling import generate as milled
from shopfloor.milling import write_csv

ENGINES = 12
CYCLES = 33


def channels_and_label(task: Task) -> set[str]:
    described = read_bundle_settings(task.description)
    assert described.label is not None
    return {described.label.channel, *(channel.name for channel in described.channel)}


def engines_of(columns: Columns) -> list[int]:
    return [int(unit) for unit in np.unique(columns["engine"])]


def fleet_lines(engines: int, cycles: int, number: float = 0.0) -> list[str]:
    return [
        " ".join(map(str, [unit, cycle, *np.full(24, number + 100 * unit + cycle)]))
        for unit in range(1, engines + 1)
        for cycle in range(1, cycles + 1)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files in the form of NASA's: of FD001 plain, of FD003 packed and with other numbers."""
    for name, number in (("FD001", 0.0), ("FD003", 0.5)):
        files = {
            "train": fleet_lines(ENGINES, CYCLES, number),
            "test": fleet_lines(ENGINES, WINDOW, number),
            "RUL": [f"{10 * unit} " for unit in range(1, ENGINES + 1)],
        }
        for kind, lines in files.items():
            text = "\n".join(lines).encode() + b"\n"
            path = tmp_path / f"{kind}_{name}.txt"
            if name == "FD001":
                path.write_bytes(text)
            else:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text))
    return tmp_path


def test_each_milling_site_makes_one_quality_and_judges_by_other_rows() -> None:
    sites = MAINTENANCE.generate(3)
    assert [site.name for site in sites] == ["L", "M", "H"]
    moments = np.concatenate([side[TIME] for site in sites for side in (site.train, site.test)])
    assert len(np.unique(moments)) == len(moments) == 10_000
    assert sum(len(site.test[TIME]) for site in sites) == pytest.approx(2000, abs=3)
    for site in sites:
        for side in (site.train, site.test):
            assert 0.01 < side["machine_failure"].mean() < 0.06


@pytest.mark.parametrize("task", [MAINTENANCE, LIFE], ids=lambda task: task.name)
def test_a_site_has_what_the_bundle_names_and_nothing_that_is_known_afterwards(task: Task) -> None:
    extra = {TIME} if task is MAINTENANCE else {TIME, "engine", "cycle"}
    for site in task.generate(0):
        assert set(site.train) == set(site.test) == channels_and_label(task) | extra


def test_a_milling_table_is_refused_by_file_line_and_column_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    write_csv(milled(3000, 0), path)
    assert len(MAINTENANCE.read(path, 0)) == 3
    lines = path.read_text().splitlines()
    lines[7] = lines[7].replace(lines[7].split(",")[3], "warm", 1)
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"mine\.csv, line 8, column 'Air .*give the table of UCI"):
        MAINTENANCE.read(path, 0)


def test_a_quality_without_a_failure_is_no_site(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    table = milled(3000, 0)
    write_csv(table.take(~(table.machine_failure & (table.quality == "H"))), path)
    with pytest.raises(DataError, match=r"mine\.csv: site H: 0 failures .* give more rows"):
        MAINTENANCE.read(path, 0)


def test_ten_sites_share_the_published_engines_and_each_engine_is_at_one(folder: Path) -> None:
    sites = LIFE.read(folder, 0)
    assert len(sites) == 10
    for side in ("train", "test"):
        units = [unit for site in sites for unit in engines_of(getattr(site, side))]
        assert sorted(units) == list(range(1, ENGINES + 1))
    assert {len(engines_of(site.train)) for site in sites} == {1, 2}


def test_an_engine_is_learned_from_until_it_failed_and_judged_by_one_window(folder: Path) -> None:
    for site in LIFE.read(folder, 1):
        for unit in engines_of(site.train):
            mine = site.train["engine"] == unit
            assert site.train["rul"][mine].tolist() == list(range(CYCLES - 1, -1, -1))
            assert site.train["s2"][mine].tolist() == [100 * unit + at for at in range(1, 34)]
        for unit in engines_of(site.test):
            mine = site.test["engine"] == unit
            assert mine.sum() == WINDOW
            assert site.test["rul"][mine][-1] == 10 * unit


def test_another_data_set_is_chosen_by_its_training_file(folder: Path) -> None:
    first, third = LIFE.read(folder, 0), LIFE.read(folder / "train_FD003.txt.gz", 0)
    assert np.array_equal(third[0].train["s21"], first[0].train["s21"] + 0.5)


def held_out_engines(site: SiteRows) -> list[int]:
    """Engines of which the agent holds rows out, see `agent/history.py`; it has all their rows."""
    stretch = (site.train[TIME] // LIFE.holdout_stretch_s).astype(int).tolist()
    held = np.array([is_held_out(each, LIFE.holdout_share) for each in stretch])
    units = engines_of({"engine": site.train["engine"][held]})
    assert all(held[site.train["engine"] == unit].all() for unit in units)
    return units


def test_a_gateway_holds_out_one_whole_engine_of_ten() -> None:
    assert {len(held_out_engines(site)) for site in LIFE.generate(0)} == {1}


@pytest.mark.parametrize(
    ("name", "line", "becomes", "said"),
    [
        ("train_FD001.txt", 4, "1 5 0 0", r"train_FD001\.txt:5: 4 columns, 26 are expected"),
        ("test_FD001.txt", 0, "x" + " 1" * 25, r"test_FD001\.txt:1: column 1: 'x' is no finite"),
        ("train_FD001.txt", 2, "1 4" + " 0" * 24, r"txt:3: unit 1, cycle 4: .* cycle 3 is due"),
        ("RUL_FD001.txt", 11, "nan", r"RUL_FD001\.txt:12: column 1: 'nan' is no finite number"),
        ("RUL_FD001.txt", 11, "", r"RUL_FD001\.txt:12: 0 columns, 1 are expected"),
    ],
)
def test_a_line_of_another_form_is_named(
    folder: Path, name: str, line: int, becomes: str, said: str
) -> None:
    lines = (folder / name).read_text().splitlines()
    lines[line] = becomes
    (folder / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=said):
        LIFE.read(folder, 0)


def rewrite(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def test_files_that_do_not_fit_are_refused_with_what_to_do(folder: Path) -> None:
    with pytest.raises(DataError, match="not a training file; name the folder"):
        LIFE.read(folder / "RUL_FD001.txt", 0)
    (folder / "train_FD003.txt.gz").write_bytes(b"not packed")
    with pytest.raises(DataError, match="not a gzip file"):
        LIFE.read(folder / "train_FD003.txt.gz", 0)
    rewrite(folder / "RUL_FD001.txt", ["1"] * (ENGINES - 1))
    with pytest.raises(DataError, match=r"11 lines, but test_FD001\.txt has 12 engines"):
        LIFE.read(folder, 0)
    rewrite(folder / "RUL_FD001.txt", ["1"] * 9)
    rewrite(folder / "test_FD001.txt", fleet_lines(9, WINDOW))
    with pytest.raises(DataError, match=r"9 to judge by, .* 10 sites need 10 of both"):
        LIFE.read(folder, 0)
    (folder / "test_FD001.txt").unlink()
    with pytest.raises(DataError, match=r"has neither test_FD001\.txt nor test_FD001\.txt\.gz"):
        LIFE.read(folder, 0)


def test_engines_too_short_for_a_window_are_left_out(folder: Path) -> None:
    short = fleet_lines(ENGINES, WINDOW)[: -(WINDOW - 3)]
    rewrite(folder / "test_FD001.txt", short)
    judged = [unit for site in LIFE.read(folder, 0) for unit in engines_of(site.test)]
    assert sorted(judged) == list(range(1, ENGINES))


def test_health_stays_until_the_onset_and_falls_ever_faster_from_there() -> None:
    health = health_after(np.arange(200.0), 0.1, 60.0, 0.025)
    assert np.allclose(health[:61], 0.9)
    falls = -np.diff(health[60:])
    assert (np.diff(falls) > 0).all()
    assert falls[0] > 0


def test_simulated_engines_wear_out_from_the_new_to_the_worn_value() -> None:
    new, worn, noise = np.array(list(BEHAVIOR.values())).T
    for fleet in generate(hangars=4, engines=5, seed=7):
        for engine in fleet.training:
            wear = ((engine.sensors - new) / (worn - new)) @ (np.abs(worn - new) / noise)
            wear /= (np.abs(worn - new) / noise).sum()
            assert -0.1 < wear[:8].mean() < FIRST_WEAR[1] + 0.1
            assert 0.85 < wear[-4:].mean() < 1.1
            assert engine.life[-1] == 0
            assert np.ptp(engine.sensors, axis=0).min() > 0
    assert list(BEHAVIOR) == list(CHANNELS)


def test_one_seed_gives_one_fleet_and_no_engine_is_in_it_twice() -> None:
    first, again, other = (LIFE.generate(seed) for seed in (4, 4, 5))
    assert all(
        np.array_equal(one.train["s4"], same.train["s4"])
        for one, same in zip(first, again, strict=True)
    )
    assert not np.array_equal(first[0].train["s4"][:50], other[0].train["s4"][:50])
    units = [unit for site in first for unit in engines_of(site.train) + engines_of(site.test)]
    assert len(set(units)) == len(units)

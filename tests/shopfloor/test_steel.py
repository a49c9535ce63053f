"""The published readings of the steel plant: months as sites, and files that are none of them."""

import gzip
from pathlib import Path

import pytest

from agent.authoring import build_draft, read_bundle_settings
from agent.bundle.tables import read_table
from shopfloor.steel import SteelError, read_months, write_csv
from wire.bundle import read_draft

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "configs" / "jobs" / "steel_energy.toml"
REAL = ROOT.parent / "shared" / "data" / "steel_energy" / "Steel_industry_data.csv.gz"
HEADER = (
    "date,Usage_kWh,Lagging_Current_Reactive.Power_kVarh,Leading_Current_Reactive_Power_kVarh,"
    "CO2(tCO2),Lagging_Current_Power_Factor,Leading_Current_Power_Factor,NSM,WeekStatus,"
    "Day_of_week,Load_Type"
)
MADE_UP = (
    "03/02/2018 00:15,5.5,2.5,0.5,0.01,80,99,900,Weekend,Saturday,Light_Load",
    "15/01/2018 12:00,60.25,30,0,0.03,90,100,43200,Weekday,Monday,Maximum_Load",
    "15/01/2018 12:15,61,31,0,0.03,91,100,44100,Weekday,Monday,Medium_Load",
)


def readings(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([HEADER, *rows]), encoding="utf-8-sig")
    return path


def test_rows_are_read_month_by_month_under_the_jobs_names(tmp_path: Path) -> None:
    january, february = read_months(readings(tmp_path / "a.csv", *MADE_UP))
    assert january["usage"].tolist() == [60.25, 61.0]
    assert january["load_type"].tolist() == [2.0, 1.0]
    assert february["weekend"].tolist() == [1.0]
    assert not any("co2" in name.lower() for name in january)
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    assert read_months(packed)[0]["usage"].tolist() == [60.25, 61.0]


def test_a_written_month_has_every_channel_of_the_job(tmp_path: Path) -> None:
    write_csv(read_months(readings(tmp_path / "a.csv", *MADE_UP))[0], tmp_path / "01.csv")
    manifest = read_draft(build_draft(JOB, read_bundle_settings(JOB)))[0].manifest
    assert len(read_table(tmp_path / "01.csv", manifest)) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (MADE_UP[0].replace("5.5", "x"), "a.csv:2: column 'Usage_kWh': 'x' is no finite number"),
        (MADE_UP[0].replace("5.5", "nan"), "'nan' is no finite number"),
        (MADE_UP[0].replace("Light_Load", "Night"), "column 'Load_Type': 'Night' is none of"),
        (MADE_UP[0].replace("03/02/2018", "03/13/2018"), "column 'date'"),
        ("15/01/2018 12:00,2", "column 'Lagging_Current_Reactive.Power_kVarh': 'None' is no"),
    ],
)
def test_a_row_of_another_form_is_named(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(SteelError) as caught:
        read_months(readings(tmp_path / "a.csv", row))
    assert said in str(caught.value)
    assert "a.csv:2" in str(caught.value)


def test_a_file_that_is_none_of_these_readings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("date,other\n1,2\n")
    with pytest.raises(SteelError, match="columns missing: Usage_kWh"):
        read_months(tmp_path / "a.csv")
    (tmp_path / "a.csv.gz").write_bytes(b"no gzip at all")
    with pytest.raises(SteelError, match="not a gzip file"):
        read_months(tmp_path / "a.csv.gz")
    with pytest.raises(SteelError, match="no rows after the header"):
        read_months(readings(tmp_path / "a.csv"))


@pytest.mark.skipif(not REAL.exists(), reason="the published readings are not in ../shared/data")
def test_the_published_file_has_twelve_months_of_the_mean_that_the_job_assumes() -> None:
    months = read_months(REAL)
    assert len(months) == 12
    assert sum(len(month["usage"]) for month in months) == 35_040
    total = sum(month["usage"].sum() for month in months)
    assert total / 35_040 == pytest.approx(27.4, abs=0.05)

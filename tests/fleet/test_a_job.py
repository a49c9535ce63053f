"""One of the four jobs as a person runs it: real programs, failing links, a late joiner."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.own_model import OwnModelFile
from shopfloor.jobs.record import JobRecord
from shopfloor.milling import generate, write_csv

pytestmark = pytest.mark.timeout(480)
ROWS, VERSIONS = 3000, 6
WAYS = ("local", "federated", "personal", "pooled")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    write_csv(generate(ROWS, 3), folder / "machines.csv")
    words = ["--job", "maintenance", "--data", folder / "machines.csv", "--versions", VERSIONS]
    words += ["--newcomer", "H", "--seed", 1, "--out", folder / "out"]
    command = [sys.executable, "-m", "shopfloor.main", "demo", *(str(word) for word in words)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=420, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Report: " in run.stdout
    return folder / "out"


@pytest.fixture(scope="module")
def record(out: Path) -> JobRecord:
    return msgspec.json.decode((out / "report.json").read_bytes(), type=JobRecord)


def test_every_update_has_one_outcome_and_enough_versions_were_made(record: JobRecord) -> None:
    updates = record.updates
    assert updates.lost == 0
    assert updates.produced == updates.with_outcome > 0
    assert record.versions >= VERSIONS
    assert sum(site.produced for site in record.sites) == updates.produced


def test_all_four_ways_are_judged_on_the_same_rows(record: JobRecord) -> None:
    assert all(0 < getattr(record.overall, way) < 1 for way in WAYS)
    assert [site.name for site in record.sites] == ["L", "M", "H"]
    assert sum(site.rows + site.test_rows for site in record.sites) == ROWS
    assert record.course[-1].version == record.served
    best = max(point.quality or 0.0 for point in record.course)
    assert best > (record.course[0].quality or 0.0)  # it learned


def test_the_newcomer_trains_nothing_and_is_served(record: JobRecord) -> None:
    newcomer = next(site for site in record.sites if site.name == "H")
    assert newcomer.produced == 0
    assert record.newcomer is not None
    assert record.newcomer.site == "H"
    assert record.newcomer.rows == newcomer.rows + newcomer.test_rows


def test_each_member_serves_what_its_agent_keeps(out: Path, record: JobRecord) -> None:
    [run] = out.glob("run-*")
    for site in record.sites[:2]:
        kept = OwnModelFile(run / f"gateway-{site.name.lower()}").load()
        assert kept is None or kept.serving.reason == site.serves


def test_what_left_each_gateway_is_counted_and_no_category_is_rows(record: JobRecord) -> None:
    for site in record.sites:
        assert sum(site.sent_bytes.values()) > 0
        assert not [category for category in site.sent_bytes if "row" in category]
    sent = [site.sent_bytes.get("update: content", 0) for site in record.sites]
    assert min(sent[:2]) > 0
    assert sent[2] == 0  # the newcomer sent no update


def test_the_page_stands_alone_and_names_every_site(out: Path) -> None:
    page = (out / "report.html").read_text()
    assert "<script src" not in page
    assert "http" not in page.split("</head>")[0]
    assert all(f">{name}<" in page for name in ("L", "M", "H"))
    verdict = json.loads((out / "report.json").read_text())["verdict"]
    assert verdict["no_update_lost"] is True

"""What `make bench-jobs` says of runs that hold, and of those that do not."""

import json
from typing import Any

import msgspec
import pytest

from benchmarks.jobs.verdict import conclude
from shopfloor.jobs.record import Difference, JobRecord, Newcomer, Qualities
from tests.shopfloor.test_job_report import a_site, milling

NEWCOMER = Newcomer("L", 4800, 0.71, 0.715, Difference(-0.005, -0.02, 0.01), 0.79, None)


def said(records: list[JobRecord], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    status = conclude([("maintenance", record) for record in records], is_reduced=False)
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def changed(**others: object) -> JobRecord:
    return msgspec.structs.replace(milling(), **others)


def test_a_good_run_holds(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = said([milling(), changed(newcomer=NEWCOMER)], capsys)
    assert (status, found["holds"], found["lost"]) == (0, True, 0)
    # .7731 of .7744 pooled, of which two points are allowed.
    assert found["value"] == pytest.approx((0.02 - 0.0013) / 0.02, abs=1e-3)
    job = found["jobs"]["maintenance"]
    assert job["newcomers"] == {"L": -0.005}
    assert job["newcomers_than_members_at_home"] == {"L": -0.08}
    assert job["newcomers_than_as_member"] == {"L": 0.0}


@pytest.mark.parametrize(
    "record",
    [
        changed(overall=Qualities(0.66, 0.70, 0.71, 0.74)),
        changed(overall=Qualities(0.79, 0.77, 0.78, 0.79)),
        changed(sites=[a_site("L", Qualities(0.8, 0.7, 0.7, 0.8), Difference(-0.1, -0.2, -0.05))]),
        changed(newcomer=msgspec.structs.replace(NEWCOMER, quality=0.70)),
        changed(updates=msgspec.structs.replace(milling().updates, folded=59, lost=1)),
    ],
    ids=["far behind pooled", "behind alone", "a site worse off", "a poor newcomer", "lost"],
)
def test_what_does_not_hold_is_said(record: JobRecord, capsys: pytest.CaptureFixture[str]) -> None:
    records = [milling(), record] if record.newcomer is not None else [record]
    status, found = said(records, capsys)
    assert (status, found["holds"]) == (1, False)

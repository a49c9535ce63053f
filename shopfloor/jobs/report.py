"""The report of a job's run: `report.json` and a self-contained `report.html` beside it.

Responsible for the numbers as JSON and for writing both files.  Refuses figures that are not
finite, before anything is written.  Invariant: the same record gives the same bytes.

The parts: `report_verdict.py` (what the figures answer), `report_words.py` (sentences),
`report_page.py` and `report_sections.py` (HTML), `report_plots.py` (SVG; it alone needs matplotlib,
loaded when a page is drawn).
"""

import json
from pathlib import Path

import msgspec

from shopfloor.jobs.record import JobRecord
from shopfloor.jobs.report_page import job_report_html
from shopfloor.jobs.report_verdict import verdict_figures
from shopfloor.jobs.report_words import verdict

__all__ = ["verdict", "write_job_report"]


def write_job_report(record: JobRecord, directory: Path) -> None:
    """Write `report.json` and `report.html` into `directory`, which is made if it is missing.

    `report.json` is the record as it is, and `verdict`: what it answers, as booleans and figures,
    with their definitions.

    Raises:
      ValueError: a figure is not finite.
      OSError: the directory cannot be written.
    """
    found = {**msgspec.to_builtins(record), "verdict": verdict_figures(record)}
    numbers = json.dumps(found, indent=2, allow_nan=False)
    page = job_report_html(record)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(numbers + "\n", encoding="utf-8")
    (directory / "report.html").write_text(page, encoding="utf-8")

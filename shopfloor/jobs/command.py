"""`journeyman demo --job NAME`: one of the four jobs, on generated rows or a person's own."""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from agent.bundle.tables import TableError
from shopfloor.jobs.choice import rows_of, task_named
from shopfloor.jobs.outcome import record_of
from shopfloor.jobs.plant import JobOptions, lay_out
from shopfloor.jobs.report import verdict, write_job_report
from shopfloor.jobs.run import run_job
from shopfloor.jobs.task import DataError, SiteRows
from shopfloor.processes import ChildError


def job_demo(options: argparse.Namespace) -> int:
    """Run a job's demo; returns the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = options.out or Path(tempfile.mkdtemp(prefix="journeyman-demo-"))
    task = task_named(options.job)
    chosen = JobOptions(
        seed=options.seed,
        data=options.data,
        broker=options.broker,
        down_share=options.down_share,
        versions=options.versions,
        newcomer=options.newcomer,
        drift=not options.no_drift,
    )
    try:
        rows = rows_of(task, options.data, options.seed)
        check_newcomer(rows, chosen.newcomer)
        plant = lay_out(out / time.strftime("run-%Y%m%d-%H%M%S"), task, rows, chosen)
        print(f"{task.title}: {len(rows)} sites, {plant.versions} versions", flush=True)
        run = asyncio.run(run_job(plant, say))
        record = record_of(run)
        write_job_report(record, out)
    except (DataError, TableError, ChildError, OSError) as error:
        print(f"journeyman demo: {error}", file=sys.stderr)
        return 1
    print(verdict(record))
    print(f"Report: {out / 'report.html'}")
    return 0 if record.updates.lost == 0 else 1


def check_newcomer(rows: Sequence[SiteRows], name: str) -> None:
    """Refuse a newcomer that is no site.

    Raises:
      DataError: names the sites.
    """
    names = [site.name for site in rows]
    if name and name not in names:
        raise DataError(f"--newcomer {name}: the sites are {', '.join(names)}")


def say(line: str) -> None:
    """Print a line now."""
    print(line, flush=True)

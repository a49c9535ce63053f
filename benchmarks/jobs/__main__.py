"""The four jobs on real data, over the wire, with links that are down 30 % of the time.

Each job is run as a person would, `journeyman demo --job NAME --data PATH`: real agents, broker and
coordinator; then some with a site that joins when training is over.  Judged on rows that nobody
trained on, beside each site alone and all rows in one place, trained by the bundle's own recipe.

    python -m benchmarks.jobs                        all jobs, three seeds
    python -m benchmarks.jobs --jobs life --seeds 1
    python -m benchmarks.jobs --out DIR              go on with the runs that are in DIR already

The last line is JSON; `value` is the least margin of any job to its target, in parts of what the
target allows: 1 is as good as pooled, 0 just within, below 0 missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.central import DATA
from benchmarks.jobs.verdict import NEWCOMERS, TARGETS, conclude
from shopfloor.jobs.choice import NAMES, rows_of, task_named
from shopfloor.jobs.record import JobRecord

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "maintenance": "ai4i2020/ai4i2020.csv",
    "life": "cmapss",
    "inspection": "deeppcb",
    "energy": "steel_energy",
    "supply-chain": "supply_chain",
    "odd-orders": "supply_chain",
}
"""Where the public sets lie beneath the data folder; the other jobs are simulated."""
REDUCED_VERSIONS = 4


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      newcomer: site that joins late; "" for none.
    """

    job: str
    seed: int
    newcomer: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.job}-{self.seed}" + (f"-without-{self.newcomer}" if self.newcomer else "")


def main() -> int:
    """Run; 0 when every target holds; reduced: when every run ended well and lost nothing."""
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="journeyman-jobs-") as temporary:
        out = options.out or Path(temporary)
        runs = _runs(options)
        with ThreadPoolExecutor(2 if options.reduced else options.parallel) as pool:
            records = list(pool.map(lambda run: _record(run, options, out), runs))
    return conclude(
        [(run.job, record) for run, record in zip(runs, records, strict=True)],
        is_reduced=options.reduced,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__)
    parser.add_argument("--jobs", default=",".join(NAMES), help="some of them, by comma")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, with seeds from 0")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public sets")
    parser.add_argument("--out", type=Path, help="keep the runs here, and go on with what is there")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--no-newcomers", action="store_true", help="without the runs that a site joins late"
    )
    parser.add_argument(
        "--reduced", action="store_true", help="one seed, generated rows, few versions: no verdict"
    )
    return parser.parse_args()


def _runs(options: argparse.Namespace) -> list[Run]:
    jobs = options.jobs.split(",")
    unknown = set(jobs) - set(NAMES)
    if unknown:
        raise SystemExit(f"no job {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if options.reduced:
        return [Run(job, 0) for job in jobs] + [Run("maintenance", 0, "H")] * (
            "maintenance" in jobs
        )
    runs = [Run(job, seed) for job in jobs for seed in range(options.seeds)]
    if options.no_newcomers:
        return runs
    for job in jobs:
        if job in NEWCOMERS:
            sites = rows_of(task_named(job), _data(job, options), 0)
            runs += [Run(job, 0, site.name) for site in sites]
    return runs


def _data(job: str, options: argparse.Namespace) -> Path | None:
    folder = FOLDERS.get(job)
    if folder is None or options.reduced:
        return None
    path = Path(options.data / folder)
    if not path.exists():
        print(f"{job}: {path} is not here; generated rows instead (--data names the folder)")
        return None
    return path


def _record(run: Run, options: argparse.Namespace, out: Path) -> JobRecord:
    """Run it, or read what an earlier call left."""
    folder = out / run.name
    result = folder / "report.json"
    if not result.exists():
        _demo(run, options, folder)
    record = msgspec.json.decode(result.read_bytes(), type=JobRecord)
    print(f"{run.name}: {_in_a_line(record)}", flush=True)
    return record


def _demo(run: Run, options: argparse.Namespace, folder: Path) -> None:
    command = [sys.executable, "-m", "shopfloor.main", "demo", "--job", run.job]
    command += ["--seed", str(run.seed), "--out", str(folder)]
    data = _data(run.job, options)
    command += ["--data", str(data)] if data is not None else []
    command += ["--newcomer", run.newcomer] if run.newcomer else []
    command += ["--versions", str(REDUCED_VERSIONS)] if options.reduced else []
    command += ["--no-drift"] if run.newcomer or options.reduced else []
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "demo.log"
    with log.open("wb") as file:
        status = subprocess.run(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status != 0:
        raise SystemExit(f"{run.name} ended with status {status}:\n{log.read_text()[-2000:]}")


def _in_a_line(record: JobRecord) -> str:
    found = record.overall
    words = "  ".join(
        f"{way} {getattr(found, way):.4g}"
        for way in found.__struct_fields__
        if getattr(found, way) is not None
    )
    updates = record.updates
    words += (
        f"  links down {record.down_share:.0%}  updates {updates.produced}, lost {updates.lost}"
    )
    return f"{words}  {record.wall_s:.0f} s"


if __name__ == "__main__":
    print(f"targets: {json.dumps(TARGETS)}")
    sys.exit(main())

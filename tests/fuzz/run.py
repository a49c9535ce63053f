"""Coverage-guided fuzzing of everything that takes bytes from outside.

usage: python -m tests.fuzz.run [--cases N] [--seed S] [--target NAME]... [--keep FOLDER]

Each target runs in a process of its own: under libFuzzer (atheris) where that is installed, which
keeps a case when it reaches new code of wire, coordinator or agent; else with the same mutations
and no knowledge of coverage, and the output says so.  A case may take at most 10 s and the process
1 GiB.  Crashing cases are kept in FOLDER, one for each place in the code that raised.

The last line is JSON: {"name":"fuzz","value":cases,"unit":"cases","target":1000000,...}.  It holds
when no case crashed and no process grew by more than 64 MB after its first tenth.
"""

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

WANTED = 1_000_000
ROOT = Path(__file__).resolve().parents[2]
INSTRUMENTED, NOT_INSTRUMENTED = (
    ["wire", "coordinator", "agent", "tests.fuzz.decoders"],
    ["wire.deltas"],
)
"""atheris 3.0.0 keeps the result of every comparison that it traces for ever: nothing for
True and False, but a whole array where numpy arrays are compared, 2 kB for each delta decoded."""
FRESH, BLIND = 0.2, 0.15
"""How often a case begins at a seed again, and how often libFuzzer's own mutations are used."""
CASE_S, MEMORY_MB, GROWTH_MB = 10, 1024, 64
SHARES = {
    "topics": 0.06,
    "envelopes": 0.12,
    "messages": 0.17,
    "bundles": 0.05,
    "graphs": 0.08,
    "safetensors": 0.06,
    "renewals": 0.02,
    "integers": 0.02,
    "bitmaps": 0.02,
    "deltas": 0.06,
    "assemblies": 0.04,
    "sparse": 0.04,
    "standards": 0.03,
    "evaluations": 0.06,
    "novelty": 0.01,
    "stored": 0.04,
    "web": 0.02,
    "coordinator": 0.04,
    "agent": 0.04,
    "helper": 0.02,
}
"""Part of all cases that each target gets, so that the slow ones take about half of the time."""


@dataclass
class Tally:
    """What one target's process did.

    Attributes:
      crashes: place in the code -> what was raised there first.
      unfit: the first words that are unfit for a log.
      growth_mb: largest resident set after the first tenth, less the one at its end.
      edges, features: as libFuzzer counts them; 0 without it.
    """

    target: str
    cases: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    crashes: dict[str, str] = field(default_factory=dict)
    unfit: str = ""
    wall_s: float = 0.0
    growth_mb: float = 0.0
    edges: int = 0
    features: int = 0


class Runner:
    """Runs and counts the cases of one target, inside its process."""

    def __init__(self, target: "Target", tally: Tally, wanted: int, keep: Path) -> None:
        from tests.fuzz.targets import check  # noqa: PLC0415 - instrumented first

        self._check: Callable[[Target, bytes], Any] = check
        self._target, self._tally, self._wanted, self._keep = target, tally, wanted, keep
        self._began = time.monotonic()
        self._settled_mb = 0.0

    def case(self, data: bytes) -> None:
        """Run one case; what it raises is kept and counted, and the run goes on."""
        tally = self._tally
        try:
            found, words = self._check(self._target, data)
            outcome = found.value
            if words and not tally.unfit:
                tally.unfit = words
        except Exception as error:  # noqa: BLE001 - whatever comes is the finding
            outcome = "crashed"
            self._crashed(error, data)
        tally.outcomes[outcome] = tally.outcomes.get(outcome, 0) + 1
        tally.cases += 1
        if tally.cases % 256 == 0 or tally.cases == self._wanted:
            self._look()

    def _look(self) -> None:
        tally, now_mb = self._tally, resident_mb()
        if tally.cases <= self._wanted // 10 or not self._settled_mb:
            self._settled_mb = max(self._settled_mb, now_mb)
        tally.growth_mb = round(max(tally.growth_mb, now_mb - self._settled_mb), 1)
        tally.wall_s = round(time.monotonic() - self._began, 2)
        tally_file(self._keep, tally.target).write_text(json.dumps(asdict(tally)))

    def _crashed(self, error: Exception, data: bytes) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno} {type(error).__name__}"
        if place not in self._tally.crashes:
            name = f"{self._tally.target}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
            (self._keep / name).write_bytes(data)
            self._tally.crashes[place] = f"{error!s:.300} (kept as {name})"
            self._look()


def tally_file(keep: Path, target: str) -> Path:
    """Where a target's process writes its tally."""
    return keep / f"{target}.json"


def resident_mb() -> float:
    """Memory of this process, in MB of 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def has_atheris() -> bool:
    """Whether the coverage-guided fuzzer is installed."""
    return importlib.util.find_spec("atheris") is not None


def fuzz_guided(name: str, wanted: int, seed: int, keep: Path) -> None:
    """Run one target under libFuzzer; does not return, libFuzzer ends the process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED, exclude=NOT_INSTRUMENTED):
        module = importlib.import_module("tests.fuzz.targets")
        target = module.target(name)  # imports the program that only this target needs
    mutant = module.mutant
    runner = Runner(target, Tally(name), wanted, keep)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        dice = random.Random(number)
        if not data or dice.random() < FRESH:
            data = dice.choice(target.seeds)
        if dice.random() < BLIND:
            return bytes(atheris.Mutate(data, min(most, target.longest)))
        changed: bytes = mutant(target, data, dice)
        return changed[:most]

    corpus = keep / f"{name}-corpus"
    corpus.mkdir()
    for case in target.seeds:
        (corpus / hashlib.sha256(case).hexdigest()[:16]).write_bytes(case)
    seeds = importlib.import_module("tests.fuzz.seeds")
    words = keep / f"{name}.dict"
    words.write_text("".join(f'"{escaped(word)}"\n' for word in seeds.dictionary()))
    options = {
        "runs": wanted,
        "seed": seed,
        "max_len": target.longest,
        "dict": words,
        "timeout": CASE_S,
        "rss_limit_mb": MEMORY_MB,
        "print_final_stats": 1,
        "len_control": 0,
        "artifact_prefix": f"{keep}/{name}-",
    }
    arguments = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], runner.case, custom_mutator=mutate)
    atheris.Fuzz()


def fuzz_blindly(name: str, wanted: int, seed: int, keep: Path) -> None:
    """Run one target with mutations of its seeds and of a few mutants, by chance alone."""
    module = importlib.import_module("tests.fuzz.targets")
    target = module.target(name)
    runner = Runner(target, Tally(name), wanted, keep)
    dice, pool = random.Random(seed), list(target.seeds)
    for case in pool[:wanted]:
        runner.case(case)
    for _ in range(wanted - len(pool)):
        case = module.mutant(target, dice.choice(pool), dice)
        runner.case(case)
        if dice.random() < 0.02:
            place = dice.randrange(len(target.seeds), 2 * len(target.seeds) + 64)
            pool[place : place + 1] = [case]


def escaped(word: bytes) -> str:
    """A word as libFuzzer's dictionaries write it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


def fuzz_in_process(name: str, wanted: int, seed: int, keep: Path) -> Tally:
    """Run one target in a process of its own and return what it did."""
    command = [sys.executable, "-m", "tests.fuzz.run", "--inside", name, "--cases", str(wanted)]
    command += ["--seed", str(seed), "--keep", str(keep)]
    log = keep / f"{name}.log"
    with log.open("wb") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, check=False)
    said = log.read_text(errors="replace")
    tally = Tally(name)
    with contextlib.suppress(FileNotFoundError):
        tally = Tally(**json.loads(tally_file(keep, name).read_text()))
    found = re.findall(r"cov: (\d+) ft: (\d+)", said)
    if found:
        tally.edges, tally.features = (int(number) for number in found[-1])
    if done.returncode != 0 or tally.cases < wanted:
        tally.crashes[f"process ended with {done.returncode}"] = said[-2000:]
    return tally


def report(tally: Tally) -> str:
    """One line about a target."""
    outcomes = ", ".join(f"{number:,} {what}" for what, number in sorted(tally.outcomes.items()))
    line = (
        f"{tally.target:12} {tally.cases:8,} cases  {tally.cases / max(tally.wall_s, 1e-9):7,.0f}/s"
    )
    line += f"  {tally.edges:5,} edges {tally.features:6,} features  {tally.growth_mb:+6.1f} MB"
    return f"{line}  ({outcomes})"


def verdict(tallies: list[Tally]) -> dict[str, object]:
    """The last line's values."""
    cases = sum(tally.cases for tally in tallies)
    crashes = sum(len(tally.crashes) for tally in tallies)
    growth_mb = max((tally.growth_mb for tally in tallies), default=0.0)
    return {
        "name": "fuzz",
        "value": cases,
        "unit": "cases",
        "target": WANTED,
        "holds": cases >= WANTED and not crashes and growth_mb <= GROWTH_MB,
        "crashes": crashes,
        "growth_mb": growth_mb,
        "unfit_words": sum(
            number
            for tally in tallies
            for what, number in tally.outcomes.items()
            if "unfit" in what
        ),
        "guided": has_atheris(),
        "targets": {tally.target: tally.cases for tally in tallies},
    }


def run(names: list[str], cases: int, seed: int, keep: Path) -> int:
    """Fuzz these targets one after the other; print a line for each and the verdict."""
    if not has_atheris():
        print("atheris is not installed (it needs CPython 3.11 to 3.13): no coverage guidance")
    whole = sum(SHARES[name] for name in names)
    tallies = []
    for name in names:
        wanted = -(-int(cases * 1000 * SHARES[name] / whole) // 1000)
        tally = fuzz_in_process(name, wanted, seed, keep)
        tallies.append(tally)
        print(report(tally), flush=True)
        if tally.unfit:
            print(f"    unfit for a log: {tally.unfit:.300}", flush=True)
        for place, words in tally.crashes.items():
            print(f"    CRASH {place}: {words}", flush=True)
    found = verdict(tallies)
    print(json.dumps(found))
    return 1 if found["crashes"] else 0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--cases", type=int, default=WANTED)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", choices=sorted(SHARES))
    parser.add_argument("--keep", type=Path, help="folder for crashing cases, tallies and logs")
    parser.add_argument("--inside", choices=sorted(SHARES), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.inside:
        fuzz = fuzz_guided if has_atheris() else fuzz_blindly
        fuzz(chosen.inside, chosen.cases, chosen.seed, chosen.keep)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        keep = chosen.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        return run(chosen.target or list(SHARES), chosen.cases, chosen.seed, keep)


if __name__ == "__main__":
    sys.exit(main())

"""Do the defences keep what they promise?  Every attack without them and with them.

Rows are sought in gradients (`inversions.py`, `repeated.py`), canaries in what is published
(`memberships.py`), one site in sums by a coordinator that lies (`hostile.py`), has a helper on its
side (`colluding.py`) or just subtracts (`cohorts.py`), and what travels is changed
(`tampering.py`).  What attackers hold is made by the product's own code; attack and budget are the
same without and with a defence.

A line says what is claimed of it: `succeeds` where nothing defends, `fails` where something does,
and `open` for a limit that the documents state; an attack that succeeds nowhere would show nothing.

The last line is JSON; `value` is the largest share of a victim's rows, above what guessing gives,
that any attack found under any setting that claims to defend.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy reads it
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.attacks import (
    cohorts,
    colluding,
    hostile,
    inversions,
    memberships,
    repeated,
    tampering,
)
from benchmarks.attacks.verdicts import MOST, Finding


@dataclass(frozen=True)
class Sizes:
    """Victims of each setting, and trials with and without each canary."""

    inverted: int = 40
    optimised: int = 20
    averaged: int = 10
    trials: int = 3000
    silent_trials: int = 500
    scenes: int = 10


REDUCED = Sizes(inverted=6, optimised=1, averaged=1, trials=400, silent_trials=50, scenes=1)


def main() -> int:
    """Run; 0 when everything came as claimed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--reduced", action="store_true", help="few victims and trials")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # helpers say in words what they refuse
    found: list[Finding] = []
    for finding in findings(REDUCED if options.reduced else Sizes()):
        _print(finding, finding.attack if not found or found[-1].attack != finding.attack else "")
        found.append(finding)
    return _conclude(found, reduced=options.reduced)


def findings(sizes: Sizes) -> Iterator[Finding]:
    """Everything, in the order of the table."""
    for setting in inversions.settings():
        is_slow = setting.attack in inversions.BUDGETS
        yield inversions.found(setting, sizes.optimised if is_slow else sizes.inverted)
    yield from repeated.findings(sizes.averaged)
    yield from memberships.findings(sizes.trials, sizes.silent_trials)
    with TemporaryDirectory() as place:
        directory = Path(place)
        for lie, claim in hostile.ATTEMPTS:
            yield from hostile.finding(lie, claim, sizes.scenes, directory)
        for collusion, claim in colluding.ATTEMPTS:
            yield from colluding.finding(collusion, claim, sizes.scenes, directory)
        yield cohorts.finding(sizes.scenes, directory)
        for change, defence, claim in tampering.ATTEMPTS:
            yield from tampering.finding(change, defence, claim, directory)


def _print(finding: Finding, attack: str) -> None:
    if attack:
        print(f"\n{attack}")
    claim = "" if finding.expected == finding.outcome else f" ({finding.expected})"
    verdict = f"{finding.outcome}{claim}" if finding.holds else f"NOT AS CLAIMED{claim}"
    figures = f"{finding.figure:5.2f} beside {finding.beside:5.2f} {finding.unit}"
    print(f"    {finding.setting:46} {verdict:18} {figures:34} {finding.detail}", flush=True)


def _conclude(found: list[Finding], *, reduced: bool) -> int:
    defended = [each for each in found if each.expected == "fails"]
    shares = [each for each in defended if each.unit == "share of rows"]
    audits = [each for each in defended if each.unit == "epsilon"]
    judged = defended if reduced else found
    masked = [each for each in found if each.setting == inversions.MASKED]
    value = max(each.figure - each.beside for each in shares)
    result = {
        "name": "attacks",
        "value": round(value, 3),
        "unit": "share of a victim's rows above guessing, under any defence",
        "target": MOST,
        "holds": all(each.holds for each in judged),
        "defended": len(defended),
        "without_defence": sum(each.expected == "succeeds" for each in found),
        "not_as_claimed": [f"{each.attack}: {each.setting}" for each in found if not each.holds],
        "open": sorted({each.attack for each in found if each.expected == "open"}),
        "correlation_masked_and_random": [
            [round(each, 3) for each in one.correlation] for one in masked
        ],
        "epsilon_shown_of_claimed": round(max(each.figure / each.beside for each in audits), 3),
    }
    if reduced:
        print("\nreduced: what is defended, asserted; other figures are only printed")
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    raise SystemExit(main())

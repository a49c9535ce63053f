"""Epsilon by Google's dp-accounting: cases as JSON on stdin, answers as JSON on stdout.

Runs in an environment of its own (`tests/install.sh`); imports nothing of this project.  A case is
{"delta": d, "releases": [[noise, rate, count], ...]}; an answer is [by PLD, by RDP].
"""

import json
import sys
from typing import Any

import dp_accounting  # type: ignore[import-not-found]
from absl import logging  # type: ignore[import-not-found]
from dp_accounting.pld import PLDAccountant  # type: ignore[import-not-found]
from dp_accounting.rdp import RdpAccountant  # type: ignore[import-not-found]


def epsilon(accountant: Any, case: dict[str, Any]) -> float:
    """Epsilon of one case by one accountant."""
    for noise, rate, count in case["releases"]:
        event = dp_accounting.GaussianDpEvent(noise)
        if rate < 1:
            event = dp_accounting.PoissonSampledDpEvent(rate, event)
        accountant.compose(event, count)
    return float(accountant.get_epsilon(case["delta"]))


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    cases = json.load(sys.stdin)
    answers = [[epsilon(kind(), case) for kind in (PLDAccountant, RdpAccountant)] for case in cases]
    json.dump(answers, sys.stdout)

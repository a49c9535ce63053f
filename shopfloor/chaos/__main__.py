"""`python -m shopfloor.chaos --faults N --seed S`: break everything, lose nothing."""

import argparse
import asyncio
import logging
import shutil
import signal
import sqlite3
import sys
import tempfile
from pathlib import Path

from shopfloor.chaos.report import Outcome, explanation, last_line, table
from shopfloor.chaos.run import Options, run_chaos
from shopfloor.chaos.schedule import ALL_KINDS, kinds_of
from shopfloor.faults.shim import ShimError
from shopfloor.processes import ChildError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shopfloor.chaos",
        description="Runs agents, coordinator and broker as they are and breaks them by a seed. "
        "Ends with 0 when no update was lost, none counted twice, and the weights are bit-equal.",
    )
    parser.add_argument("--faults", type=_positive, default=1000, help="how many have to happen")
    parser.add_argument("--seed", type=int, default=1, help="chooses what happens when, to whom")
    parser.add_argument("--out", type=Path, help="a new or empty directory, kept after the run")
    parser.add_argument(
        "--kinds", type=_kinds, help=f"of {', '.join(ALL_KINDS)} (default: all that apply)"
    )
    parser.add_argument(
        "--secure",
        nargs="?",
        const="restored",
        default="",
        choices=("restored", "down"),
        help="masked updates and three helpers, killed as well; the last one's store is restored "
        "from an old copy in the midst (default), or it is down throughout",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    unknown = [kind for kind in kinds if kind not in ALL_KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(ALL_KINDS)}")
    return kinds


async def _run_until_told(options: Options) -> Outcome:
    """Run; SIGTERM stops it in order, as Ctrl-C does."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run_chaos(options)


def main() -> int:
    """Run the suite; returns 0 when the promise holds, 1 when not, 2 when it could not run."""
    parser = _parser()
    options = parser.parse_args()
    if options.out is not None and options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out {options.out} is not empty")
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    out = options.out or Path(tempfile.mkdtemp(prefix="journeyman-chaos-"))
    print(f"[chaos] {options.faults} faults by seed {options.seed}, in {out}", flush=True)
    outcome, status = None, 0
    chosen = Options(options.faults, options.seed, out, options.kinds, options.secure)
    missing = set(options.kinds or ()) - kinds_of(chosen.helpers).keys()
    if missing:
        parser.error(f"--kinds {', '.join(sorted(missing))}: no such helper here; see --secure")
    try:
        outcome = asyncio.run(_run_until_told(chosen))
    except* (ChildError, ShimError, OSError) as group:
        told = "; ".join(map(str, group.exceptions))
        print(f"the chaos suite could not run: {told}; see the logs in {out}", file=sys.stderr)
        status = 2
    except* sqlite3.DatabaseError as group:
        told = "; ".join(map(str, group.exceptions))
        print(f"BROKEN: a program left a file that can not be read: {told}; see {out}")
        status = 1
    except* (KeyboardInterrupt, asyncio.CancelledError):
        status = 130
    if outcome is None:
        return status
    print(table(outcome))
    if outcome.broken:
        print(explanation(outcome))
    elif options.out is None:
        shutil.rmtree(out)
    print(last_line(outcome), flush=True)
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""The clock: certificates and signatures are judged by it, and rows are labelled by it.

Judged against what is known: no clock is right that is before this program was written, or before
the newest file that this gateway wrote.
"""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from agent.doctor.finding import Finding, ok, problem, skipped, warning

_FIRST = datetime(2026, 1, 1, tzinfo=UTC)
"""This program is not older."""
_BACK = timedelta(minutes=5)
_ANSWER_S = 3.0

Synchronised = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class ClockFacts:
    """What is known about the clock.

    Attributes:
      now: what it says.
      newest: time of the newest file that was written here before; None: there is none.
      synchronised: what systemd says about NTP.
    """

    now: datetime
    newest: datetime | None
    synchronised: Synchronised


def judge_clock(facts: ClockFacts) -> Iterable[Finding]:
    """Whether the clock can be right, and whether something keeps it so."""
    shown = f"{facts.now:%Y-%m-%d %H:%M:%S} UTC"
    if facts.now < _FIRST:
        yield problem(
            "clock",
            f"{shown}: before this program was written",
            "set it (date -s), and enable NTP (timedatectl set-ntp true) or fit a clock battery",
        )
    elif facts.newest is not None and facts.now < facts.newest - _BACK:
        yield problem(
            "clock",
            f"{shown}, but files here were written at {facts.newest:%Y-%m-%d %H:%M} UTC",
            "the clock was set back: set it right before labels and certificates are judged by it",
        )
    else:
        yield ok("clock", f"{shown}, plausible")
    if facts.synchronised == "yes":
        yield ok("clock NTP", "synchronised")
    elif facts.synchronised == "no":
        yield warning(
            "clock NTP",
            "not synchronised",
            "timedatectl set-ntp true; where no time server can be reached, give the plant's own "
            "in /etc/systemd/timesyncd.conf",
        )
    else:
        yield skipped("clock NTP", "timedatectl does not say whether it is synchronised")


def read_clock(files: Iterable[Path]) -> ClockFacts:
    """Ask for the facts.

    Args:
      files: those that this gateway wrote.
    """
    newest: float | None = None
    for path in files:
        try:
            written = path.stat().st_mtime
        except OSError:
            continue
        newest = written if newest is None else max(newest, written)
    return ClockFacts(
        datetime.now(UTC),
        None if newest is None else datetime.fromtimestamp(newest, UTC),
        _synchronised(),
    )


def _synchronised() -> Synchronised:
    program = shutil.which("timedatectl")
    if program is None:
        return "unknown"
    try:
        done = subprocess.run(  # noqa: S603  a fixed command
            [program, "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    answer = done.stdout.strip()
    return "yes" if answer == "yes" else "no" if answer == "no" else "unknown"

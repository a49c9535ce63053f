"""What a run of the chaos suite says at its end: a table for people, a line for programs."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from shopfloor.chaos.judge import Verdict
from shopfloor.chaos.reckoning import Finding
from shopfloor.chaos.schedule import ALL_KINDS
from shopfloor.chaos.strikes import Tally
from wire.messages import TERMINAL

FAULT_LOG: Final = "faults.log"
LONGEST_SPACING_S: Final = 1.0
LONGEST_S: Final = 25 * 60.0
"""For a thousand faults or fewer; in proportion above."""
FOLDED_SHARE: Final = 0.3
"""Folded updates that a run needs for each fault: without traffic nothing can be lost."""
_SHOWN: Final = 20
_WHERE: Final = """\
  everything is in {0}:
  {1} (what was done and when), *.log (what the programs said), */outbox.db and
  coordinator/coordinator.db (who knew what), tape/ (what agents sent), witness/ (what the broker
  passed on)"""


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
      wanted: how many faults were asked for.
      secure: as in the run's options; empty: updates were plain.
      tallies: by kind of fault.
      starts: how often each program was started.
      fell: exit statuses of processes that nobody killed, by program.
      struck_s: seconds from the first moment to the last fault.
      open_at_end: what had not happened when the time to empty all outboxes was over; empty: all.
    """

    wanted: int
    seed: int
    directory: Path
    tallies: dict[str, Tally]
    verdict: Verdict
    starts: dict[str, int]
    fell: dict[str, tuple[int, ...]]
    struck_s: float
    wall_s: float
    open_at_end: str
    secure: str = ""

    @property
    def faults(self) -> int:
        """How many happened."""
        return sum(tally.happened for tally in self.tallies.values())

    @property
    def broken(self) -> list[str]:
        """What was promised and does not hold."""
        verdict, folded = self.verdict, self.verdict.reckoning.outcomes["folded"]
        spacing_s = self.struck_s / max(1, self.faults)
        restored = self.tallies.get("restore-helper")
        checks = {
            f"{verdict.lost} updates were lost": verdict.lost,
            f"{verdict.doubled} updates were doubled": verdict.doubled,
            "the weights do not follow from the updates": verdict.differences,
            "no helper's store was restored": restored is not None and not restored.happened,
            f"helpers broke their word: {verdict.helpers[:3]}": verdict.helpers,
            f"sound files were taken for damaged: {verdict.set_aside[:3]}": verdict.set_aside,
            f"the outboxes did not become empty in time: {self.open_at_end}": self.open_at_end,
            f"only {self.faults} of {self.wanted} faults happened": self.faults < self.wanted,
            f"faults came {spacing_s:.2f} s apart": spacing_s > LONGEST_SPACING_S,
            f"it took {self.wall_s:.0f} s": self.wall_s > LONGEST_S * max(1, self.wanted / 1000),
            f"only {folded} updates were folded": folded < FOLDED_SHARE * self.wanted,
        }
        return [told for told, is_broken in checks.items() if is_broken]


def table(outcome: Outcome) -> str:
    """The run for people."""
    lines = [f"{'fault':<42}{'happened':>9}{'recovered':>10}{'median s':>9}{'longest s':>10}"]
    for kind, rule in ALL_KINDS.items():
        tally = outcome.tallies.get(kind)
        if tally is not None:
            lines.append(_row(rule.words, tally))
    lines += ["", *(f"{name:<12} {words}" for name, words in _facts(outcome).items())]
    return "\n".join(lines)


def _facts(outcome: Outcome) -> dict[str, str]:
    verdict, spacing_s = outcome.verdict, outcome.struck_s / max(1, outcome.faults)
    reckoning, store = verdict.reckoning, verdict.store
    told = ", ".join(f"{reckoning.outcomes[name]} {name}" for name in TERMINAL)
    gone = f"{reckoning.with_their_disk} gone with a wiped or restored disk"
    again = [f"{name} {number - 1}" for name, number in outcome.starts.items() if number > 1]
    fell = [
        f"{name} {len(statuses)} (status {', '.join(map(str, sorted(set(statuses))))})"
        for name, statuses in outcome.fell.items()
        if statuses
    ]
    broken = f"{verdict.lost} lost, {verdict.doubled} doubled"
    offers = f"{store.duplicates} offers of known updates"
    alarms = [f"{agent} {number}" for agent, number in sorted(store.alarms.items())]
    oldest = f"oldest base {verdict.largest_staleness} versions back"
    return {
        "updates": f"{reckoning.produced} produced: {told}; {gone}",
        "broken": f"{broken}, {len(verdict.differences)} differences in the weights",
        "versions": f"{max(store.versions)}, {oldest}, {offers}",
        "restarts": ", ".join(again) or "none",
        "fell": ", ".join(fell) or "nothing ended by itself",
        "alarms": ", ".join(alarms) or "none",
        "time": f"{outcome.struck_s:.0f} s of faults, {spacing_s:.2f} s apart, "
        f"{outcome.wall_s:.0f} s in all",
    }


def _row(words: str, tally: Tally) -> str:
    seconds = tally.recovered_s
    times = f"{median(seconds):>9.1f}{max(seconds):>10.1f}" if seconds else ""
    return f"{words:<42}{tally.happened:>9}{len(seconds):>10}{times}"


def explanation(outcome: Outcome) -> str:
    """What broke, and where to look."""
    verdict = outcome.verdict
    findings = [("lost", each) for each in verdict.reckoning.lost]
    findings += [("doubled", each) for each in verdict.reckoning.doubled]
    lines = [f"BROKEN: {told}" for told in outcome.broken]
    lines += [_finding(what, each) for what, each in findings[:_SHOWN]]
    lines += [f"  weights: {told}" for told in verdict.differences[:_SHOWN]]
    lines.append(_WHERE.format(outcome.directory, FAULT_LOG))
    return "\n".join(lines)


def _finding(what: str, finding: Finding) -> str:
    agent, incarnation, sequence = finding.update
    return f"  {what}: {agent} {incarnation} {sequence}: {finding.why}"


def last_line(outcome: Outcome) -> str:
    """One line of JSON."""
    verdict = outcome.verdict
    reckoning = verdict.reckoning
    return json.dumps(
        {
            "name": "chaos",
            "faults": outcome.faults,
            "seed": outcome.seed,
            "produced": reckoning.produced,
            **reckoning.outcomes,
            "gone_with_their_disk": reckoning.with_their_disk,
            "duplicates": verdict.store.duplicates,
            "restarts": sum(number - 1 for number in outcome.starts.values()),
            "recoveries": sum(len(tally.recovered_s) for tally in outcome.tallies.values()),
            "largest_staleness": verdict.largest_staleness,
            "mean_spacing_s": round(outcome.struck_s / max(1, outcome.faults), 3),
            "wall_s": round(outcome.wall_s, 1),
            "lost": verdict.lost,
            "double": verdict.doubled,
            "bit_equal": not verdict.differences,
            "secure": outcome.secure,
            "value": verdict.lost + verdict.doubled,
            "unit": "updates lost or counted twice",
            "target": 0,
            "holds": not outcome.broken,
        }
    )

"""Asynchronous against synchronous learning when links are down half of the time, or nearly always.

Five hundred agents (`shopfloor/simulate`): links of two states; speeds that differ fiftyfold and go
with the data (correlation .7: the slow ones hold classes that the fast ones lack); classes by
Dirichlet .1.  Folding, rounding to int8, admission and optimizers are the product's own.  What is
compared is simulated time, and updates that came, until the accuracy is .85 in the mean of three
evaluations.

Fair to synchronous FedAvg (McMahan et al., arXiv:1602.05629; over-selection and deadline as in
Bonawitz et al., arXiv:1902.01046):

- It is tuned: cohort, over-selection, deadline, server step and momentum, by a grid that is
  printed; the best of it run on the reported seeds, and what is fastest there is the baseline.  A
  deadline counts from a round's first update, as in the product.
- Agents whose round is over give their work up at once, are free for the next round, and send
  nothing.  The product's would finish, send, and be refused.
- A round begins in the instant that the last one ends; a free slot of the asynchronous side waits
  up to 5 s.
- Asynchronous settings are chosen on seeds that are not reported.

The last line is JSON; `value` is how many times faster the asynchronous side is at 50 % off, in the
mean over the seeds.
"""

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.server_optimizer import ServerOptimizerSettings
from coordinator.strategies.choice import StrategySettings
from coordinator.strategies.strategy import Offer
from shopfloor.simulate.engine import Late, Simulation
from shopfloor.simulate.outcome import Outcome
from shopfloor.simulate.presets import BY_LOT
from shopfloor.simulate.scenario import Limits, Scenario
from shopfloor.simulate.settings import Tables

TARGET_ACCURACY = 0.85
TARGET_FASTER = 2.5
TARGET_FASTER_MOSTLY_OFF = 3.0
TARGET_UPLINKS = 1.5
TARGET_FINAL = 0.01
SEEDS = tuple(range(5))
TUNING_SEEDS = (100, 101, 102, 103)
FINALISTS = 6
"""Of the synchronous grid, run on the reported seeds."""
PATIENCE = 1.3
"""A run is given up that takes this many times as long as the best one so far."""
TOGETHER = 8
"""Runs between two looks at which is the best so far."""

CLIENTS = (10, 20, 40, 80)
OVER_SELECTION = (0.3, 1.0, 2.0)
DEADLINES_S = (120.0, 600.0)
STEPS = ((1.2, 0.8), (2.0, 0.8), (2.0, 0.6), (4.0, 0.0), (0.6, 0.9), (0.3, 0.9))
"""Server's learning rate and momentum; their product with 1 / (1 - momentum) is 3 to 10."""
GOALS = (
    (2, 0.5, 0.0),
    (2, 0.65, 0.0),
    (3, 0.8, 0.0),
    (2, 0.4, 0.3),
    (2, 0.45, 0.3),
    (2, 0.5, 0.3),
    (3, 0.7, 0.3),
    (2, 0.4, 0.5),
)
"""Updates of an asynchronous version, server's learning rate, calibration."""
SLOTS = (50, 60)
SLOTS_MOSTLY_OFF = (100, 200)
"""Agents that train at once; a slot waits while its agent is off."""


@dataclass(frozen=True)
class Setting:
    """One way to run a federation: words for the table, tables for the coordinator."""

    words: str
    tables: Tables
    late: Late = "send"


@dataclass(frozen=True)
class Job:
    """One run of one setting."""

    setting: Setting
    scenario: Scenario
    limits: Limits


@dataclass(frozen=True)
class Result:
    """A setting's runs, one for each seed; `hours` and `uplinks` to the target, in that order.

    A run that did not come to the target counts with the time and uplinks that it was given.
    """

    setting: Setting
    outcomes: tuple[Outcome, ...]

    @property
    def hours(self) -> list[float]:
        """Simulated hours to the target."""
        return [o.reached.at_s / 3600 if o.reached else o.hours for o in self.outcomes]

    @property
    def uplinks(self) -> list[int]:
        """Updates that came until then."""
        return [o.reached.uplinks if o.reached else o.uplinks for o in self.outcomes]

    @property
    def is_complete(self) -> bool:
        """Whether every seed came to the target."""
        return all(outcome.reached is not None for outcome in self.outcomes)

    @property
    def rank(self) -> tuple[bool, float]:
        """The smaller the better."""
        return not self.is_complete, statistics.fmean(self.hours)


def main() -> int:
    """Run; 0 when the targets hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.asynchrony", description=__doc__)
    parser.add_argument("--reduced", action="store_true", help="one seed, a small grid")
    options = parser.parse_args()
    # Before the workers load numpy: threads gain nothing on matrices of 16 x 64.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as workers:
        return reduced(workers) if options.reduced else full(workers)


def scenario(mostly_off: bool) -> Scenario:  # noqa: FBT001  one of two scenarios
    """Links on for 600 s in the mean; off for as long, or for an hour."""
    return Scenario(correlation=0.7, offline=6 / 7 if mostly_off else 0.5, on_s=600.0)


def synchronous(
    clients: int, over_selection: float, deadline_s: float, rate: float, momentum: float
) -> Setting:
    """FedAvg; who was granted a place keeps it for the round."""
    tables = Tables(
        strategy=StrategySettings(
            name="fedavg", clients=clients, over_selection=over_selection, deadline_s=deadline_s
        ),
        server_optimizer=_step(rate, momentum),
        selection=msgspec.structs.replace(BY_LOT, lease_s=deadline_s),
    )
    words = f"{clients:3} +{over_selection:4.0%} {deadline_s:4.0f} s  {_words(rate, momentum)}"
    return Setting(words, tables, "drop")


def asynchronous(slots: int, goal: int, rate: float, calibration: float) -> Setting:
    """FedBuff, or calibrated when `calibration` is above 0; undamped, plain server SGD."""
    tables = Tables(
        strategy=StrategySettings(
            name="calibrated" if calibration else "fedbuff", goal=goal, deadline_s=3600.0
        ),
        server_optimizer=_step(rate, 0.0),
        selection=msgspec.structs.replace(BY_LOT, concurrency=slots),
        policy=msgspec.structs.replace(
            Tables().policy, staleness_cap=1000, calibration=calibration
        ),
    )
    words = f"K {goal}, {slots} at once, calibration {calibration:g}, {_words(rate, 0.0)}"
    return Setting(words, tables)


def _step(rate: float, momentum: float) -> ServerOptimizerSettings:
    if not momentum:
        return ServerOptimizerSettings(learning_rate=rate)
    return ServerOptimizerSettings(name="momentum", learning_rate=rate, momentum=momentum)


def _words(rate: float, momentum: float) -> str:
    return f"step {rate:g}" + (f", momentum {momentum:g}" if momentum else "")


# Runs


def run(job: Job) -> Outcome:
    """One run, in a worker.

    Raises:
      RuntimeError: an update is neither folded nor refused, buffered, dropped, nor on its way.
    """
    setting = job.setting
    outcome = Simulation(job.scenario, setting.tables, job.limits, late=setting.late).run()
    if not outcome.is_accounted:
        raise RuntimeError(f"{setting.words}, seed {outcome.seed}: updates are unaccounted for")
    return outcome


def runs(
    workers: Executor,
    settings: Sequence[Setting],
    floor: Scenario,
    seeds: Sequence[int],
    limits: Limits,
) -> list[Result]:
    """Every setting on every seed."""
    jobs = [Job(s, replace(floor, seed=seed), limits) for s in settings for seed in seeds]
    outcomes = list(workers.map(run, jobs))
    return [
        Result(setting, tuple(outcomes[at * len(seeds) : (at + 1) * len(seeds)]))
        for at, setting in enumerate(settings)
    ]


def searched(
    workers: Executor, settings: Sequence[Setting], floor: Scenario, seeds: Sequence[int]
) -> list[Result]:
    """Settings on tuning seeds, printed, best first; who is far behind is given up."""
    results: list[Result] = []
    hours = 12.0
    for start in range(0, len(settings), TOGETHER):
        limits = Limits(hours=hours, target=TARGET_ACCURACY, stop_at_target=True)
        some = settings[start : start + TOGETHER]
        for result in runs(workers, some, floor, seeds, limits):
            results.append(result)
            tell(result)
            if result.is_complete:
                hours = min(hours, PATIENCE * max(result.hours))
    return sorted(results, key=lambda result: result.rank)


def tell(result: Result) -> None:
    """One line of a table."""
    accuracy = statistics.fmean(outcome.final_accuracy for outcome in result.outcomes)
    slow = statistics.fmean(outcome.slow_share for outcome in result.outcomes)
    fate = "" if result.is_complete else "  given up"
    print(
        f"  {result.setting.words:46} {statistics.fmean(result.hours):6.2f} h "
        f"{statistics.fmean(result.uplinks):7,.0f} uplinks  accuracy {accuracy:.3f}  "
        f"slow quarter {slow:4.0%}{fate}",
        flush=True,
    )


# The comparison


@dataclass(frozen=True)
class Comparison:
    """Both sides at their best on the same seeds, until the target and for a long time.

    `frugal` is the synchronous setting that needed the fewest uplinks.
    """

    synchronous: Result
    frugal: Result
    asynchronous: Result
    long_synchronous: Result
    long_asynchronous: Result

    def faster(self, than: Result) -> float:
        """Mean over the seeds of the ratio of times."""
        return _mean_ratio(than.hours, self.asynchronous.hours)

    def fewer(self, than: Result) -> float:
        """Mean over the seeds of the ratio of uplinks."""
        return _mean_ratio(than.uplinks, self.asynchronous.uplinks)

    @property
    def gap(self) -> float:
        """Final accuracy of what is served, synchronous less asynchronous."""
        return _served(self.long_synchronous) - _served(self.long_asynchronous)


def _mean_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.fmean(a / b for a, b in zip(above, below, strict=True))


def _served(result: Result) -> float:
    return statistics.fmean(outcome.served_accuracy for outcome in result.outcomes)


def compare(
    workers: Executor,
    floor: Scenario,
    grids: tuple[Sequence[Setting], Sequence[Setting]],
    *,
    seeds: Sequence[int],
    tuning_seeds: Sequence[int],
    long_hours: float,
) -> Comparison:
    """Tune both sides, then run them on the reported seeds."""
    until = Limits(hours=24.0, target=TARGET_ACCURACY, stop_at_target=True)
    print(f"\nlinks off {floor.offline:.0%} of the time, on for {floor.on_s:.0f} s in the mean")
    print(f"asynchronous, on the seeds {tuning_seeds}:")
    tuned = searched(workers, grids[1], floor, tuning_seeds)[0].setting
    print(f"synchronous (clients, over-selection, deadline, server), on seed {tuning_seeds[0]}:")
    best = searched(workers, grids[0], floor, tuning_seeds[:1])[:FINALISTS]
    print("on the reported seeds, the best of the synchronous ones and then the asynchronous one:")
    finalists = runs(workers, [result.setting for result in best], floor, seeds, until)
    (reported,) = runs(workers, [tuned], floor, seeds, until)
    for result in (*finalists, reported):
        tell(result)
    baseline = min(finalists, key=lambda result: result.rank)
    frugal = min(finalists, key=lambda result: (not result.is_complete, sum(result.uplinks)))
    forever = Limits(hours=long_hours, target=TARGET_ACCURACY)
    long = runs(workers, [baseline.setting, tuned], floor, seeds, forever)
    return Comparison(baseline, frugal, reported, *long)


def show(words: str, found: Comparison) -> None:
    """What came of a comparison."""
    print(f"\n{words}: asynchronous ({found.asynchronous.setting.words.strip()})")
    for kind, than in (("fastest", found.synchronous), ("most frugal", found.frugal)):
        print(
            f"  {found.faster(than):.2f} x faster and {found.fewer(than):.2f} x fewer uplinks than "
            f"the {kind} synchronous ({than.setting.words.strip()})"
        )
    ratios = zip(found.synchronous.hours, found.asynchronous.hours, strict=True)
    print(f"  against the fastest by seed {[round(a / b, 2) for a, b in ratios]}")
    for side, long in (
        ("synchronous", found.long_synchronous),
        ("asynchronous", found.long_asynchronous),
    ):
        plain = statistics.fmean(outcome.final_accuracy for outcome in long.outcomes)
        hours = long.outcomes[0].hours
        print(f"  after {hours:g} h {side:12} {plain:.3f}, what is served {_served(long):.3f}")


def full(workers: Executor) -> int:
    """Both scenarios, five seeds."""
    half = compare(
        workers,
        scenario(mostly_off=False),
        grids(SLOTS),
        seeds=SEEDS,
        tuning_seeds=TUNING_SEEDS,
        long_hours=6.0,
    )
    mostly = compare(
        workers,
        scenario(mostly_off=True),
        grids(SLOTS_MOSTLY_OFF),
        seeds=SEEDS,
        tuning_seeds=TUNING_SEEDS,
        long_hours=24.0,
    )
    show("50 % off", half)
    show("86 % off", mostly)
    holds = (
        half.asynchronous.is_complete
        and mostly.asynchronous.is_complete
        and half.faster(half.synchronous) >= TARGET_FASTER
        and half.fewer(half.synchronous) >= TARGET_UPLINKS
        and mostly.faster(mostly.synchronous) >= TARGET_FASTER_MOSTLY_OFF
        and max(half.gap, mostly.gap) <= TARGET_FINAL
    )
    return conclude(half, mostly, holds=holds)


def grids(all_slots: Sequence[int]) -> tuple[list[Setting], list[Setting]]:
    """All settings of both sides; likely ones first, so that others are given up early."""
    rounds = product((1.0, 0.3, 2.0), (20, 40, 10, 80), DEADLINES_S, STEPS)
    return (
        [synchronous(clients, over, wait, *step) for over, clients, wait, step in rounds],
        [asynchronous(slots, *goal) for slots in all_slots for goal in GOALS],
    )


def conclude(half: Comparison, mostly: Comparison | None, *, holds: bool) -> int:
    """Print the verdict; 0 when it holds."""
    line = {
        "name": "asynchrony",
        "value": round(half.faster(half.synchronous), 3),
        "unit": "times faster than tuned synchronous FedAvg",
        "target": TARGET_FASTER,
        "holds": holds,
        "uplinks": round(half.fewer(half.synchronous), 3),
        "uplinks_of_most_frugal": round(half.fewer(half.frugal), 3),
        "final_gap": round(half.gap, 4),
    }
    if mostly is not None:
        line |= {
            "mostly_off": round(mostly.faster(mostly.synchronous), 3),
            "mostly_off_gap": round(mostly.gap, 4),
        }
    print(json.dumps(line))
    return 0 if holds else 1


# Reduced


def reduced(workers: Executor) -> int:
    """One seed and a small grid; correctness is asserted, figures are only printed."""
    floor = scenario(mostly_off=False)
    for problem in problems(floor):
        print(f"asynchrony: {problem}")
        return 1
    small = (
        [synchronous(20, 1.0, 120.0, *step) for step in ((1.2, 0.8), (4.0, 0.0))],
        [asynchronous(50, *goal) for goal in (GOALS[1], GOALS[5])],
    )
    found = compare(
        workers, floor, small, seeds=SEEDS[:1], tuning_seeds=TUNING_SEEDS[:1], long_hours=1.0
    )
    show("50 % off", found)
    conclude(found, None, holds=found.faster(found.synchronous) >= TARGET_FASTER)
    return 0


def problems(floor: Scenario) -> Iterator[str]:
    """What is wrong with sums, accounts or repetition on the production path."""
    setting, brief = asynchronous(40, *GOALS[1]), Limits(hours=0.15)
    first, again = (run(Job(setting, floor, brief)) for _ in range(2))
    if first.digest != again.digest:
        yield "the same seed gave two different runs"
    expected: list[NDArray[np.int64]] = []

    def witness(offer: Offer, integers: NDArray[np.signedinteger], _size: int, reason: str) -> None:
        if not reason:
            expected.append(offer.weight * integers.astype(np.int64))

    simulation = Simulation(
        floor, asynchronous(40, 10_000, 0.6, 0.0).tables, brief, witness=witness
    )
    outcome = simulation.run()
    if not np.array_equal(simulation.federation.buffer.total[0], sum(expected)):
        yield "the folded sum is not the sum of the bytes that came"
    if not expected or outcome.buffered != len(expected) or not outcome.is_accounted:
        yield "updates are unaccounted for"


if __name__ == "__main__":
    raise SystemExit(main())

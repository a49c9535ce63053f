"""Every setting under which rows are sought in gradients, and what came of it.

One victim among up to ten sites; the rows that are looked for are the victim's.  The attacker holds
its update, a sum, a masked report or a noised one, as the setting says; attack and budget stay the
same.  A row counts as reconstructed when a candidate correlates with it by .9 or more, and as many
rows of other people are held against it: digits look alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Params
from benchmarks.attacks import coalition, crafted
from benchmarks.attacks.inversion import best_correlations, between_neurons, neurons
from benchmarks.attacks.matching import Budget, Net, matched
from benchmarks.attacks.verdicts import Expected, Finding, against_guessing
from benchmarks.attacks.victims import (
    CLASSES,
    DEFAULT,
    HIDDEN,
    ONE_STEP,
    PIXELS,
    Digits,
    Matrix,
    Vector,
    Victim,
    digits,
    plan_of,
    sent,
)
from wire.masking import Ring
from wire.messages import Policy
from wire.tensors import flatten

SITES = 10
RECONSTRUCTED = 0.9
MASKED = "masked, coordinator + one helper"
RING: Ring = 32
Held = Literal["update", "sum", "masked", "opened"]
"""The victim's update; the sum of ten sites'; its masked update with the seeds of one helper, and
of two."""
Attack = Literal["analytic", "by optimisation, 1 row", "by optimisation, 8 rows", "by bins"]
BUDGETS = {
    "by optimisation, 1 row": Budget(rows=1, restarts=8, steps=400),
    "by optimisation, 8 rows": Budget(rows=8, restarts=4, steps=800),
}


@dataclass(frozen=True)
class Setting:
    """One way to be attacked.

    Attributes:
      name: in the table.
      attack: how rows are sought.
      expected: what the product claims.
      rows: of each site.
      held: what the attacker has.
      policy: what the sites follow.
      are_others_dead: whether the other sites trained from a base of which no gradient comes.
    """

    name: str
    attack: Attack
    expected: Expected
    rows: int = 1
    held: Held = "update"
    policy: Policy = ONE_STEP
    are_others_dead: bool = False


def noised(unit: Literal["record", "update"], multiplier: float) -> Policy:
    """The attacker's policy with noise that it can not take away; as fine as 16 bits hold it."""
    finest = {"record": 2e-5, "update": 2e-4}[unit]
    return msgspec.structs.replace(
        ONE_STEP, privacy=unit, noise_multiplier=multiplier, clip_norm=1.0, scale=finest
    )


def settings() -> Iterator[Setting]:
    """All of them, in the order of the table."""
    attacks: tuple[tuple[Attack, int], ...] = (
        ("analytic", 1),
        ("by optimisation, 1 row", 1),
        ("analytic", 8),
        ("by optimisation, 8 rows", 8),
        ("by bins", 64),
    )
    for attack, rows in attacks:
        yield from _against(attack, rows)


def _against(attack: Attack, rows: int) -> Iterator[Setting]:
    """One attack against everything."""

    def setting(name: str, expected: Expected, **more: object) -> Setting:
        return Setting(name, attack, expected, rows, **more)  # type: ignore[arg-type]

    yield setting("plain", "succeeds")
    yield setting(MASKED, "fails", held="masked")
    yield setting("masked, coordinator + two helpers", "succeeds", held="opened")
    yield setting("sum of ten sites", "open", held="sum")
    yield setting("sum of ten, the others' base is dead", "open", held="sum", are_others_dead=True)
    for multiplier in (0.01, 0.1, 1.0):
        expected: Expected = "fails" if multiplier == 1.0 else "open"
        name = f"noise per record, {multiplier:g}"
        yield setting(name, expected, policy=noised("record", multiplier))
    yield setting("noise per update, 1", "fails", policy=noised("update", 1.0))
    if rows > 1:
        yield Setting("default policy", attack, "fails", 64, policy=DEFAULT)


def found(setting: Setting, trials: int) -> Finding:
    """Attack so many victims under one setting."""
    measured = np.array([correlations(setting, trial) for trial in range(trials)])
    best, guess = measured[:, 0], measured[:, 1]
    figure, beside = (float(np.mean(each >= RECONSTRUCTED)) for each in (best, guess))
    return Finding(
        attack=f"inversion {setting.attack}, of {_rows(setting)}",
        setting=setting.name,
        figure=figure,
        beside=beside,
        unit="share of rows",
        outcome=against_guessing(figure, beside),
        detail=f"mean best correlation {best.mean():.2f}, guessing {guess.mean():.2f}",
        expected=setting.expected,
        correlation=(float(best.mean()), float(guess.mean())),
    )


def _rows(setting: Setting) -> str:
    if setting.policy is DEFAULT:
        return "64 rows in many steps"
    return "one row in one step" if setting.rows == 1 else f"{setting.rows} rows in one step"


def correlations(setting: Setting, trial: int) -> Matrix:
    """Attack one victim.

    Returns:
      float64 (2, N): for each of its rows the best correlation with what was reconstructed, and
      with as many guesses: rows of other people, or, where masks are attacked, what the same attack
      makes of a random vector.
    """
    rng = np.random.default_rng([trial, setting.rows])
    victim = Victim()
    sites = [digits().drawn(setting.rows, rng) for _ in range(SITES)]
    base = crafted.bins(digits(), HIDDEN, trial) if setting.attack == "by bins" else victim.base
    holding = _holding(setting, victim, base, sites, rng)
    candidates = _sought(setting.attack, holding, base, rng)
    if setting.held == "masked":
        random = coalition.random_vector(len(holding), RING, setting.policy.scale)
        guesses = _sought(setting.attack, random, base, rng)
    else:
        guesses = digits().drawn(max(len(candidates), 1), rng).x.astype(np.float64)
    rows = sites[0].x
    return np.array([best_correlations(candidates, rows), best_correlations(guesses, rows)])


def _holding(
    setting: Setting, victim: Victim, base: Params, sites: list[Digits], rng: np.random.Generator
) -> Vector:
    """What the attacker has, in the update's unit, float64 (P,)."""
    policy = setting.policy
    if policy.batch_size == ONE_STEP.batch_size:  # clipped sums are divided by the planned size
        policy = msgspec.structs.replace(policy, batch_size=setting.rows)

    def update(rows: Digits, start: Params) -> NDArray[np.int64]:
        plan = plan_of(policy, int(rng.integers(1 << 30)))
        return sent(victim.delta(start, rows, plan), policy, rng)

    own = update(sites[0], base)
    match setting.held:
        case "update":
            return own * np.float64(policy.scale)
        case "sum":
            start = crafted.dead(HIDDEN, 0) if setting.are_others_dead else base
            rest = [update(rows, start) for rows in sites[1:]]
            total: NDArray[np.int64] = own + np.sum(rest, axis=0)
            return total * np.float64(policy.scale)
        case _:
            keys = coalition.helpers()
            report = coalition.sealed(own, RING, keys)
            colluding = keys[:1] if setting.held == "masked" else keys[:2]
            return coalition.read_alone(report, colluding, policy.scale)


def _sought(attack: Attack, holding: Vector, base: Params, rng: np.random.Generator) -> Matrix:
    """Candidates for the victim's rows."""
    if attack == "analytic":
        return neurons(holding, PIXELS, HIDDEN)
    if attack == "by bins":
        return between_neurons(holding, PIXELS, HIDDEN)
    net = Net.of(flatten(base).astype(np.float64), PIXELS, HIDDEN, CLASSES)
    return matched(holding, net, BUDGETS[attack], rng)

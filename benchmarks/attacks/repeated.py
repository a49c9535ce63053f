"""Noise that is averaged away: a coordinator that asks for the same update again and again.

The same row, the same weights, a new noise each time: the mean of n updates has a square root of n
less of it.  What stands against that is the ledger, which ends after so many releases as its budget
has room for; here it is the agent's own, with its hard stop.
"""

import msgspec
import numpy as np

from agent.privacy import BudgetSpent, Privacy, PrivacyTable
from benchmarks.attacks.inversion import best_correlations
from benchmarks.attacks.inversions import BUDGETS, RECONSTRUCTED, noised
from benchmarks.attacks.matching import Net, matched
from benchmarks.attacks.verdicts import Expected, Finding, against_guessing
from benchmarks.attacks.victims import (
    CLASSES,
    HIDDEN,
    PIXELS,
    Vector,
    Victim,
    digits,
    plan_of,
    sent,
)
from wire.messages import Policy, Spent
from wire.tensors import flatten

POLICY = msgspec.structs.replace(noised("record", 1.0), batch_size=1)
TABLE = PrivacyTable(unit="record", epsilon=8.0, delta=1e-6)
UNLIMITED = 4000


def findings(trials: int) -> list[Finding]:
    """Ask without a ledger, and until the ledger ends it."""
    allowed = releases(TABLE, POLICY)
    return [
        _found("no ledger", UNLIMITED, "succeeds", trials),
        _found(f"a budget of epsilon {TABLE.epsilon:g}", allowed, "fails", trials),
    ]


def releases(table: PrivacyTable, policy: Policy) -> int:
    """How many updates an agent makes under a policy before its ledger stops it."""
    privacy = Privacy(table)
    privacy.on_mark(Spent())
    for made in range(UNLIMITED):
        try:
            privacy.charge(policy, examples=1)
        except BudgetSpent:
            return made
    return UNLIMITED


def averaged(updates: int, policy: Policy, rng: np.random.Generator) -> tuple[Vector, Vector]:
    """The mean of so many updates of one row, and that row: float64 (P,), (1, 64)."""
    victim, row = Victim(), digits().drawn(1, rng)
    total = np.zeros(len(flatten(victim.base)))
    for update in range(updates):
        delta = victim.delta(victim.base, row, plan_of(policy, update))
        total += sent(delta, policy, rng) * np.float64(policy.scale)
    return total / max(updates, 1), row.x.astype(np.float64)


def _found(setting: str, updates: int, expected: Expected, trials: int) -> Finding:
    best, guesses = [], []
    net = Net.of(flatten(Victim().base).astype(np.float64), PIXELS, HIDDEN, CLASSES)
    for trial in range(trials):
        rng = np.random.default_rng([trial, 77])
        mean, row = averaged(updates, POLICY, rng)
        candidates = matched(mean, net, BUDGETS["by optimisation, 1 row"], rng)
        best.append(best_correlations(candidates, row)[0])
        guesses.append(best_correlations(digits().drawn(1, rng).x.astype(np.float64), row)[0])
    share = float(np.mean(np.array(best) >= RECONSTRUCTED))
    guess = float(np.mean(np.array(guesses) >= RECONSTRUCTED))
    return Finding(
        attack="inversion of the mean of many noised updates, by optimisation, 1 row",
        setting=setting,
        figure=share,
        beside=guess,
        unit="share of rows",
        detail=f"{updates} updates, mean best correlation {np.mean(best):.2f}",
        outcome=against_guessing(share, guess),
        expected=expected,
    )

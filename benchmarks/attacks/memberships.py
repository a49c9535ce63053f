"""Every setting under which a canary is sought, beside the epsilon that the ledger claims for it.

With noise, what the scores prove must not exceed the claim.  An audit that can prove nothing would
always be content, so noise that is a quarter of what is claimed is audited too, and must be caught.
"""

from collections.abc import Iterator

import msgspec

from agent.privacy.accounting import epsilon_of
from agent.privacy.cost import cost_of
from benchmarks.attacks.canaries import (
    BY_RECORD,
    BY_UPDATE,
    ROWS,
    SAMPLED,
    SHARED,
    Scores,
    record_scores,
    update_scores,
)
from benchmarks.attacks.intervals import auc, epsilon_shown
from benchmarks.attacks.verdicts import Expected, Finding
from wire.messages import Policy

DELTA = 1e-5
CLEAR_AUC, NO_AUC = 0.99, 0.6
_LESS, _MUCH_LESS = 4.0, 20.0


def findings(trials: int, silent_trials: int) -> Iterator[Finding]:
    """Audit each way of adding noise, with none, with the claimed and with a quarter of it.

    Args:
      trials: of each kind with noise.
      silent_trials: of each kind without.
    """
    none = msgspec.structs.replace
    yield _without(
        "of one row", record_scores(none(BY_RECORD, noise_multiplier=0.0), silent_trials, 1)
    )
    yield _without(
        "of one update", update_scores(none(BY_UPDATE, noise_multiplier=0.0), silent_trials, 1)
    )
    for name, policy in (("all rows in each step", BY_RECORD), ("a sample in each step", SAMPLED)):
        for actual in (policy, _weaker(policy)):
            scores = record_scores(actual, trials, 1)
            yield _beside_claim(f"of one row, {name}", actual, policy, scores)
    for actual in (BY_UPDATE, _weaker(BY_UPDATE)):
        scores = update_scores(actual, trials, 1)
        yield _beside_claim("of one update", actual, BY_UPDATE, scores)
    for betraying in (0, 5):
        scores = update_scores(SHARED, trials, 1, betraying)
        name = f"of one update, ten sites share the noise, {betraying} betray theirs"
        yield _beside_claim(name, SHARED, SHARED, scores, SHARED.noise_sites - betraying)


def claimed(policy: Policy, honest_sites: int = 1) -> float:
    """The epsilon of one update, as the agent's ledger accounts for it."""
    return epsilon_of(cost_of(policy, ROWS + 1, honest_sites), DELTA)


def _weaker(policy: Policy) -> Policy:
    less = _LESS if policy is not SAMPLED else _MUCH_LESS
    return msgspec.structs.replace(policy, noise_multiplier=policy.noise_multiplier / less)


def _without(name: str, scores: Scores) -> Finding:
    figure = auc(scores.members, scores.others)
    return Finding(
        attack=f"membership {name}",
        setting="no noise",
        figure=figure,
        beside=0.5,
        unit="AUC",
        detail="",
        outcome="succeeds" if figure >= CLEAR_AUC else "fails",
        expected="succeeds",
    )


def _beside_claim(
    name: str, actual: Policy, policy: Policy, scores: Scores, honest_sites: int = 1
) -> Finding:
    claim = claimed(policy, honest_sites)
    shown = epsilon_shown(scores.members, scores.others, DELTA)
    expected: Expected = "fails" if actual is policy else "succeeds"
    setting = f"noise {policy.noise_multiplier:g}"
    if actual is not policy:
        setting = f"noise {actual.noise_multiplier:g}, {policy.noise_multiplier:g} claimed"
    return Finding(
        attack=f"membership {name}",
        setting=setting,
        figure=shown,
        beside=claim,
        unit="epsilon",
        detail=f"AUC {auc(scores.members, scores.others):.3f}",
        outcome="succeeds" if shown > claim else "fails",
        expected=expected,
    )

"""What a policy promises about privacy: whether it holds together, and whether it is enough.

Pure.  The coordinator refuses a configuration by it, and an agent a head: the head's policy can
only tighten what the charter and the site's own file allow.

`problems` finds what contradicts itself.  `below` compares with a floor.  A floor names a kind, and
only that kind meets it: `record` hides one row and `update` all rows behind an update, and neither
says anything of the other's noise; masks hold while no two helpers betray a site, homomorphic
encryption while its recipient does not, and who trusts the one need not trust the other.

Shared noise (`noise_sites` = K > 1).  Each site adds a Gaussian of deviation
`noise_multiplier` x `clip_norm` / sqrt(K) to its clipped delta and then rounds; under masks only
sums are opened.  A sum with h honest sites in it carries sqrt(h / K) of the noise that the policy
names, and the claim is the policy's where h >= K.  What each condition is for:

  update and masked      noise that is too small to protect one update must never be seen alone
  noise_sites <= k_min   no sum, and no bucket's sum, has fewer sites than that
  weight_cap = 1         every update counts once, so that nobody's noise is scaled down against
                         somebody else's delta
  deviation >= 2 steps   sites round before they are added.  Rounding stochastically adds two
                         uniform numbers of a step, and with them the sum is a rounded Gaussian
                         around the sum of deltas, to which independent uniforms were added: a
                         function of what the Gaussian mechanism gives.  Where the two distributions
                         differ is in the lattice's aliases: their characteristic functions by
                         exp(-pi^2 s^2), s in steps, which at 2 is 7e-18 for each parameter, far
                         below any delta that is worth stating
  no saturation          a clamped number is not a function of the sum; the noise of
                         `agent/learning/noise.py` never exceeds 8.6 deviations
"""

import math
from collections.abc import Iterator
from typing import Final

from wire.messages import Policy, Safeguards
from wire.sparse import problem_with
from wire.tensors import largest_integer

LEAST_STEPS: Final = 2.0
"""Deviations of shared noise, in steps of the scale."""
FARTHEST: Final = 9.0
"""Deviations that noise never reaches."""
_LEAST_RANGE: Final = 3.0
"""Deviations that the integers must hold; with less, what arrives is mostly their ends."""


def own_deviation(policy: Policy) -> float:
    """Standard deviation of the noise that a site adds to each number of its delta; 0 for none."""
    if policy.privacy != "update":
        return 0.0
    return policy.noise_multiplier * policy.clip_norm / math.sqrt(policy.noise_sites)


def problems(policy: Policy, *, k_min: int) -> Iterator[tuple[str, str]]:
    """Yield (field, reason) for all that contradicts itself in a policy's safeguards.

    Args:
      policy: a head's, or the one that a coordinator is configured with.
      k_min: the charter's least number of sites behind a sum.
    """
    is_private, is_protected = policy.privacy != "none", policy.protection != "none"
    sparse = problem_with(policy, is_private=is_private, is_masked=is_protected)
    if sparse:
        yield "kept_share", sparse
    if is_private:
        yield from _about_noise(policy)
    elif policy.noise_multiplier > 0:
        yield "noise_multiplier", 'adds no noise where privacy = "none"; say "record" or "update"'
    if policy.noise_sites > 1:
        yield from _about_shared_noise(policy, k_min)


def below(policy: Policy, least: Safeguards) -> str:
    """Why a policy is not enough for a floor; empty when it is."""
    if least.protection not in ("none", policy.protection):
        return f"protection is {policy.protection}, and {least.protection} is asked for"
    if least.privacy not in ("none", policy.privacy):
        return f"privacy is {policy.privacy}, and {least.privacy} is asked for"
    if policy.noise_multiplier < least.noise_multiplier:
        return (
            f"noise_multiplier is {policy.noise_multiplier:g}, and at least "
            f"{least.noise_multiplier:g} is asked for"
        )
    return ""


def _about_noise(policy: Policy) -> Iterator[tuple[str, str]]:
    if policy.noise_multiplier <= 0:
        reason = f'privacy = "{policy.privacy}" without noise hides nothing; say how much, such as '
        yield "noise_multiplier", reason + "1.0"
    if policy.calibration > 0:
        reason = "an agent under calibration sends what it remembers of earlier updates, which no "
        yield "calibration", reason + "noise of this one covers; under differential privacy say 0"
    if policy.clip_norm <= 0:
        yield "clip_norm", "clips every delta to nothing; the noise is in proportion to it"
    deviation = own_deviation(policy)
    if deviation * _LEAST_RANGE > _range(policy):
        reason = f"{policy.bits} bits of {policy.scale:g} hold +-{_range(policy):.3g}, and the "
        reason += f"noise's deviation is {deviation:.3g}: make scale or bits larger, so that "
        yield "scale", reason + f"{_LEAST_RANGE:g} deviations fit"


def _about_shared_noise(policy: Policy, k_min: int) -> Iterator[tuple[str, str]]:
    if (policy.privacy, policy.protection) != ("update", "masked"):
        reason = 'sites share noise only with privacy = "update" and protection = "masked", where '
        yield "noise_sites", reason + "nobody sees one of them alone"
    if policy.noise_sites > k_min:
        reason = f"{policy.noise_sites} sites' noise is not in a sum that may have {k_min}, the "
        yield "noise_sites", reason + "charter's k_min"
    if policy.weight_cap != 1:
        reason = "must be 1 where sites share noise: a heavier update would count more than the "
        yield "weight_cap", reason + "others' noise"
    deviation = own_deviation(policy)
    if deviation < LEAST_STEPS * policy.scale:
        reason = f"must be at most {deviation / LEAST_STEPS:.3g}, half the deviation of one site's "
        yield "scale", reason + "share of the noise, or rounding would take the place of noise"
    if policy.clip_norm + FARTHEST * deviation + policy.scale > _range(policy):
        reason = f"{policy.bits} bits of {policy.scale:g} hold +-{_range(policy):.3g}; they have "
        reason += f"to hold clip_norm and {FARTHEST:g} deviations of {deviation:.3g}, because "
        yield "bits", reason + "shared noise must never saturate"


def _range(policy: Policy) -> float:
    return largest_integer(policy.bits) * policy.scale

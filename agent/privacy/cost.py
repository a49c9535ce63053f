"""What one client update costs under a policy, and how its training is made to cost no more.

Pure.  `record`: each step of the training is a noised sum of clipped gradients, and the update is a
function of all of them.  Where a batch holds all examples the steps are unsampled; else every step
draws its batch anew, each example by itself with the rate batch_size / examples, from the operating
system's random bytes (`agent/learning/train.py`), and that is the only amplification that is
counted.  None is assumed for which agents take part or when: agents decide that themselves, and
the coordinator sees it.

`update`: the clipped delta is noised as a whole, which costs one unsampled release.  Where sites
share noise, what is counted is the part of it that `honest_sites` of them have added.

Steps that a crash threw away cost nothing: an update is one release, of the final weights, which
depend on the steps that led to them and on no others; whatever was thrown away nobody has seen.
"""

import math
from dataclasses import replace

from agent.learning.plan import TrainingPlan
from agent.privacy.accounting import gaussian_cost, sampled_cost
from wire.manifest import Manifest
from wire.messages import Policy, Spent
from wire.spent import added


def cost_of(policy: Policy, examples: int, honest_sites: int) -> Spent:
    """What one update costs, of a policy without `problems` whose privacy is not `none`.

    Args:
      policy: the head's.
      examples: that the training learned from.
      honest_sites: see `PrivacyTable`.
    """
    release = Spent(releases=1)
    if policy.privacy == "update":
        return added(release, gaussian_cost(counted_noise(policy, honest_sites)))
    rate = min(policy.batch_size / examples, 1.0)
    steps = policy.epochs * math.ceil(examples / policy.batch_size)
    return added(release, sampled_cost(policy.noise_multiplier, rate, steps))


def counted_noise(policy: Policy, honest_sites: int) -> float:
    """The noise multiplier that this site relies on.

    Each of K = `noise_sites` sites adds a Gaussian of 1 / K of the policy's variance, and
    Gaussians add by variance: h of them have h / K of it, and more than K are not counted on.
    """
    shared = policy.noise_sites
    return policy.noise_multiplier * math.sqrt(min(honest_sites, shared) / shared)


def private_plan(plan: TrainingPlan, policy: Policy) -> TrainingPlan:
    """The plan of a training whose update is to cost what `cost_of` says."""
    if policy.privacy != "record":
        return plan
    return replace(
        plan, clip_norm=policy.example_clip, noise_multiplier=policy.noise_multiplier, patience=0
    )


def unfit(policy: Policy, manifest: Manifest) -> str:
    """Why this bundle can not be learned privately under a policy; empty when it can."""
    if policy.privacy != "record":
        return ""
    if manifest.standardise == "local":
        return (
            "every row moves the means that this site's inputs are standardised by, and so the "
            'gradients of all others: privacy = "record" needs standardise "given" or "federated"'
        )
    if any(tensor.local for tensor in manifest.tensors):
        return (
            "tensors that stay at the site remember rows from trainings without noise: privacy = "
            '"record" needs a bundle whose tensors are all shared'
        )
    return ""


def not_covered(policy: Policy, manifest: Manifest | None) -> list[str]:
    """What leaves this site about its rows and is not counted, in words."""
    found = [
        "the number of examples behind an update, its weight, and when updates are made",
        "judgements of versions on held-out rows (counts and sums, no row)"
        + (", which only sums of sites show" if policy.protection == "masked" else ""),
    ]
    if manifest is not None and manifest.standardise == "federated":
        found.append("sums of the inputs, told once for a bundle, to standardise by")
    if policy.privacy == "record":
        found.append("rows behind the means that inputs are standardised by")
        found.append("what an example has in common with many others")
        found += _windows(manifest)
    found.append("what was sent before the policy asked for privacy")
    return found


def _windows(manifest: Manifest | None) -> list[str]:
    window = None if manifest is None else manifest.window
    if window is None or window.length <= window.stride:
        return []
    times = math.ceil(window.length / window.stride)
    return [f"a row as such: windows overlap, so it is in up to {times} examples, not in one"]

"""Which sums of masked reports are allowed, and what each report counts in them.

Coordinator and helpers compute all of this, each for itself, from signed headers and the charter:
the coordinator to make a manifest, the helpers to refuse one that says anything else.  Pure.

A sum hides a site only among others that weigh about as much: in 10,000 a + b + c the high digits
are a.  So each sum needs `k_min` *effective* sites, (sum c)^2 / sum c^2 over the sites' summed
coefficients (Kish, "Survey Sampling", 1965, section 11.7): the number of sites of equal weight that
would weigh as evenly.  Where weights differ too much they are levelled: all are capped by the
largest weight, halved until the rule holds.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from coordinator.strategies.strategy import stale_weight
from wire.messages import Manifest, Policy
from wire.tensors import largest_integer


@dataclass(frozen=True)
class Entry:
    """What a sum's rules need to know of one report.

    Attributes:
      report: SHA-256 of its signed header envelope.
      agent, site: by its credential.
      weight: its header's; 1 for figures.
      base_version: what it was trained from.
    """

    report: bytes
    agent: str
    site: str
    weight: int = 1
    base_version: int = 0


def due_weight(manifest: Manifest, entry: Entry) -> int:
    """What the report weighs before weights are levelled."""
    weight = min(entry.weight, manifest.weight_cap)
    if not manifest.is_damped:
        return weight
    policy = Policy(staleness_cap=manifest.staleness_cap, staleness_floor=manifest.staleness_floor)
    return stale_weight(weight, max(manifest.version - entry.base_version, 0), policy)


def effective_sites(shares: Iterable[tuple[str, int]]) -> float:
    """Number of sites of equal weight that would weigh as evenly; 0 for none.

    Args:
      shares: (site, coefficient) of each report; a site may have several.
    """
    by_site = Counter[str]()
    for site, coefficient in shares:
        by_site[site] += coefficient
    squares = sum(share * share for share in by_site.values())
    return sum(by_site.values()) ** 2 / squares if squares else 0.0


def levelled(weights: Sequence[int], sites: Sequence[str], k_min: int) -> list[int] | None:
    """Coefficients of one bucket: the weights, capped as far as the rule above asks for.

    Returns:
      None where even equal weights have fewer than `k_min` effective sites.
    """
    cap = max(weights, default=0)
    while cap >= 1:
        capped = [min(weight, cap) for weight in weights]
        if effective_sites(zip(sites, capped, strict=True)) >= k_min:
            return capped
        cap //= 2
    return None


def coefficients(
    manifest: Manifest, entries: Sequence[Entry], buckets: Sequence[int], k_min: int
) -> list[int] | None:
    """What each report counts, bucket by bucket levelled.

    Args:
      manifest: for its rule of weights; its members are not looked at.
      entries: the reports.
      buckets: the bucket of each.
      k_min: effective sites that each bucket needs.

    Returns:
      One for each entry; None where a bucket has too few sites.
    """
    found = [0] * len(entries)
    for bucket in set(buckets):
        places = [at for at, other in enumerate(buckets) if other == bucket]
        weights = [due_weight(manifest, entries[at]) for at in places]
        capped = levelled(weights, [entries[at].site for at in places], k_min)
        if capped is None:
            return None
        for at, coefficient in zip(places, capped, strict=True):
            found[at] = coefficient
    return found


def problem_with_members(
    manifest: Manifest, entries: Sequence[Entry], k_min: int, listed_sites: Sequence[str] = ()
) -> str:
    """Why a manifest's members are not a sum that may be opened; empty when they are.

    Args:
      manifest: final.
      entries: what the signed headers say of its members, in their order.
      k_min: the charter's.
      listed_sites: the charter's `sites`; none: all count.
    """
    return next(_problems(manifest, entries, k_min, listed_sites), "")


def _problems(
    manifest: Manifest, entries: Sequence[Entry], k_min: int, listed_sites: Sequence[str]
) -> Iterator[str]:
    members = manifest.members
    if len({member.report for member in members}) < len(members):
        yield "a report stands twice in it"
    where: dict[str, int] = {}
    for entry, member in zip(entries, members, strict=True):
        if listed_sites and entry.site not in listed_sites:
            yield f"site {entry.site} is not one of the charter's"
        if where.setdefault(entry.site, member.bucket) != member.bucket:
            yield f"site {entry.site} is in two buckets"
    buckets = [member.bucket for member in members]
    shares = [member.coefficient for member in members]
    for bucket in sorted(set(buckets)):
        inside = [
            (entry.site, share)
            for entry, share, other in zip(entries, shares, buckets, strict=True)
            if other == bucket
        ]
        effective = effective_sites(inside)
        if effective < k_min:
            yield (
                f"bucket {bucket} has {len({site for site, _ in inside})} sites, which weigh as "
                f"{effective:.3g} equal ones; the charter asks for {k_min}"
            )
    if coefficients(manifest, entries, buckets, k_min) != shares:
        yield "a coefficient is not what weight and staleness make it"
    if sum(shares) > largest_weight(manifest.ring, manifest.bits):
        yield "the sum could overflow the ring"


def largest_weight(ring: int, bits: int) -> int:
    """Largest sum of coefficients whose sum of integers of `bits` can not leave the ring."""
    largest = (1 << (bits - 1)) - 1
    return ((1 << (ring - 1)) - 1) // max(largest, 1)


def most_members(policy: Policy) -> int:
    """Reports that one sum can hold under a policy, whatever they weigh."""
    return largest_weight(policy.ring, policy.bits) // policy.weight_cap


def problem_with_ring(policy: Policy, members: int) -> str:
    """Why sums of so many updates could wrap around; empty when they can not."""
    most = most_members(policy)
    if policy.protection != "masked" or members <= most:
        return ""
    return (
        f"{members} updates of weight up to {policy.weight_cap} with integers up to "
        f"{largest_integer(policy.bits)} do not fit a ring of {policy.ring} bits; at most {most}: "
        "lower policy.weight_cap (policy.weight_unit keeps proportions), or ring = 32"
    )


def assigned(sites: Sequence[str], buckets: int, k_min: int) -> list[int] | None:
    """A bucket for each report: every site in one, and as many buckets as have `k_min` sites.

    Returns:
      None with fewer than `k_min` sites in all.
    """
    distinct = list(dict.fromkeys(sites))
    number = min(buckets, len(distinct) // k_min)
    if number == 0:
        return None
    place = {site: at % number for at, site in enumerate(distinct)}
    return [place[site] for site in sites]

"""What each site brings to the versions that it is in, told without looking at any client update.

A linear regression of what a model learned on the random subset that it learned from, as in
datamodels (Ilyas et al., arXiv:2202.00622), where the subsets are the buffers that asynchronous
training draws by itself: the drop of the validation loss from one version to the next is regressed
on each site's share of the buffer between them.  Ridge regression (Hoerl and Kennard,
Technometrics 12(1), 1970), whose strength is not chosen but averaged over by its evidence (MacKay,
"Bayesian Interpolation", Neural Computation 4(3), 1992), so that the errors hold early on too.

    improvement(v) = level(v) + sum over sites of share(site, v) * worth(site) + noise

`level`, the common curve along which any training flattens, is the mean over the last ten versions
or so, of improvements and of shares alike: no shape of the curve is assumed, and a rollback is
forgotten soon.  An improvement that is far off the level counts as a moderate one.  A version that
nobody measured, or that follows another lineage's, is left out.

**Who judges.**  Improvements are measured on the sites' own held-out rows, and a site with wrong
labels has wrong held-out labels too: models that learned from noise suit it better.  Its losses are
large, so their mean is its word; in `benchmarks/contribution.py` the mean over all judges tells
noisy from clean sites no better than a coin, or inverts them.  So the judges are the half of the
reporters with the lower loss (the small-loss rule, Han et al., "Co-teaching", arXiv:1804.06872).

What can not be known, and how it shows:
- Worth is relative: shares add up to one, so zero is the average of the buffers, and a fleet that
  is bad in all its sites has worths around zero.
- Sites that are always in the same buffers share their joint worth, and their errors stay large; so
  does the error of a site whose share never changes.
- No value is given before a site was in `least_versions` versions.
- Judges can lie.  A lie is bounded, not noticed: who reports a large loss does not judge, nobody's
  rows count more than four times the median's, and one version moves no sum far.
- A value says what a site's updates did to the loss of the judging half.  A site whose machines are
  unlike all others looks useless by it and need not be: not a ground for payment or exclusion by
  itself.

Refuses observations out of order, shares that do not add up to one, numbers that are not finite.
Invariant: memory is a square of the number of sites, at most MAX_SITES; no observation is kept.
Pure: no clock, no I/O.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Member
from wire.errors import MalformedError, TooLargeError
from wire.settings import Settings

Values = NDArray[np.float64]

MAX_SITES: Final = 1000
"""8 MB of sums, 0.2 s for an estimate; past it the site least seen lately is dropped."""
MAX_BYTES: Final = 8 << 20
_FORMAT: Final = 1
_LEVEL_MEMORY: Final = 0.9
"""Of the common curve: ten versions.  With .8, .85 and .95 the AUC is the same within .005."""
_LEAST_BEHIND: Final = 6.0
"""Versions behind the level: the first nine, where the curve is steepest, only set it.  Else two
errors hold the truth in 80 % of the cases."""
_FAR: Final = 5.0
"""Mean absolute deviations from the level to which an improvement is cut."""
_MOST_ROWS: Final = 4.0
"""Times the median judge's rows that one judge can count."""
_STRENGTHS: Final = 2.0 ** np.arange(-6, 5)
"""Of the ridge, in units of the mean information about a site.  Up to 64 instead of 16, two errors
hold the truth in 88 % instead of 95 % of the cases where noise is large."""
_SHARES_TOLERANCE: Final = 1e-6


class ContributionSettings(Settings, frozen=True, kw_only=True):
    """The `[contribution]` table.

    Attributes:
      half_life_versions: an observation this many versions old counts half.
      least_versions: a site that was in fewer is given no value.
      judges: share of the reporters, those with the lowest loss, whose word counts; 1: all.
    """

    half_life_versions: Annotated[float, msgspec.Meta(ge=10, le=1e6)] = 350.0
    least_versions: Annotated[int, msgspec.Meta(ge=3, le=100_000)] = 20
    judges: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5


@dataclass(frozen=True)
class Observation:
    """One version: who was in it and how much better it is than the one before.

    Attributes:
      version: its number; observations come in this order, and some may be missing.
      shares: of its buffer's weight, by site; positive, and their sum is 1.
      improvement: validation loss of the version before minus that of this one, at the same judges.
      rows: held-out rows behind the improvement.
    """

    version: int
    shares: Mapping[str, float]
    improvement: float
    rows: int


@dataclass(frozen=True)
class SiteContribution:
    """What a site brings.

    Attributes:
      site: its name.
      value: by how much more the loss drops in a version with the site, at its usual share, than
        if that share were the average's; None before `least_versions`.
      error: one standard deviation of it; None where the value is.
      versions: how many the site was in.
      as_of: newest version accounted for.
    """

    site: str
    value: float | None
    error: float | None
    versions: int
    as_of: int


def membership(members: Iterable[Member]) -> dict[str, float]:
    """Each site's share of a buffer's weight; the shares add up to 1."""
    return shares((member.site, member.weight) for member in members)


def shares(updates: Iterable[tuple[str, int]]) -> dict[str, float]:
    """As `membership`, of (site, weight) of each update; empty when there is none."""
    weights: dict[str, int] = {}
    for site, weight in updates:
        weights[site] = weights.get(site, 0) + weight
    total = sum(weights.values())
    return {site: weight / total for site, weight in sorted(weights.items()) if weight > 0}


def improvement(
    before: Mapping[str, tuple[float, int]],
    after: Mapping[str, tuple[float, int]],
    judges: float = 0.5,
) -> tuple[float, int] | None:
    """Mean drop of the loss over the judges, and their held-out rows.

    Args:
      before: (mean loss of a row, rows) of the earlier version, by reporter.
      after: the same of the later version.
      judges: share of the reporters, those with the lowest loss, that is asked.

    Returns:
      None when nobody reported on both.
    """
    both = [
        (was + now, was - now, min(rows_before, rows_after))
        for reporter in sorted(before.keys() & after.keys())
        for (was, rows_before), (now, rows_after) in [(before[reporter], after[reporter])]
        if math.isfinite(was + now) and min(rows_before, rows_after) > 0
    ]
    if not both:
        return None
    level, drop, rows = np.array(both, np.float64).T
    asked = np.argsort(level, kind="stable")[: math.ceil(judges * len(both))]
    # A site can claim any number of rows; it would be the only judge.
    weights = np.minimum(rows, _MOST_ROWS * np.median(rows))[asked]
    return float(weights @ drop[asked] / weights.sum()), int(rows[asked].sum())


def estimate(
    observations: Iterable[Observation], settings: ContributionSettings
) -> list[SiteContribution]:
    """What each site brings, from observations in the order of their versions.

    Raises:
      ValueError: an observation can not be one, or is out of order.
    """
    accounting = Accounting(settings)
    for observation in observations:
        accounting = accounting.add(observation)
    return accounting.estimate()


def _nothing() -> Values:
    return np.zeros(0)


@dataclass(frozen=True)
class Accounting:
    """Sums that stand for all observations so far; S sites.

    Attributes:
      settings: how fast it forgets, and what it shows.
      version: newest one accounted for; -1 before the first.
      sites: whose rows and columns follow, in order of first appearance.
      level: recent means of improvement, of rows and of how far an improvement was off the level,
        and the versions behind them, forgetting: float64, shape (4,).
      level_shares: recent mean of the sites' shares, shape (S,).
      gram: X'WX, information about sites' shares off the level, shape (S, S).
      moment: X'Wy, shape (S,).
      square: y'Wy.
      weight: sum of W, in versions.
      versions: how many each site was in, int64, shape (S,).
      presence: the same, forgetting, shape (S,).
      usual: sum of the shares when it was in, forgetting, shape (S,).
    """

    settings: ContributionSettings
    version: int = -1
    sites: tuple[str, ...] = ()
    level: Values = field(default_factory=lambda: np.zeros(4))
    level_shares: Values = field(default_factory=_nothing)
    gram: Values = field(default_factory=lambda: np.zeros((0, 0)))
    moment: Values = field(default_factory=_nothing)
    square: float = 0.0
    weight: float = 0.0
    versions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    presence: Values = field(default_factory=_nothing)
    usual: Values = field(default_factory=_nothing)

    def add(self, observation: Observation) -> "Accounting":
        """The sums with one version more; these are not changed.

        Raises:
          ValueError: the observation can not be one, or is not newer than what is in the sums.
        """
        _check(observation, self.version)
        grown = _with_room_for(self, observation.shares)
        x = np.array([observation.shares.get(site, 0.0) for site in grown.sites])
        return _leveled(_folded(grown, observation, x), observation, x)

    def estimate(self) -> list[SiteContribution]:
        """What each site brings, in the order of their names."""
        values, errors = _worths(self)
        order = sorted(range(len(self.sites)), key=self.sites.__getitem__)
        return [_shown(self, at, float(values[at]), float(errors[at])) for at in order]

    def to_bytes(self) -> bytes:
        """The sums as MessagePack; the settings are not in it."""
        upper = np.triu_indices(len(self.sites))
        return msgspec.msgpack.encode(
            _Stored(
                format=_FORMAT,
                version=self.version,
                sites=self.sites,
                scalars=(self.square, self.weight),
                level=_packed(self.level),
                level_shares=_packed(self.level_shares),
                gram=_packed(self.gram[upper]),
                moment=_packed(self.moment),
                versions=tuple(self.versions.tolist()),
                presence=_packed(self.presence),
                usual=_packed(self.usual),
            )
        )


class _Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Accounting` as bytes: float64 little-endian; of the gram matrix the upper triangle."""

    format: int
    version: Annotated[int, msgspec.Meta(ge=-1, lt=1 << 53)]
    sites: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=63)], ...],
        msgspec.Meta(max_length=MAX_SITES),
    ]
    scalars: tuple[float, float]
    level: bytes
    level_shares: bytes
    gram: bytes
    moment: bytes
    versions: tuple[Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)], ...]
    presence: bytes
    usual: bytes


def from_bytes(data: bytes, settings: ContributionSettings) -> Accounting:
    """Read what `Accounting.to_bytes` gave.

    Raises:
      TooLargeError: more bytes than MAX_SITES need.
      MalformedError: not such bytes; start anew with `Accounting(settings)`.
    """
    if len(data) > MAX_BYTES:
        raise TooLargeError(f"contribution sums of {len(data)} bytes; at most {MAX_BYTES}")
    try:
        stored = msgspec.msgpack.decode(data, type=_Stored)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(f"contribution sums: {error}") from error
    count = len(stored.sites)
    if stored.format != _FORMAT:
        raise MalformedError(f"contribution sums of format {stored.format}, expected {_FORMAT}")
    if len(set(stored.sites)) != count or len(stored.versions) != count:
        raise MalformedError("contribution sums: sites are named twice or not counted")
    gram = np.zeros((count, count))
    gram[np.triu_indices(count)] = _unpacked("gram", stored.gram, count * (count + 1) // 2)
    gram = np.maximum(gram, 0) * np.eye(count) + np.triu(gram, 1) + np.triu(gram, 1).T
    accounting = Accounting(
        settings=settings,
        version=stored.version,
        sites=stored.sites,
        level=_unpacked("level", stored.level, 4),
        level_shares=_unpacked("level_shares", stored.level_shares, count),
        gram=gram,
        moment=_unpacked("moment", stored.moment, count),
        square=stored.scalars[0],
        weight=stored.scalars[1],
        versions=np.array(stored.versions, np.int64),
        presence=_unpacked("presence", stored.presence, count),
        usual=_unpacked("usual", stored.usual, count),
    )
    _check_sums(accounting)
    return accounting


def _shown(sums: Accounting, at: int, value: float, error: float) -> SiteContribution:
    versions = int(sums.versions[at])
    is_known = versions >= sums.settings.least_versions and math.isfinite(error)
    return SiteContribution(
        sums.sites[at],
        value if is_known else None,
        error if is_known else None,
        versions,
        sums.version,
    )


def _with_room_for(sums: Accounting, wanted: Iterable[str]) -> Accounting:
    """The same with a row for each site; a site that was never in has been off by nothing."""
    joining = tuple(sorted(set(wanted) - set(sums.sites)))
    if not joining:
        return sums
    over = len(sums.sites) + len(joining) - MAX_SITES
    kept = _without_least_seen(sums, over, set(wanted)) if over > 0 else sums
    more = len(joining)
    return replace(
        kept,
        sites=kept.sites + joining,
        level_shares=np.pad(kept.level_shares, (0, more)),
        gram=np.pad(kept.gram, (0, more)),
        moment=np.pad(kept.moment, (0, more)),
        versions=np.pad(kept.versions, (0, more)),
        presence=np.pad(kept.presence, (0, more)),
        usual=np.pad(kept.usual, (0, more)),
    )


def _without_least_seen(sums: Accounting, number: int, needed: set[str]) -> Accounting:
    order = sorted(range(len(sums.sites)), key=lambda at: float(sums.presence[at]))
    gone = [at for at in order if sums.sites[at] not in needed][:number]
    keep = np.delete(np.arange(len(sums.sites)), gone)
    return replace(
        sums,
        sites=tuple(sums.sites[at] for at in keep),
        level_shares=sums.level_shares[keep],
        gram=sums.gram[np.ix_(keep, keep)],
        moment=sums.moment[keep],
        versions=sums.versions[keep],
        presence=sums.presence[keep],
        usual=sums.usual[keep],
    )


def _folded(sums: Accounting, observation: Observation, x: Values) -> Accounting:
    """What is off the level goes into the regression's sums."""
    kept = 0.5 ** ((observation.version - sums.version) / sums.settings.half_life_versions)
    mean, rows, spread, behind = sums.level.tolist()
    weight = off = 0.0
    dx = np.zeros_like(x)
    if behind >= _LEAST_BEHIND:
        # The level itself is a mean of `behind` versions, so the difference varies by more.
        weight = behind / (behind + 1) * min(observation.rows / rows, 1.0)
        dx, off = x - sums.level_shares, _cut(observation.improvement - mean, spread)
    is_in = x > 0
    return replace(
        sums,
        version=observation.version,
        gram=kept * sums.gram + weight * np.outer(dx, dx),
        moment=kept * sums.moment + weight * off * dx,
        square=kept * sums.square + weight * off * off,
        weight=kept * sums.weight + weight,
        versions=sums.versions + is_in,
        presence=kept * sums.presence + is_in,
        usual=kept * sums.usual + x,
    )


def _leveled(sums: Accounting, observation: Observation, x: Values) -> Accounting:
    """The observation goes into the recent means."""
    mean, rows, spread, behind = sums.level.tolist()
    off = observation.improvement - mean
    if behind > 0:  # as many differences as versions before this one
        off = _cut(off, spread)
        spread += (abs(off) - spread) / behind
    behind = _LEVEL_MEMORY * behind + 1.0
    mean += off / behind
    rows += (observation.rows - rows) / behind
    level_shares = sums.level_shares + (x - sums.level_shares) / behind
    level = np.array([mean, rows, spread, behind])
    return replace(sums, level=level, level_shares=level_shares)


def _worths(sums: Accounting) -> tuple[Values, Values]:
    """Values and errors, shape (S,) each; zero and infinity before anything is known."""
    count = len(sums.sites)
    typical = float(np.trace(sums.gram)) / max(count, 1)
    if sums.weight <= 3.0 or typical <= 0.0 or sums.usual.sum() <= 0.0:
        return np.zeros(count), np.full(count, np.inf)
    information, directions = np.linalg.eigh(sums.gram)
    information = np.maximum(information, 0.0)
    projected = directions.T @ sums.moment
    # Relative to the buffers' average, and at the share that the site usually has.
    turned = directions - (sums.usual / sums.usual.sum()) @ directions
    turned *= (sums.usual / np.maximum(sums.presence, 1e-300))[:, None]
    squared = turned * turned
    evidence, means, variances = [], [], []
    for strength in typical * _STRENGTHS:
        shrunk = information + strength
        misfit = sums.square - float(np.sum(projected * projected / shrunk))
        misfit = max(misfit, 1e-12 * sums.square, 1e-300)
        evidence.append((np.log(strength / shrunk).sum() - sums.weight * math.log(misfit)) / 2)
        means.append(turned @ (projected / shrunk))
        variances.append(misfit / (sums.weight - 2.0) * (squared @ (1.0 / shrunk)))
    belief = np.exp(np.array(evidence) - max(evidence))
    belief /= belief.sum()
    values = belief @ np.array(means)
    spread = belief @ (np.array(variances) + (np.array(means) - values) ** 2)
    return values, np.sqrt(spread)


def _check_sums(accounting: Accounting) -> None:
    parts = {
        "level": accounting.level,
        "level_shares": accounting.level_shares,
        "gram": accounting.gram,
        "moment": accounting.moment,
        "scalars": np.array([accounting.square, accounting.weight]),
        "presence": accounting.presence,
        "usual": accounting.usual,
    }
    for name, part in parts.items():
        may_be_negative = name in {"level", "gram", "moment"}
        if not np.isfinite(part).all() or not (may_be_negative or (part >= 0).all()):
            raise MalformedError(f"contribution sums: {name} holds a number that none of it can be")
    if accounting.level[1:].min() < 0:
        raise MalformedError("contribution sums: level holds a negative count")
    if accounting.level[3] > 0 and accounting.level[1] == 0:
        raise MalformedError("contribution sums: level is of versions that nobody judged")


def _check(observation: Observation, newest: int) -> None:
    if observation.version <= newest:
        raise ValueError(f"version {observation.version} after {newest}; give them in order, once")
    given = observation.shares.values()
    if not all(math.isfinite(share) and share > 0 for share in given):
        raise ValueError(f"version {observation.version} has a share that is not positive")
    if abs(sum(given) - 1.0) > _SHARES_TOLERANCE:
        raise ValueError(f"version {observation.version}: shares add up to {sum(given):.9g}, not 1")
    if len(observation.shares) > MAX_SITES:
        raise ValueError(f"version {observation.version} has over {MAX_SITES} sites")
    if not math.isfinite(observation.improvement) or observation.rows < 1:
        raise ValueError(
            f"version {observation.version}: improvement {observation.improvement} "
            f"on {observation.rows} rows says nothing; leave it out"
        )


def _cut(off: float, spread: float) -> float:
    """A distance from the level, at most a few times what is usual, once something is."""
    return min(max(off, -_FAR * spread), _FAR * spread) if spread > 0 else off


def _packed(values: Values) -> bytes:
    return values.astype("<f8").tobytes()


def _unpacked(name: str, data: bytes, count: int) -> Values:
    if len(data) != 8 * count:
        raise MalformedError(f"contribution sums: {name} has {len(data)} bytes, not {8 * count}")
    values = np.frombuffer(data, "<f8").astype(np.float64)
    if not np.isfinite(values).all():
        raise MalformedError(f"contribution sums: {name} holds a number that is not finite")
    return values

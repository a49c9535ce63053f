"""What a person sees of a federation: one frozen tree of plain values.

The page, the metrics and the terminal all show a `View`, so they can not disagree; `coordinator/
reader.py` makes it from `coordinator.db`.  Here are the values, and the arithmetic on them that
needs no file: pooling over sites, presence on the link, which versions were abandoned.

Refuses to decide what is good: that is the gate's.  Invariant: where the charter asks for more than
one site behind a published figure (`About.k_min`), no field holds a figure of fewer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wire.figures import LOWER_IS_BETTER

WINDOW_S: Final = 3600.0
"""What "the last hour" is."""
_SHORTEST_GAP: Final = 1 / 360
"""Of the window: shorter breaks of a link are not drawn, so that 180 stretches are the most."""


@dataclass(frozen=True)
class About:
    """What configuration and charter say, which the database does not.

    Attributes:
      goal: updates that complete the buffer.
      k_min: least number of distinct sites behind a figure that is shown.
    """

    federation: str
    bundle: str
    revision: int
    strategy: str
    goal: int
    k_min: int


@dataclass(frozen=True)
class Point:
    """Quality of one model at one version, pooled over the sites that judged it."""

    version: int
    model: str
    value: float
    sites: int
    rows: int


@dataclass(frozen=True)
class Span:
    """Versions `first` to `last` of a lineage that was given up."""

    lineage: int
    first: int
    last: int


@dataclass(frozen=True)
class Served:
    """One entry of the history of what was served.

    Attributes:
      since_version: newest version of `train` when this one began to be served.
    """

    number: int
    version: int
    lineage: int
    since_version: int
    at: float


@dataclass(frozen=True)
class Decision:
    """What the gate or a person decided.

    Attributes:
      version: the candidate, or the first version of the new lineage that the decision began.
      at_version: newest version of `train` at that moment.
      served: version that was served from then on; None where it is not known any more.
    """

    number: int
    version: int
    lineage: int
    verdict: str
    reason: str
    at: float
    at_version: int
    served: int | None

    @property
    def is_turning_back(self) -> bool:
        """Whether it began a new lineage from what was served before."""
        return self.verdict in ("abandoned", "rolled back")


@dataclass(frozen=True)
class Quality:
    """The chart of quality over versions; figures are of one metric."""

    metric: str
    points: tuple[Point, ...]
    abandoned: tuple[Span, ...]
    served: tuple[Served, ...]
    first_version: int

    @property
    def is_lower_better(self) -> bool:
        """Whether a smaller figure is the better one."""
        return self.metric in LOWER_IS_BETTER

    def newest(self, model: str, version: int | None = None) -> Point | None:
        """The newest point of a model, or the one at a version."""
        found = [
            point
            for point in self.points
            if point.model == model and version in (None, point.version)
        ]
        return found[-1] if found else None


@dataclass(frozen=True)
class Choice:
    """Which model an agent serves, and why."""

    agent: str
    model: str
    normalisation: str
    reason: str


@dataclass(frozen=True)
class Contribution:
    """By how much versions were better with a site in them than without; `error` is one sigma."""

    site: str
    value: float
    error: float
    versions: int
    as_of: int


@dataclass(frozen=True)
class Site:
    """One site's newest figures, and how they came about.

    Attributes:
      metric: of its figures: mean loss where it has too few rows for a figure of the federation's.
      figures: of the newest version (`train`), of what is served (`serve`), of what it scores with
        itself (`chosen`); what is not known is left out.
      train_history, serve_history: (version, value), oldest first; what it scores with in steps.
    """

    site: str
    metric: str
    rows: int
    figures: dict[str, float]
    train_history: tuple[tuple[int, float], ...]
    serve_history: tuple[tuple[int, float], ...]
    choices: tuple[Choice, ...]
    contribution: Contribution | None


@dataclass(frozen=True)
class Presence:
    """An agent's link during the last hour.

    Attributes:
      share: of the part of the hour that is known, None where nothing is.
      since: beginning of the present unbroken time online, None when offline or unknown.
      stretches: online, as fractions of the hour (0: an hour ago, 1: now).
    """

    share: float | None = None
    since: float | None = None
    stretches: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Agent:
    """One agent: its link, what became of its updates, and the operator's last order to it."""

    agent: str
    site: str
    status: str
    presence: Presence
    folded: int
    refused: int
    waiting: int
    last_seen: float | None
    is_paused: bool
    order: str


@dataclass(frozen=True)
class Buffer:
    """What waits to become a version; `oldest_at` is None when it is empty."""

    members: int
    goal: int
    agents: int
    sites: int
    oldest_at: float | None


@dataclass(frozen=True)
class Updates:
    """What became of all updates.

    Attributes:
      outcomes: number by status.
      duplicates: offers of what was here already.
      reasons: (reason with its numbers taken out, how often) of the newest that were not folded.
      staleness: folded updates by staleness, of all time.
      recent_staleness: the same of the newest.
    """

    outcomes: dict[str, int]
    duplicates: int
    reasons: tuple[tuple[str, int], ...]
    staleness: dict[int, int]
    recent_staleness: dict[int, int]


@dataclass(frozen=True)
class Alarm:
    """What a person has to look at."""

    agent: str
    kind: str
    detail: str
    number: int
    last_at: float


@dataclass(frozen=True)
class View:
    """Everything, as of one moment.

    Attributes:
      number: grows whenever the file was read again.
      read_at, read_s: wall clock, and seconds that reading took.
      version: newest version; None before the coordinator ran for the first time.
      threshold: score from which rows raise alarms with what is served; None: the bundle's.
      is_cohort_only: figures of single sites are left out, because of `About.k_min`.
      choices: how many agents serve which model, (model, normalisation, agents).
      agents, sites: the first of them by name; `agent_count`, `site_count` say how many there are.
      statuses: number of agents by status.
      servable: versions that were served before and are kept for a rollback, newest first.
    """

    number: int
    read_at: float
    read_s: float
    about: About
    run: int
    training: str
    version: int | None
    version_at: float | None
    version_members: int
    lineage: int
    head: int
    serve: int | None
    threshold: float | None
    candidate: int | None
    quality: Quality
    is_cohort_only: bool
    sites: tuple[Site, ...]
    site_count: int
    choices: tuple[tuple[str, str, int], ...]
    buffer: Buffer
    updates: Updates
    agents: tuple[Agent, ...]
    agent_count: int
    statuses: dict[str, int]
    decisions: tuple[Decision, ...]
    verdicts: dict[str, int]
    alarms: tuple[Alarm, ...]
    alarm_counts: dict[str, int]
    servable: tuple[int, ...]


@dataclass(frozen=True)
class Sums:
    """Added figures of several sites: sums of rows, rows x value, rows x value squared."""

    rows: int
    weighted: float
    squared: float


def pooled(metric: str, sums: Sums) -> float | None:
    """One figure of several sites' figures; None where it is not a number.

    The mean over sites, weighted by held-out rows; of RMSE the root of the mean of squares.  Exact
    for these, loss, MAE and accuracy.  Areas under curves do not add: theirs is used only where the
    counts of all sites, which do add, are gone.
    """
    if sums.rows <= 0:
        return None
    if metric == "rmse":
        value = math.sqrt(max(sums.squared, 0.0) / sums.rows)
    else:
        value = sums.weighted / sums.rows
    return value if math.isfinite(value) else None


def presence(events: Sequence[tuple[float, str]], now: float) -> Presence:
    """An agent's link during the hour before `now`.

    Args:
      events: (when, `online` or `offline`), oldest first; may begin before the hour.
      now: wall clock, seconds.
    """
    begin, since, online = now - WINDOW_S, None, 0.0
    known_from: float | None = None
    stretches: list[tuple[float, float]] = []
    for number, (at, status) in enumerate(events):
        end = events[number + 1][0] if number + 1 < len(events) else now
        first, last = min(max(at, begin), now), min(max(end, begin), now)
        known_from = first if known_from is None else known_from
        if status == "online":
            since = at if since is None else since
            online += last - first
            stretches = _joined(stretches, (first - begin) / WINDOW_S, (last - begin) / WINDOW_S)
        else:
            since = None
    known = now - known_from if known_from is not None else 0.0
    share = online / known if known > 0 else None
    return Presence(share, since, tuple(stretches))


def _joined(
    stretches: list[tuple[float, float]], first: float, last: float
) -> list[tuple[float, float]]:
    if last <= first:
        return stretches
    if stretches and first - stretches[-1][1] < _SHORTEST_GAP:
        return [*stretches[:-1], (stretches[-1][0], round(last, 4))]
    return [*stretches, (round(first, 4), round(last, 4))]


def abandoned(
    versions: Sequence[tuple[int, int, float]], served: Sequence[Served], lineage: int, now: float
) -> tuple[Span, ...]:
    """Which versions lead nowhere: those after the version that the next lineage began from.

    A failed gate and a rollback both begin a new lineage from what is served then.

    Args:
      versions: (version, lineage, when), oldest first.
      served: history of what was served, oldest first.
      lineage: the present one.
      now: wall clock, for a lineage that has no version yet.
    """
    spans: list[Span] = []
    old = sorted({item for _, item, _ in versions if item < lineage})
    for given_up in old:
        members = [version for version, item, _ in versions if item == given_up]
        ended = min((at for _, item, at in versions if item > given_up), default=now)
        good = max((entry for entry in served if entry.at <= ended), key=_age, default=None)
        lost = [version for version in members if good is None or version > good.version]
        if lost:
            spans.append(Span(given_up, lost[0], lost[-1]))
    return tuple(spans)


def _age(entry: Served) -> int:
    return entry.number

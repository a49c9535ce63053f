"""What the demo's observer saw of one run: the only input of the report.

Responsible for the shape of that record and for the questions that every reader of it asks (which
federated version counts, which baseline counts, who was the best alone, what crossed each link).
Refuses, with `ValueError`, a record that cannot answer them.  Invariant: a record holds numbers
that were measured, never an opinion; wording and rounding belong to `shopfloor/report_words.py`.

Times `t_s` are seconds of wall time since the run began.  Qualities are in 0..1.
"""

import msgspec


class SiteQuality(msgspec.Struct, frozen=True):
    """A model judged on one site's held-out rows; None where those rows hold only one class."""

    pr_auc: float | None
    roc_auc: float | None


class ModelQuality(msgspec.Struct, frozen=True):
    """A model judged on all sites' held-out rows together, and on each site's own."""

    pr_auc: float
    roc_auc: float
    per_site: dict[str, SiteQuality]


class QualityPoint(msgspec.Struct, frozen=True):
    """A federated version, judged as `ModelQuality` is; `t_s` is when it was published."""

    t_s: float
    version: int
    pr_auc: float
    roc_auc: float
    per_site: dict[str, SiteQuality]


class BaselinePoint(msgspec.Struct, frozen=True):
    """Training without federation, on the rows that had arrived by `t_s`.

    Attributes:
      pooled: one model trained on every site's rows, which no federation would be allowed to see.
      local: by site, a model trained on that site's rows only.
    """

    t_s: float
    pooled: ModelQuality
    local: dict[str, ModelQuality]


class Outage(msgspec.Struct, frozen=True):
    """One site's link was down from `down_s` to `up_s` (or to the end of the run)."""

    site: str
    down_s: float
    up_s: float


class Traffic(msgspec.Struct, frozen=True):
    """Bytes that had crossed one site's link by `t_s`, counted from the start of the run."""

    site: str
    t_s: float
    up_bytes: int
    down_bytes: int


class UpdateCounts(msgspec.Struct, frozen=True):
    """Where the updates went.  At the end: produced = folded + refused + void + dropped + lost.

    Attributes:
      duplicates: copies that arrived again and were dropped; they are not among `produced`.
      lost: updates without an outcome when the run had ended.
    """

    produced: int = 0
    folded: int = 0
    refused: int = 0
    void: int = 0
    dropped: int = 0
    duplicates: int = 0
    lost: int = 0

    @property
    def with_outcome(self) -> int:
        """Updates that have one of the four terminal outcomes."""
        return self.folded + self.refused + self.void + self.dropped

    @property
    def on_the_way(self) -> int:
        """Updates still without an outcome and not given up: in an outbox or on the wire."""
        return self.produced - self.with_outcome - self.lost


class SiteSummary(msgspec.Struct, frozen=True):
    """One site over the whole run.

    Attributes:
      rows: rows that the agent learned from (its own, arrived during the run).
      failures: how many of `rows` are failures.
      held_out_rows: rows that no agent saw, kept for judging.
      held_out_failures: how many of `held_out_rows` are failures.
      produced: updates that the site's agent wrote to its outbox.
      folded: how many of them became part of a version.
      staleness_mean: versions between an update's base and the fold, mean over folded updates.
      link_down_share: part of the run's time, 0..1, that the site's link was down.
    """

    site: str
    rows: int
    failures: int
    held_out_rows: int
    held_out_failures: int
    produced: int
    folded: int
    staleness_mean: float | None
    link_down_share: float


class Event(msgspec.Struct, frozen=True):
    """Something worth telling, in a short sentence without a full stop."""

    t_s: float
    text: str


class SitePrivacy(msgspec.Struct, frozen=True):
    """What a site's updates have cost, by its own ledger.

    Attributes:
      epsilon: spent, at the run's delta.
      releases: updates that were charged.
      produced: updates that were made.
    """

    site: str
    epsilon: float
    releases: int
    produced: int


class Secured(msgspec.Struct, frozen=True):
    """What a run with masks says beside the others.

    Attributes:
      sums: sums that the helpers opened: versions, and evaluations.
      smallest: least number of sites behind any of them.
      k_min: the charter's.
      plain_pr_auc, plain_roc_auc: of the same factories without masks and noise.
      plain_bytes: bytes of payload sent up per update there.
      noise_multiplier: 0 without differential privacy.
      budget, delta: each site's, where there is one.
    """

    sums: int
    smallest: int
    k_min: int
    plain_pr_auc: float
    plain_roc_auc: float
    plain_bytes: float
    noise_multiplier: float = 0.0
    budget: float = 0.0
    delta: float = 0.0
    sites: list[SitePrivacy] = []


class RunRecord(msgspec.Struct, frozen=True):
    """One run of the demo, in time order wherever there is a list of points.

    Attributes:
      data: "generated", or the name of the replayed file.
      quality: one point per judged federated version; must contain `serve_version`.
      baselines: at least one; the last is trained on all rows and is what the report compares.
      bytes_per_update: bytes of payload sent up per produced update, mean.
      link_down_share: mean over the sites, 0..1.
      versions: federated versions published, the initial one not counted.
      serve_version: the version that the sites served at the end.
      secured: of a run with masks.
    """

    seed: int
    data: str
    strategy: str
    wall_s: float
    sites: list[SiteSummary]
    quality: list[QualityPoint]
    baselines: list[BaselinePoint]
    outages: list[Outage]
    traffic: list[Traffic]
    updates: UpdateCounts
    bytes_per_update: float
    link_down_share: float
    versions: int
    serve_version: int
    events: list[Event]
    secured: Secured | None = None


def served_quality(record: RunRecord) -> QualityPoint:
    """The quality of the version that the sites served when the run ended.

    Raises:
      ValueError: that version was never judged.
    """
    for point in reversed(record.quality):
        if point.version == record.serve_version:
            return point
    raise ValueError(
        f"served version {record.serve_version} has no quality point: judge it before closing"
    )


def final_baseline(record: RunRecord) -> BaselinePoint:
    """Own-data-only and pooled training on all rows of the run.

    Raises:
      ValueError: there is no baseline, or it lacks a site.
    """
    if not record.baselines:
        raise ValueError(
            "the record has no baseline: train local and pooled models before closing it"
        )
    last = record.baselines[-1]
    missing = sorted({summary.site for summary in record.sites} - last.local.keys())
    if missing:
        raise ValueError(
            f"the last baseline has no own-data-only model of site {', '.join(missing)}"
        )
    return last


def best_alone(record: RunRecord) -> tuple[str, ModelQuality]:
    """The site whose own-data-only model ranks all sites' held-out rows best (by PR-AUC)."""
    local = final_baseline(record).local
    site = max(local, key=lambda name: local[name].pr_auc)
    return site, local[site]


def bytes_crossed(record: RunRecord) -> dict[str, tuple[int, int]]:
    """Bytes up and down over each site's link in the whole run; zeros where none were counted."""
    crossed = {site.site: (0, 0) for site in record.sites}
    for sample in record.traffic:
        crossed[sample.site] = (sample.up_bytes, sample.down_bytes)
    return crossed

"""What was measured of one job's run: the only input of its report.

Responsible for the shape of the record.  Invariant: it holds numbers that were measured, never an
opinion.  Qualities are in the unit of the job's metric: 0..1 for PR-AUC, ROC-AUC and accuracy,
the label's unit for RMSE.  None where test rows can not tell, such as rows of one class.
Times are seconds since learning began.
"""

import msgspec

from shopfloor.jobs.task import Metric
from shopfloor.record import Outage, UpdateCounts


class Qualities(msgspec.Struct, frozen=True):
    """The four ways to get a model, judged on the same test rows.

    Attributes:
      local: trained on the site's own rows alone; over all sites' rows: the mean of those models.
      federated: the federation's served version.
      personal: what each site serves: that version or a model of its own, as it chose.
      pooled: trained on all sites' rows in one place, which nobody may do.
    """

    local: float | None
    federated: float | None
    personal: float | None
    pooled: float | None


class Difference(msgspec.Struct, frozen=True):
    """Of two models on the same rows, better being positive; 95 % by paired bootstrap."""

    value: float
    low: float
    high: float


class SiteResult(msgspec.Struct, frozen=True):
    """One site.

    Attributes:
      rows: it learned from.
      test_rows: that judge.
      test_positives: of them failures or late orders, where the job has two classes.
      quality: on its own test rows.
      serves: what it chose to serve, in words.
      over_local: personal beyond local; None where the rows can not tell.
      produced, folded: its updates.
      down_share: part of the time without link.
      sent_bytes: that left its gateway, by category of the egress log.
    """

    name: str
    rows: int
    test_rows: int
    test_positives: int | None
    quality: Qualities
    serves: str
    over_local: Difference | None
    produced: int
    folded: int
    down_share: float
    sent_bytes: dict[str, int]


class CoursePoint(msgspec.Struct, frozen=True):
    """A served version, judged on all sites' test rows."""

    t_s: float
    version: int
    quality: float | None


class Drift(msgspec.Struct, frozen=True):
    """What became of a site whose data were moved.

    Attributes:
      site: whose.
      moved: what was done to its data, in words.
      before, after: the served version on its own test rows as they were, and moved likewise.
      alarm: the coordinator's words; empty when it raised none.
      alarm_s: from the first moved row to the alarm; None without one.
    """

    site: str
    moved: str
    before: float | None
    after: float | None
    alarm: str
    alarm_s: float | None


class Newcomer(msgspec.Struct, frozen=True):
    """A site that joined when training was over and trained nothing, so all its rows judge.

    Attributes:
      site: its name.
      rows: that judge.
      quality: of what it is served, on these rows.
      members_there: mean of what the members serve at home, on the same rows.
      over_members: how much better the first is.
      members: the members' mean of the federation's model, each on its own test rows.
      on_its_rows: what it would have with a model of its own rows alone, on its test rows.
    """

    site: str
    rows: int
    quality: float | None
    members_there: float | None
    over_members: Difference | None
    members: float | None
    on_its_rows: float | None


class Unseen(msgspec.Struct, frozen=True):
    """A class that a site has never seen: how many of it are found in its test rows.

    Attributes:
      site, label: which.
      rows: test rows of that class.
      local, federated, personal, pooled: of them found.
    """

    site: str
    label: str
    rows: int
    local: int
    federated: int
    personal: int
    pooled: int


class Proposals(msgspec.Struct, frozen=True):
    """Set-points proposed from what was learned, on a line whose optimum is known.

    Attributes:
      unit: of regret.
      people, local, federated, pooled: mean regret against the optimum: as people run it, and from
        each model (of the sites' own ones the mean).
      best_local: the least of the sites' own.
    """

    unit: str
    people: float
    local: float
    best_local: float
    federated: float
    pooled: float


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
      task, title, metric, unit: of the job; `unit` is the label's for RMSE.
      data: "generated", or the name of what was read.
      overall: on all sites' test rows together.
      own: mean over the sites that can be judged, each on its own test rows.
      versions: that were made.
      served: the version served in the end.
      threshold: from which score on an alarm is raised, and who says so, in words; empty: none.
      channels: what the agents were told to read.
      unread: columns of the sites' files that no agent was told to read.
    """

    task: str
    title: str
    metric: Metric
    unit: str
    data: str
    seed: int
    wall_s: float
    sites: list[SiteResult]
    overall: Qualities
    own: Qualities
    course: list[CoursePoint]
    outages: list[Outage]
    updates: UpdateCounts
    versions: int
    served: int
    down_share: float
    threshold: str = ""
    channels: list[str] = []
    unread: list[str] = []
    drift: Drift | None = None
    newcomer: Newcomer | None = None
    unseen: Unseen | None = None
    proposals: Proposals | None = None

"""Watching a run: what the statuses, the links' log and the witness's ledger say right now.

Reads only.  `Watch` keeps what it has read so far and turns it into the live view, the judged
versions and, at the end, the record that the report is made from.
"""

import time
from dataclasses import dataclass, field

import msgspec
import numpy as np

from agent.outbox import Entry, Outbox
from agent.status import Status, read_status
from coordinator.config import DATABASE
from coordinator.store import Store
from shopfloor.baselines import RESULT, SCORES, judge, load_model
from shopfloor.ledger import HeadFact, Ledger, UpdateId, account
from shopfloor.link_log import LinkLog
from shopfloor.live import FleetView, SiteView
from shopfloor.plant import FEDERATION, Plant, Site
from shopfloor.record import (
    BaselinePoint,
    Event,
    QualityPoint,
    RunRecord,
    SiteSummary,
    UpdateCounts,
)
from wire.messages import TERMINAL
from wire.tensors import Params

DRAIN_S = 15.0
"""How long draining usually takes; only the progress bar believes it."""


@dataclass
class Watch:
    """What is known of one run."""

    plant: Plant
    ledger: Ledger
    links: LinkLog
    events: list[Event] = field(default_factory=list)
    quality: list[QualityPoint] = field(default_factory=list)
    phase: str = "starting"
    message: str = ""
    started_wall: float = 0.0

    def __post_init__(self) -> None:
        self._model, self._start = load_model(self.plant.directory)
        self._held_out = {site.name: site.held_out for site in self.plant.sites}
        self._judged: set[str] = set()
        self._rounds = 0

    def begin(self) -> None:
        """Second 0: production starts now."""
        self.started_wall = time.time()
        self.links.begin(self.started_wall)

    @property
    def t_s(self) -> float:
        """Seconds since production began."""
        return time.time() - self.started_wall if self.started_wall else 0.0

    def tell(self, text: str) -> None:
        """Note something worth telling."""
        self.events.append(Event(round(self.t_s, 1), text))
        self.message = text

    # While it runs

    def look(self) -> FleetView:
        """Read what is new and return the view of it."""
        for fact in self.ledger.read_new():
            if isinstance(fact, HeadFact):
                self._judge(fact)
        self.links.read_new()
        head = self.ledger.head
        train = head.train[0] if head else None
        options = self.plant.options
        return FleetView(
            t_s=self.t_s,
            total_s=options.learn_s + DRAIN_S,
            phase=self.phase,
            sites=[self._site_view(site, train) for site in self.plant.sites],
            train_version=train,
            serve_version=head.serve[0] if head else None,
            updates=self._counts(),
            pr_auc_history=[point.pr_auc for point in self.quality],
            message=self.message,
        )

    def new_rounds(self) -> list[str]:
        """The coordinator's evaluations of synchronous rounds since the last call."""
        log = self.plant.directory / "coordinator.log"
        lines = [line for line in log.read_text().splitlines() if line.startswith("round ")]
        new, self._rounds = lines[self._rounds :], len(lines)
        return new

    def is_subscribed(self) -> bool:
        """Whether every agent has its subscription on its machine."""
        return all(status.source == "subscribed" for status in self._statuses().values())

    def is_settled(self) -> bool:
        """Whether every update has its outcome and the last average was judged."""
        for status in self._statuses().values():
            outcomes = sum(_terminal(status).values())
            if status.learning != "training is closed" or outcomes != status.produced:
                return False
        head = self.ledger.head
        has_baselines = (self.plant.directory / RESULT).exists()
        is_judged = head is not None and head.training == "closed" and head.candidate is None
        return is_judged and has_baselines

    def _statuses(self) -> dict[str, Status]:
        return {
            site.name: read_status(site.state)
            or Status(agent=site.agent, site=site.name, federation=FEDERATION, pid=0)
            for site in self.plant.sites
        }

    def _judge(self, head: HeadFact) -> None:
        """Judge every average that a head names, on rows that no agent saw."""
        for named in (head.serve, head.candidate):
            if named is None or named[1] in self._judged:
                continue
            version, digest = named
            params = self._params(version, digest)
            if params is None:
                continue
            self._judged.add(digest)
            result = judge(self._model, params, self._held_out)
            t_s = max(0.0, head.wall - self.started_wall) if self.started_wall else 0.0
            point = QualityPoint(t_s, version, result.pr_auc, result.roc_auc, result.per_site)
            self.quality.append(point)

    def _params(self, version: int, digest: str) -> Params | None:
        if version == 0:
            return self._start
        if not self.ledger.has_model(digest):
            return None
        return self.ledger.model(digest, self._model.manifest.shared_shapes)

    def _site_view(self, site: Site, train: int | None) -> SiteView:
        status = self._statuses()[site.name]
        base = status.train_version
        served = [point for point in self.quality if point.version == status.serve_version]
        return SiteView(
            site=site.name,
            samples=status.samples,
            windows=status.rows,
            outbox=status.produced - sum(_terminal(status).values()),
            link_up=not self.links.is_down(site.name),
            base_version=base,
            staleness=train - base if train is not None and base is not None else 0,
            served_version=status.serve_version,
            pr_auc=served[-1].per_site[site.name].pr_auc if served else None,
            score=status.score,
            produced=status.produced,
            folded=status.outcomes.get("folded", 0),
            note=status.learning if status.learning == "training" else "",
        )

    def _counts(self) -> UpdateCounts:
        statuses = list(self._statuses().values())
        outcomes = [_terminal(status) for status in statuses]
        return UpdateCounts(
            produced=sum(status.produced for status in statuses),
            **{name: sum(counts[name] for counts in outcomes) for name in TERMINAL},
        )

    # When it has ended

    def write_scores(self) -> None:
        """Add the served model's scores of the held-out rows to those of the baselines.

        Raises:
          ValueError: the witness has not seen the served weights.
        """
        path = self.plant.directory / SCORES
        with np.load(path) as known:
            arrays = dict(known)
        head = self.ledger.head
        params = self._params(*head.serve) if head else None
        if params is None:
            reason = "the witness has not seen the weights that are served"
            raise ValueError(reason)
        inputs = np.concatenate([table.inputs() for table in self._held_out.values()])
        arrays["federated"] = self._model.score(params, inputs)
        np.savez(path, **arrays)

    def record(self) -> RunRecord:
        """The record of a finished run."""
        end_s, options = self.t_s, self.plant.options
        produced = self._produced()
        told = account(set(produced), self.ledger)
        store = Store(self.plant.coordinator_state / DATABASE)
        duplicates, saved = store.counts()["duplicates"], store.load()
        store.close()
        counts = UpdateCounts(
            produced=told.produced, **told.by_outcome, duplicates=duplicates, lost=told.lost
        )
        shares = {site.name: self.links.down_share(site.name, end_s) for site in self.plant.sites}
        baselines = (self.plant.directory / RESULT).read_bytes()
        events = self.events + self._outage_events(produced)
        return RunRecord(
            seed=options.seed,
            data=options.data.name if options.data else "generated",
            strategy=options.strategy,
            wall_s=round(end_s, 2),
            sites=[self._summary(site, produced, shares[site.name]) for site in self.plant.sites],
            quality=self.quality,
            baselines=msgspec.json.decode(baselines, type=list[BaselinePoint]),
            outages=self.links.outages(end_s),
            traffic=self.links.traffic,
            updates=counts,
            bytes_per_update=self.ledger.bytes_up / max(1, told.produced),
            link_down_share=sum(shares.values()) / len(shares),
            versions=saved.version if saved else 0,
            serve_version=saved.serve.version if saved else 0,
            events=sorted(events, key=lambda event: event.t_s),
        )

    def _produced(self) -> dict[UpdateId, Entry]:
        """Every update of every agent, from their outboxes."""
        produced: dict[UpdateId, Entry] = {}
        for site in self.plant.sites:
            outbox = Outbox(site.state / "outbox.db", 1 << 40)
            for entry in outbox.account():
                produced[(site.agent, entry.incarnation, entry.sequence)] = entry
            outbox.close()
        return produced

    def _summary(
        self, site: Site, produced: dict[UpdateId, Entry], down_share: float
    ) -> SiteSummary:
        own = [entry for key, entry in produced.items() if key[0] == site.agent]
        folded = [entry for entry in own if entry.status == "folded"]
        stale = [entry.version - 1 - entry.base_version for entry in folded]
        return SiteSummary(
            site=site.name,
            rows=len(site.train),
            failures=int(site.train.machine_failure.sum()),
            held_out_rows=len(site.held_out),
            held_out_failures=int(site.held_out.machine_failure.sum()),
            produced=len(own),
            folded=len(folded),
            staleness_mean=sum(stale) / len(stale) if stale else None,
            link_down_share=down_share,
        )

    def _outage_events(self, produced: dict[UpdateId, Entry]) -> list[Event]:
        """The updates that were made while their site's link was down, and when they arrived."""
        events: list[Event] = []
        for site in self.plant.sites:
            outages = [o for o in self.links.outages(self.t_s) if o.site == site.name]
            for (agent, _, sequence), entry in produced.items():
                made_s = entry.made_at - self.started_wall
                during = any(o.down_s <= made_s < o.up_s for o in outages)
                if agent == site.agent and during and entry.settled_at is not None:
                    text = f"update {sequence} of {site.name}, made while its link was down, "
                    text += f"was {entry.status} {entry.settled_at - entry.made_at:.1f} s later"
                    events.append(Event(round(made_s, 1), text))
        return events


def _terminal(status: Status) -> dict[str, int]:
    return {name: status.outcomes.get(name, 0) for name in TERMINAL}

"""A federation that lived: three sites, versions, a refused and a dropped update, gate decisions.

Heads are kept as each agent accepted them, and the log is exported as the command does it.
"""

import io
from contextlib import closing
from pathlib import Path

import numpy as np

from coordinator.audit_export import write_log
from coordinator.federation import Federation
from coordinator.store import Store
from tests.coordinator.small_federation import (
    FEDERATION,
    ROOT_KEY,
    P,
    Site,
    enrol,
    evaluation,
    identity,
    open_federation,
)
from wire.audit_file import HeadsOpening
from wire.database import open_database
from wire.messages import Report, Spent

TOML = "[strategy]\ngoal = 3\n[gate]\nevery = 2\nquorum = 2\ndeadline_s = 50\n"
TOML += "[contribution]\nleast_versions = 3\n"
SITES = {"press-1": "site-a", "press-2": "site-b", "mill-1": "site-c"}


class Audited:
    """One coordinator's federation on a file, and every head that it signed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(path)
        self.federation: Federation = open_federation(self.store, TOML, k_min=2)
        for agent, site in SITES.items():
            enrol(self.store, agent, site)
        self.sites = {agent: Site(agent) for agent in SITES}
        self.heads = [self.federation.head_envelope]
        self.now_s = 0.0

    def round(self, seed: int, lineage: int = 0) -> None:
        """One update of each agent, and reports about what the head names then."""
        random = np.random.default_rng(seed)
        for site in self.sites.values():
            delta = random.integers(-20, 21, P).astype(np.int8)
            weight = int(random.integers(5, 200))
            spent = Spent(gaussian=0.25 * site.sequence + 0.25, releases=site.sequence + 1)
            update = site.update(
                self.federation.head.train, delta, weight=weight, spent=spent, lineage=lineage
            )
            self.now_s += 1
            self.federation.commit([update], self.now_s)
            self.keep_head()
        self.report()

    def report(self) -> None:
        """Every site judges what the head names, the newest as the best."""
        for agent, site in SITES.items():
            saved = self.federation.saved
            judged = {ref.content.digest: ref.version for _, ref in saved.judged_refs}
            evaluations = tuple(
                evaluation(digest, 0.5 + 0.1 * version) for digest, version in judged.items()
            )
            report = Report(head=saved.head_sequence, evaluations=evaluations)
            self.federation.on_report(agent, site, report, self.now_s)
            self.keep_head()

    def refuse_one(self) -> None:
        """An update of another scale, and one that its agent's quota dropped."""
        site, head = self.sites["press-1"], self.federation.head
        self.federation.commit([site.update(head.train, scale=0.5)], self.now_s)
        self.federation.commit([site.update(head.train, dropped="quota")], self.now_s)

    def keep_head(self) -> None:
        if self.federation.head_envelope != self.heads[-1]:
            self.heads.append(self.federation.head_envelope)

    def export(self) -> bytes:
        stream = io.BytesIO()
        with closing(open_database(self.path, "", durable=True)) as database:
            write_log(database, stream, identity(2), ROOT_KEY.public.raw)
        return stream.getvalue()


def lived(path: Path, rounds: int = 3) -> Audited:
    """A federation of so many rounds."""
    made = Audited(path)
    made.round(1)
    made.refuse_one()
    for seed in range(2, rounds + 1):
        made.round(seed)
    return made


def heads_of(agent: str, heads: list[bytes]) -> tuple[str, HeadsOpening, list[bytes]]:
    return f"{agent}.heads", HeadsOpening(FEDERATION, agent, len(heads)), heads

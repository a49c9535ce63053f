"""What the entries of an audit log add up to, and whether they fit each other.

Each entry is held against those before it: charters of the root with growing epochs, versions one
by one, updates decided once and settled once, no version with fewer sites than its charter's K_min,
manifests that use each report once, heads in order.  What does not fit is a problem in words; the
rest is counted for people (`shopfloor/audit/words.py`).

Whether the entries are the log that was signed is not asked here (`shopfloor/audit/check.py`).
Memory grows with the updates: about 0.3 KB each.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from wire.audit_entries import (
    AgentNoted,
    CharterNoted,
    ContributionsNoted,
    DecisionNoted,
    EarlierNoted,
    Entry,
    HeadNoted,
    InitialNoted,
    ManifestNoted,
    SettledNoted,
    SettledUpdate,
    UpdateNoted,
    VersionNoted,
    spent_of,
)
from wire.errors import WireError
from wire.messages import Charter, Spent
from wire.signing import PublicKey
from wire.spent import highest
from wire.trust import read_charter

MAX_PROBLEMS: Final = 50
UpdateId = tuple[str, str, int]


@dataclass
class _Folded:
    """The newest version, and what was folded into it so far."""

    version: int
    lineage: int
    digest: bytes
    members: int
    folded: int = 0
    sites: set[str] = field(default_factory=set)


@dataclass
class Account:
    """The decisions so far.

    Attributes:
      federation, root: whose log it has to be.
      problems: what does not fit, in words.
      charters: (at, charter), the newest last.
      updates, by_agent, refusals: outcomes over all, by agent, and the reasons of refusals.
      spent: highest privacy charge by agent.
      heads: (entry, root of the tree before it), by number of the entry.
    """

    federation: str
    root: PublicKey
    problems: list[str] = field(default_factory=list)
    charters: list[tuple[int, Charter]] = field(default_factory=list)
    earlier: EarlierNoted | None = None
    initial: InitialNoted | None = None
    agents: dict[str, AgentNoted] = field(default_factory=dict)
    updates: Counter[str] = field(default_factory=Counter)
    by_agent: dict[str, Counter[str]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    spent: dict[str, Spent] = field(default_factory=dict)
    versions: int = 0
    first_at: int | None = None
    last_at: int | None = None
    least_sites: int | None = None
    manifests: Counter[str] = field(default_factory=Counter)
    decisions: list[DecisionNoted] = field(default_factory=list)
    contributions: ContributionsNoted | None = None
    heads: dict[int, tuple[HeadNoted, bytes]] = field(default_factory=dict)
    newest_head: HeadNoted | None = None
    version: _Folded | None = None
    _known: set[UpdateId] = field(default_factory=set)
    _open: dict[UpdateId, tuple[bytes, bytes]] = field(default_factory=dict)
    _summed: dict[bytes, int] = field(default_factory=dict)
    _opened: set[int] = field(default_factory=set)
    _take: dict[type, Callable[[int, Any], None]] = field(init=False)

    def __post_init__(self) -> None:
        self._take = {
            CharterNoted: self._charter,
            EarlierNoted: self._earlier,
            InitialNoted: self._initial,
            AgentNoted: self._agent,
            UpdateNoted: self._update,
            SettledNoted: self._settled,
            VersionNoted: self._version,
            ManifestNoted: self._take_manifest,
            DecisionNoted: self._decision,
            ContributionsNoted: self._contributions,
        }

    @property
    def charter(self) -> Charter | None:
        """The one that holds."""
        return self.charters[-1][1] if self.charters else None

    @property
    def waiting(self) -> int:
        """Updates that were committed and have no outcome yet."""
        return len(self._open)

    def say(self, problem: str) -> None:
        """Note what does not fit."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def take(self, number: int, entry: Entry, root: bytes) -> None:
        """Take the next entry.

        Args:
          number: its place.
          entry: the next one.
          root: of the tree before it, wherever it is a head's; else empty.
        """
        if number == 0 and not isinstance(entry, CharterNoted):
            self.say("the log does not begin with a charter")
        if isinstance(entry, HeadNoted):
            self._head(number, entry, root)
        else:
            self._take[type(entry)](number, entry)

    def finish(self) -> None:
        """Look at what only the end shows."""
        self._close_version(None)

    def _charter(self, number: int, entry: CharterNoted) -> None:
        try:
            charter = read_charter(entry.envelope, self.root).charter
        except WireError as error:
            self.say(f"entry {number}: the charter is not the root's: {error}")
            return
        before = self.charter
        if charter.federation != self.federation:
            self.say(f"entry {number}: a charter of federation {charter.federation}")
        if before is not None and charter.epoch <= before.epoch:
            self.say(f"entry {number}: charter epoch {charter.epoch} after {before.epoch}")
        self.charters.append((entry.at, charter))

    def _earlier(self, number: int, entry: EarlierNoted) -> None:
        if self.version is not None or self.earlier is not None or self._known:
            self.say(f"entry {number}: the log begins in its middle")
            return
        self.earlier = entry
        self.version = _Folded(entry.version, entry.lineage, entry.digest, 0)

    def _initial(self, number: int, entry: InitialNoted) -> None:
        if self.version is not None or self.initial is not None:
            self.say(f"entry {number}: first weights after the first version")
        self.initial = entry

    def _agent(self, _number: int, entry: AgentNoted) -> None:
        self.agents[entry.agent] = entry

    def _update(self, number: int, entry: UpdateNoted) -> None:
        key = (entry.agent, entry.incarnation, entry.sequence)
        if key in self._known:
            self.say(f"entry {number}: {_named(key)} was decided twice")
            return
        if entry.agent not in self.agents:
            self.say(f"entry {number}: {_named(key)} is of an agent without a credential")
        self._known.add(key)
        if entry.spent is not None:
            before, now = self.spent.get(entry.agent, Spent()), spent_of(entry.spent)
            self.spent[entry.agent] = highest(before, now)
        if entry.status == "committed":
            self._open[key] = (entry.digest, entry.report)
        else:
            self._count(entry.agent, entry.status, entry.reason)

    def _count(self, agent: str, status: str, reason: str) -> None:
        self.updates[status] += 1
        self.by_agent.setdefault(agent, Counter())[status] += 1
        if status != "folded":
            self.refusals[f"{status}: {reason}" if reason else status] += 1

    def _settled(self, number: int, entry: SettledNoted) -> None:
        version = self.version
        if entry.status == "folded" and (version is None or version.version != entry.version):
            self.say(f"entry {number}: updates folded into version {entry.version}, not the newest")
        for update in entry.updates:
            self._settle(number, entry, update)

    def _settle(self, number: int, entry: SettledNoted, update: SettledUpdate) -> None:
        key = (update.agent, update.incarnation, update.sequence)
        digest, report = self._open.pop(key, (b"", b""))
        if digest != update.digest:
            used = "was settled before, or" if key in self._known else "was never committed, or"
            self.say(f"entry {number}: {_named(key)} {used} has another content")
            return
        self._count(update.agent, entry.status, entry.reason)
        if entry.status == "folded" and self.version is not None:
            agent = self.agents.get(update.agent)
            self.version.folded += 1
            self.version.sites.add(agent.site if agent else update.agent)
            if update.coefficient < 1:
                self.say(f"entry {number}: {_named(key)} counts nothing and is folded")
            if report and self._summed.get(report) != update.coefficient:
                self.say(f"entry {number}: {_named(key)} is in no manifest with this coefficient")
            if not report and self.charter and self.charter.least.protection != "none":
                self.say(f"entry {number}: {_named(key)} was open, and the charter forbids that")

    def _version(self, number: int, entry: VersionNoted) -> None:
        before = self.version
        expected = 0 if before is None else before.version + 1
        if entry.version != expected:
            self.say(f"entry {number}: version {entry.version} where {expected} is due")
        lineage = 0 if before is None else before.lineage
        recovered = self.charter.recovery << 16 if self.charter else 0
        begins = entry.lineage in (lineage + 1, max(lineage + 1, recovered)) and not entry.members
        if entry.lineage != lineage and not begins:
            self.say(f"entry {number}: version {entry.version} is of lineage {entry.lineage}")
        if before is None and (self.initial is None or self.initial.digest != entry.digest):
            self.say(f"entry {number}: version 0 is not the first weights that the log names")
        self._close_version(_Folded(entry.version, entry.lineage, entry.digest, entry.members))
        self.versions += 1
        self.first_at = entry.at if self.first_at is None else self.first_at
        self.last_at = entry.at

    def _close_version(self, following: _Folded | None) -> None:
        """Hold a version against what was folded into it, before the next one begins."""
        version, charter = self.version, self.charter
        if version is not None and version.folded != version.members:
            self.say(
                f"version {version.version} says {version.members} updates and has {version.folded}"
            )
        if version is not None and version.members and charter is not None:
            sites = version.sites & set(charter.sites) if charter.sites else version.sites
            self.least_sites = min(self.least_sites or len(sites), len(sites))
            if len(sites) < charter.k_min:
                self.say(
                    f"version {version.version} has {len(sites)} sites behind it, fewer than the "
                    f"charter's {charter.k_min}"
                )
        self.version = following if following is not None else self.version

    def _take_manifest(self, number: int, entry: ManifestNoted) -> None:
        charter = self.charter
        if entry.number in self._opened:
            self.say(f"entry {number}: manifest {entry.number} was opened before")
        self._opened.add(entry.number)
        if charter is not None and entry.epoch > charter.epoch:
            self.say(f"entry {number}: a manifest of epoch {entry.epoch}, unknown here")
        recipient = charter.recipient.name if charter and charter.recipient else ""
        if len(set(entry.helpers)) < 2 and entry.helpers != (recipient,):
            self.say(f"entry {number}: manifest {entry.number} has fewer than two helpers")
        shares = {member.report: member.coefficient for member in entry.members}
        if len(shares) != len(entry.members) or self._summed.keys() & shares.keys():
            self.say(f"entry {number}: manifest {entry.number} uses a report a second time")
        waiting = {report for _, report in self._open.values()}
        if entry.purpose == "update" and not shares.keys() <= waiting:
            self.say(f"entry {number}: manifest {entry.number} sums what was never committed")
        self._summed.update(shares)
        self.manifests[entry.purpose] += 1

    def _decision(self, number: int, entry: DecisionNoted) -> None:
        if self.version is None or entry.version > self.version.version:
            self.say(f"entry {number}: a decision about version {entry.version}, not made yet")
        self.decisions.append(entry)

    def _contributions(self, number: int, entry: ContributionsNoted) -> None:
        if self.version is None or entry.version > self.version.version:
            self.say(f"entry {number}: contributions to version {entry.version}, not made yet")
        self.contributions = entry

    def _head(self, number: int, entry: HeadNoted, root: bytes) -> None:
        before = self.newest_head
        if before is not None:
            grows = (entry.recovery, entry.sequence) > (before.recovery, before.sequence)
            has_gap = entry.recovery == before.recovery and entry.sequence != before.sequence + 1
            if not grows or has_gap:
                self.say(f"entry {number}: head {entry.sequence} after head {before.sequence}")
        elif entry.sequence != 1 and self.earlier is None:
            self.say(f"entry {number}: the first head has number {entry.sequence}")
        self.heads[number] = (entry, root)
        self.newest_head = entry


def _named(key: UpdateId) -> str:
    agent, incarnation, sequence = key
    return f"update {sequence} of {agent}/{incarnation}"

"""The account: did every update get one outcome, and is everybody of the same opinion about it?

Pure.  An update is an id and a content: two contents under one id (a restored card) are two
updates.  Three witnesses are asked, because each can miss something: the agents' outboxes (also
what was read of a disk before it was wiped), the coordinator's store, and what was heard (the tape
in the agents' links, the observer behind the broker).  Whatever one of them knows was produced.

An update is *lost* when it has no outcome, in the coordinator's store or in its living agent's
outbox; also when a program was told an outcome or `committed` and the store knows nothing of it.
It is *doubled* when two witnesses name two outcomes, or when one content was folded twice.  It went
*with its disk* when only a disk that was wiped or replaced had it and nobody was promised anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from shopfloor.chaos.accounts import AgentAccount, StoreAccount, Word
from shopfloor.ledger import UpdateId
from wire.messages import TERMINAL

Content = tuple[UpdateId, str]
"""(id, SHA-256 of the content in hex)"""


@dataclass(frozen=True)
class Heard:
    """What tape and observer know.

    Attributes:
      contents: every update that was offered.
      told: outcomes that the coordinator told to agents, (status, version) by content.
    """

    contents: frozenset[Content]
    told: dict[Content, set[tuple[str, int]]]


@dataclass(frozen=True)
class Finding:
    """An update that breaks the promise, and how."""

    update: UpdateId
    why: str


@dataclass
class Reckoning:
    """The result.

    Attributes:
      produced: number of updates made.
      outcomes: how many ended in each outcome.
      with_their_disk: updates that only a wiped or replaced disk had.
      lost, doubled: what must be empty.
    """

    produced: int = 0
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TERMINAL, 0))
    with_their_disk: int = 0
    lost: list[Finding] = field(default_factory=list)
    doubled: list[Finding] = field(default_factory=list)


def reckon(agents: list[AgentAccount], store: StoreAccount, heard: Heard) -> Reckoning:
    """Give every update its one outcome, or say what is wrong with it."""
    result = Reckoning()
    living = _by_content(agent for agent in agents if not agent.is_buried)
    buried = _by_content(agent for agent in agents if agent.is_buried)
    dead = {update[:2] for update, _ in buried}
    contents = living.keys() | buried.keys() | heard.contents | _of_store(store)
    for content in sorted(contents):
        known = store.words.get(content[0])
        words = living.get(content, [])
        outcome = _outcome(content, known, words, buried.get(content, []), dead)
        result.produced += 1
        if isinstance(outcome, Finding):
            result.lost.append(outcome)
        elif outcome == "":
            result.with_their_disk += 1
        else:
            result.outcomes[outcome] += 1
        result.doubled += _contradictions(content, known, words + buried.get(content, []))
    result.doubled += _told_twice(heard)
    result.doubled += _folded_twice(store)
    return result


def _by_content(agents: Iterable[AgentAccount]) -> dict[Content, list[Word]]:
    found: dict[Content, list[Word]] = {}
    for agent in agents:
        for update, word in agent.words.items():
            found.setdefault((update, word.digest), []).append(word)
    return found


def _of_store(store: StoreAccount) -> set[Content]:
    return {(update, word.digest) for update, word in store.words.items()}


def _outcome(
    content: Content,
    known: Word | None,
    living: list[Word],
    buried: list[Word],
    dead: set[tuple[str, str]],
) -> str | Finding:
    """The outcome of an update; empty when it went with its disk."""
    update, digest = content
    still_open = [word.status for word in living if word.status not in TERMINAL]
    promised = [word.status for word in living + buried if word.status != "pending"]
    why = "it was offered, and neither its agent nor the coordinator has it"
    if still_open:
        why = f"its agent still has it as {still_open[0]}"
    elif known is not None and known.digest == digest:
        if known.status in TERMINAL:
            return known.status
        why = f"the coordinator still has it as {known.status}"
    elif known is not None and "refused" in promised:
        return "refused"  # a second content under the id: refused, and the first one stays
    elif promised:
        why = f"its agent was told {promised[0]}, the coordinator has nothing"
    elif not living and update[:2] in dead:
        return ""
    return Finding(update, why)


def _contradictions(content: Content, known: Word | None, words: list[Word]) -> list[Finding]:
    update, digest = content
    opinions = {(word.status, word.version) for word in words if word.status in TERMINAL}
    if known is not None and known.digest == digest and known.status in TERMINAL:
        opinions.add((known.status, known.version))
    if len(opinions) < 2:
        return []
    return [Finding(update, f"agent and coordinator do not agree: {sorted(opinions)}")]


def _told_twice(heard: Heard) -> list[Finding]:
    """Contents that were told two outcomes; of two contents under one id, each has its own."""
    return [
        Finding(update, f"two outcomes were told: {sorted(outcomes)}")
        for (update, _), outcomes in heard.told.items()
        if len(outcomes) > 1
    ]


def _folded_twice(store: StoreAccount) -> list[Finding]:
    """One agent's same content under two ids: rounding is random, so no two are equal by chance."""
    seen: dict[tuple[str, str], UpdateId] = {}
    findings: list[Finding] = []
    for members in store.members.values():
        for member in members:
            key = (member.update[0], member.digest)
            if key in seen:
                why = f"its content was folded before as {seen[key]}"
                findings.append(Finding(member.update, why))
            seen[key] = member.update
    return findings

"""What the programs' own files say of every update, read after the programs ended.

Reads the SQLite files with queries of its own and not with the programs' code, because that code is
what stands trial.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shopfloor.ledger import UpdateId


@dataclass(frozen=True)
class Word:
    """What somebody says became of an update.

    Attributes:
      digest: SHA-256 of its content, hex; empty when not known.
      status: `pending`, `committed`, or the outcome.
      version: the version it was folded into, 0 when it was not.
    """

    digest: str
    status: str
    version: int


@dataclass(frozen=True)
class AgentAccount:
    """An agent's outbox, or what is left of one.

    Attributes:
      agent: whose.
      words: every update that it knows.
      is_buried: the disk was wiped or replaced afterwards, so nothing of it can be delivered.
    """

    agent: str
    words: dict[UpdateId, Word]
    is_buried: bool = False


@dataclass(frozen=True)
class Member:
    """One folded update: its id, content and coefficient."""

    update: UpdateId
    digest: str
    coefficient: int
    base_version: int


@dataclass(frozen=True)
class StoreAccount:
    """The coordinator's database.

    Attributes:
      words: every update that it knows.
      members: who was folded into each version.
      versions: SHA-256 (hex) of each version's weights, and how many members it says it has.
      duplicates: offers of what was already there.
      alarms: what a person was told to look at, how often by agent.
    """

    words: dict[UpdateId, Word]
    members: dict[int, list[Member]]
    versions: dict[int, tuple[str, int]]
    duplicates: int
    alarms: dict[str, int]


def read_outbox(agent: str, path: Path) -> AgentAccount:
    """Read an outbox; one that was never made, or not finished, is empty."""
    words: dict[UpdateId, Word] = {}
    if path.exists():
        with closing(sqlite3.connect(path, timeout=10)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
            if "updates" not in tables:
                return AgentAccount(agent, {})
            rows = database.execute(
                "SELECT incarnation, sequence, digest, status, coalesce(version, 0) FROM updates"
            )
            for incarnation, sequence, digest, status, version in rows:
                words[(agent, incarnation, sequence)] = Word(digest.hex(), status, version)
    return AgentAccount(agent, words)


def bury(account: AgentAccount, path: Path) -> None:
    """Append what a disk knew, before it is wiped or replaced, to a file of such accounts."""
    words = [(update, word) for update, word in account.words.items()]
    with path.open("ab") as file:
        file.write(msgspec.json.encode((account.agent, words)) + b"\n")


def read_buried(path: Path) -> list[AgentAccount]:
    """All accounts that were buried."""
    buried: list[AgentAccount] = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        agent, words = msgspec.json.decode(line, type=tuple[str, list[tuple[UpdateId, Word]]])
        buried.append(AgentAccount(agent, dict(words), is_buried=True))
    return buried


def read_store(path: Path) -> StoreAccount:
    """Read the coordinator's database."""
    words: dict[UpdateId, Word] = {}
    members: dict[int, list[Member]] = {}
    with closing(sqlite3.connect(path, timeout=10)) as database:
        rows = database.execute(
            "SELECT agent, incarnation, sequence, digest, status, version, coefficient,"
            " base_version FROM updates ORDER BY agent, incarnation, sequence"
        )
        for agent, incarnation, sequence, digest, status, version, coefficient, base in rows:
            update = (agent, incarnation, sequence)
            words[update] = Word(digest.hex(), status, version)
            if status == "folded":
                member = Member(update, digest.hex(), coefficient, base)
                members.setdefault(version, []).append(member)
        found = database.execute("SELECT version, digest, members FROM versions")
        versions = {version: (digest.hex(), number) for version, digest, number in found}
        duplicates = database.execute("SELECT duplicates FROM control").fetchone()[0]
        told = database.execute("SELECT agent, sum(number) FROM alarms GROUP BY agent")
        alarms = {str(agent): int(number) for agent, number in told}
    return StoreAccount(words, members, versions, int(duplicates), alarms)


def last_version(path: Path) -> int:
    """The newest version in the coordinator's database."""
    with closing(sqlite3.connect(path, timeout=10)) as database:
        return int(database.execute("SELECT max(version) FROM versions").fetchone()[0])

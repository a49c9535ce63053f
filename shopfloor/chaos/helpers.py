"""What helpers promised, read after they ended: each report to one manifest, whatever happened.

Reads their SQLite files with queries of its own.  A helper whose store was replaced by an old copy
has two accounts, of the store that was and of the copy; together they must not have promised a
report twice, and the copy must know that it is one and have promised nothing.
"""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from shopfloor.chaos.layout import Layout
from shopfloor.chaos.schedule import HELPERS

STORE = "helper.db"


@dataclass(frozen=True)
class HelperAccount:
    """One store of a helper.

    Attributes:
      endorsed: manifests that it promised to.
      restored: how it was seen that it is an old copy; empty when it is not.
      promises: manifest by report, both SHA-256.
    """

    helper: str
    endorsed: int
    restored: str
    promises: dict[bytes, bytes]


def read_helper(helper: str, state: Path) -> HelperAccount:
    """Read the store in a helper's state directory."""
    with closing(sqlite3.connect(state / STORE, timeout=10)) as database:
        endorsed, restored = database.execute("SELECT endorsed, restored FROM identity").fetchone()
        rows = database.execute(
            "SELECT report, manifest FROM reports WHERE manifest IS NOT NULL"
        ).fetchall()
    return HelperAccount(helper, int(endorsed), str(restored), dict(rows))


class OldCopy:
    """A copy of the last helper's disk, which takes the disk's place once.

    Attributes:
      is_used: whether it was decided that it does.
    """

    def __init__(self, layout: Layout, log: Path) -> None:
        helper = HELPERS[-1]
        self._state, self._copy = layout.state(helper), layout.copy(helper)
        self._replaced, self._log = layout.replaced, log
        self.is_used = False

    def take(self) -> None:
        """Keep a copy of the running helper's store, the first time, as a backup program would."""
        if self._copy.exists():
            return
        self._copy.mkdir(parents=True)
        with (
            closing(sqlite3.connect(self._state / STORE, timeout=10)) as store,
            closing(sqlite3.connect(self._copy / STORE)) as copy,
        ):
            store.backup(copy)

    @property
    def is_ripe(self) -> bool:
        """Whether the helper has made promises that the copy does not know."""
        if self.is_used or not self._copy.exists():
            return False
        name = self._state.name
        return read_helper(name, self._state).endorsed > read_helper(name, self._copy).endorsed

    def restore(self) -> None:
        """Put the copy in the place of the stopped helper's disk, which is kept elsewhere."""
        self._state.rename(self._replaced)
        shutil.copytree(self._copy, self._state)

    @property
    def is_unnoticed(self) -> bool:
        """Whether it was put there and the helper has not said that it is one."""
        return self.is_used and b"ALARM restored" not in self._log.read_bytes()


def problems_of(
    living: list[HelperAccount], replaced: HelperAccount | None, copied: HelperAccount | None
) -> list[str]:
    """What helpers did that they must never do; empty when nothing.

    Args:
      living: the stores at the end.
      replaced: the store of one of them before an old copy took its place; None: none was.
      copied: that old copy.
    """
    problems = []
    for account in living:
        is_old = replaced is not None and account.helper == replaced.helper
        if bool(account.restored) != is_old:
            said = account.restored or "nothing"
            problems.append(f"{account.helper} says of its store: {said}")
        if not is_old or replaced is None or copied is None:
            continue
        if account.endorsed > copied.endorsed:
            more = account.endorsed - copied.endorsed
            problems.append(f"{account.helper} endorsed {more} manifests on an old copy")
        problems += [
            f"{account.helper} promised report {report.hex()[:16]}… twice"
            for report in account.promises.keys() & replaced.promises.keys()
            if account.promises[report] != replaced.promises[report]
        ]
    return problems

"""Durability broken on purpose, to prove that the power tests would see it.

off      SQLite with synchronous=OFF: nothing is fsynced
normal   synchronous=NORMAL: commits are not fsynced, only checkpoints
late     every commit waits for the next two: what was promised is not even written
nofsync  Python's fsync does nothing
"""

import os
import sqlite3
from functools import partial
from typing import Any


class _Broken(sqlite3.Connection):
    how = ""
    commits = 0

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql.startswith("PRAGMA synchronous"):
            if self.how == "late":
                return super().execute("SELECT 1")
            sql = f"PRAGMA synchronous={self.how}"
        if self.how == "late":
            if sql.startswith("BEGIN") and self.in_transaction:
                return super().execute("SELECT 1")
            if sql == "COMMIT":
                self.commits += 1
                if self.commits % 3:
                    return super().execute("SELECT 1")
        return super().execute(sql, *parameters)


def sabotage(how: str) -> None:
    """Break it in this process from now on; an empty string breaks nothing."""
    if how == "nofsync":
        os.fsync = lambda _file: None  # type: ignore[assignment]
    elif how:
        _Broken.how = how
        sqlite3.connect = partial(sqlite3.connect, factory=_Broken)  # type: ignore[assignment]

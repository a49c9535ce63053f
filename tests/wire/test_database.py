"""The database: what a transaction did is there together, or not at all."""

import sqlite3
from pathlib import Path

import pytest

from wire.database import open_database, transaction
from wire.errors import SettingsError

SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER PRIMARY KEY) STRICT;"


def numbers(database: sqlite3.Connection) -> list[int]:
    return [n for (n,) in database.execute("SELECT n FROM numbers ORDER BY n")]


def _insert_and_be_interrupted(database: sqlite3.Connection) -> None:
    with transaction(database):
        database.execute("INSERT INTO numbers VALUES (1)")
        raise KeyboardInterrupt


def test_a_committed_transaction_is_there_after_reopening(tmp_path: Path) -> None:
    database = open_database(tmp_path / "a.db", SCHEMA, durable=True)
    with transaction(database):
        database.execute("INSERT INTO numbers VALUES (1), (2)")
    database.close()
    assert numbers(open_database(tmp_path / "a.db", SCHEMA, durable=True)) == [1, 2]


def test_a_transaction_that_raises_leaves_nothing_and_the_next_one_works() -> None:
    database = open_database(":memory:", SCHEMA, durable=False)
    with pytest.raises(KeyboardInterrupt):
        _insert_and_be_interrupted(database)
    assert numbers(database) == []
    with transaction(database):
        database.execute("INSERT INTO numbers VALUES (2)")
    assert numbers(database) == [2]


def test_a_commit_that_fails_leaves_no_open_transaction() -> None:
    database = open_database(
        ":memory:",
        "PRAGMA foreign_keys=ON;"
        "CREATE TABLE parents (id INTEGER PRIMARY KEY);"
        "CREATE TABLE numbers"
        " (n INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED);",
        durable=True,
    )
    with pytest.raises(sqlite3.IntegrityError), transaction(database):
        database.execute("INSERT INTO numbers VALUES (1)")
    assert not database.in_transaction
    assert numbers(database) == []


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_only_durable_files_wait_for_the_disk(tmp_path: Path, durable: bool, level: int) -> None:
    database = open_database(tmp_path / "a.db", SCHEMA, durable=durable)
    assert database.execute("PRAGMA synchronous").fetchone() == (level,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"certainly not a database" * 100)
    with pytest.raises(SettingsError, match="can not open the database") as error:
        open_database(path, SCHEMA, durable=True)
    assert error.value.file == str(path)
    with pytest.raises(SettingsError):
        open_database(tmp_path / "missing" / "a.db", SCHEMA, durable=True)

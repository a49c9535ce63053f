"""The database: what a transaction did is there together, or not at all."""

import os
import sqlite3
from pathlib import Path

import pytest

from wire.database import (
    DamagedError,
    lock_directory,
    open_database,
    open_or_set_aside,
    set_aside,
    set_aside_files,
    transaction,
)
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
    with pytest.raises(SettingsError, match=r"can not open the database.*a backup") as error:
        open_database(path, SCHEMA, durable=True)
    assert error.value.file == str(path)
    with pytest.raises(SettingsError):
        open_database(tmp_path / "missing" / "a.db", SCHEMA, durable=True)


def sound(path: Path) -> None:
    database = open_database(path, SCHEMA, durable=True)
    with transaction(database):
        database.execute("INSERT INTO numbers VALUES (1)")
    database.close()


def test_a_sound_file_is_opened_and_nothing_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    sound(path)
    database, aside = open_or_set_aside(path, SCHEMA, durable=True)
    assert (numbers(database), aside) == ([1], None)
    assert set_aside_files(path) == []


@pytest.mark.parametrize("what", ["header", "page", "cut"])
def test_a_damaged_file_is_kept_whole_and_a_new_one_opened(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.db"
    sound(path)
    data = bytearray(path.read_bytes())
    if what == "header":
        data[:16] = b"sixteen wrong.. "
    elif what == "page":
        data[4096:] = b"\xff" * (len(data) - 4096)
    else:
        del data[4096:]
    path.write_bytes(data)
    (tmp_path / "a.db-wal").write_bytes(b"what the log held")
    database, aside = open_or_set_aside(path, SCHEMA, durable=True)
    assert aside == tmp_path / "a.db.damaged-1"
    assert aside.read_bytes() == data
    assert numbers(database) == []
    with transaction(database):
        database.execute("INSERT INTO numbers VALUES (2)")
    database.close()
    again, nothing = open_or_set_aside(path, SCHEMA, durable=True)
    assert (numbers(again), nothing) == ([2], None)
    again.close()


def test_what_was_set_aside_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    for number in (1, 2, 10, 11):
        for at in range(1, number - len(set_aside_files(path))):
            (tmp_path / f"a.db.damaged-{at + len(set_aside_files(path))}").touch()
        path.write_text(str(number))
        (tmp_path / "a.db-wal").write_text(f"log {number}")
        kept = set_aside(path, "a test")
        assert kept.read_text() == str(number)
        assert Path(f"{kept}-wal").read_text() == f"log {number}"
        assert not path.exists()
        assert set_aside_files(path)[-1] == kept
    assert len(set_aside_files(path)) == len({*set_aside_files(path)})


def test_damage_that_a_query_meets_is_told_apart_from_other_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    sound(path)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    database = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(DamagedError, match="malformed") as error, transaction(database):
        database.execute("INSERT INTO numbers VALUES (5)")
    assert error.value.path == str(path)
    assert not database.in_transaction
    with pytest.raises(sqlite3.OperationalError, match="no such table"), transaction(database):
        database.execute("INSERT INTO unknown VALUES (5)")


def test_a_directory_is_taken_by_one_program_at_a_time(tmp_path: Path) -> None:
    held = lock_directory(tmp_path / "state", "agent")
    with pytest.raises(OSError, match="another agent runs on it"):
        lock_directory(tmp_path / "state", "agent")
    os.close(held)
    os.close(lock_directory(tmp_path / "state", "agent"))

"""Entries for systemd's journal, read back by the rules of its native protocol."""

import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wire.logs import JournalHandler, is_journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """Where a journal would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.settimeout(5)
        yield listening


def parsed(data: bytes) -> dict[str, str]:
    """The fields of an entry (systemd, "Native Journal Protocol")."""
    fields: dict[str, str] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


def logger_to(handler: logging.Handler) -> logging.Logger:
    logger = logging.getLogger("journeyman.test_logs")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG)
    return logger


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")],
)
def test_an_entry_has_the_fields_of_the_journal(
    journal: socket.socket, tmp_path: Path, level: str, priority: str
) -> None:
    handler = JournalHandler("journeyman-agent", str(tmp_path / "socket"))
    getattr(logger_to(handler), level)("update %d: %s", 7, "ok")
    fields = parsed(journal.recv(1 << 16))
    handler.close()
    assert (fields["MESSAGE"], fields["PRIORITY"]) == ("update 7: ok", priority)
    assert fields["LOGGER"] == "journeyman.test_logs"
    assert fields["SYSLOG_IDENTIFIER"] == "journeyman-agent"
    assert Path(fields["CODE_FILE"]).name == "test_logs.py"


def test_lines_and_a_traceback_stay_one_entry(journal: socket.socket, tmp_path: Path) -> None:
    handler = JournalHandler("p", str(tmp_path / "socket"))
    logger = logger_to(handler)
    try:
        int("PRIORITY=0\nMESSAGE=forged")
    except ValueError:
        logger.exception("failed\nPRIORITY=0")
    fields = parsed(journal.recv(1 << 16))
    handler.close()
    assert fields["PRIORITY"] == "3"
    assert fields["MESSAGE"].startswith("failed\nPRIORITY=0\nTraceback")
    assert "ValueError" in fields["MESSAGE"]


def test_without_a_journal_an_entry_is_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = JournalHandler("p", str(tmp_path / "nobody"))
    logger_to(handler).warning("still said")
    handler.close()
    assert capsys.readouterr().err == "still said\n"


def test_the_journals_stream_is_told_by_device_and_inode() -> None:
    told = "import os, sys; from wire.logs import is_journal; there = os.fstat(2); "
    told += "print(is_journal(f'{there.st_dev}:{there.st_ino}'), is_journal('1:2'), is_journal(''))"
    ran = subprocess.run(
        [sys.executable, "-c", told],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        env={**os.environ, "JOURNAL_STREAM": ""},
        check=True,
    )
    assert ran.stdout.split() == ["True", "False", "False"]
    assert not is_journal("")

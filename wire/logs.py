"""Logging of a program: lines on standard error, or structured entries where systemd reads them.

Under systemd each entry goes to the journal with its fields, so that `journalctl PRIORITY=4
LOGGER=agent.connection` finds it; systemd.journal-fields(7) names those that are common.  The
native protocol (systemd, "Native Journal Protocol") is one datagram an entry, written out because
it is thirty lines and the library for it has to be compiled.

Invariant: an entry that the journal does not take goes to standard error; logging never fails.
"""

import faulthandler
import io
import logging
import os
import socket
import struct
import sys
from contextlib import suppress

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_JOURNAL = "/run/systemd/journal/socket"
_LONGEST = 32_768
"""Characters of a message; a datagram has to fit into the socket's buffer."""
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG = 7


class JournalHandler(logging.Handler):
    """Sends entries to systemd's journal.

    Args:
      program: SYSLOG_IDENTIFIER.
      path: of the journal's socket.
    """

    def __init__(self, program: str, path: str = _JOURNAL) -> None:
        super().__init__()
        self._program, self._path = program, path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one entry; to standard error if the journal is gone or full."""
        message = self.format(record)
        fields = {
            "MESSAGE": message[:_LONGEST],
            "PRIORITY": str(_priority(record.levelno)),
            "SYSLOG_IDENTIFIER": self._program,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName,
            "THREAD_NAME": record.threadName or "",
        }
        try:
            self._socket.sendto(b"".join(_field(*pair) for pair in fields.items()), self._path)
        except OSError:
            sys.stderr.write(f"{message}\n")

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()
        super().close()


def log_to_standard_error_or_journal(program: str, level: int) -> None:
    """Set up the root logger, and tell where every thread was if the interpreter crashes.

    Args:
      program: what the journal calls it.
      level: least level that is logged.
    """
    with suppress(io.UnsupportedOperation, ValueError):  # no file to write to
        faulthandler.enable()
    if is_journal(os.environ.get("JOURNAL_STREAM", "")):
        handler: logging.Handler = JournalHandler(program)
        handler.setFormatter(logging.Formatter())  # else it is the library's, with level and name
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(FORMAT))
    logging.basicConfig(level=level, handlers=[handler])


def is_journal(stream: str) -> bool:
    """Whether standard error is the journal's stream, by systemd.exec(5), `$JOURNAL_STREAM`.

    Args:
      stream: the variable: device and inode in decimal, with a colon between.
    """
    try:
        there = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return stream == f"{there.st_dev}:{there.st_ino}"


def _priority(level: int) -> int:
    """The level by syslog(3)."""
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG)


def _field(name: str, value: str) -> bytes:
    """One field; with its length where the value has lines."""
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)

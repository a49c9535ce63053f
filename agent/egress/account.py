"""The durable account of every byte that left this gateway: by destination and category.

Counting is in memory, waits for no disk, and never raises.  A thread of its own adds the sums to
`egress.db` every few seconds and at the end, and syncs them.  A disk that is full, read-only or
failing costs nothing: what could not be written is kept and written when the disk works again.
A damaged file is set aside, and a new one begins with what this process knows, or with what can
still be read.

What can be lost: the last `FLUSH_S` seconds of a process that was killed or lost its power.  How
often that may have been is counted, too (`cuts`).
"""

import logging
import sqlite3
import threading
import time
from pathlib import Path

from agent.egress import store
from agent.egress.categories import CATEGORIES, PROTOCOL, TLS, UNKNOWN
from agent.egress.classify import Classify, FederationMessages
from agent.egress.lines import Account, Key, Line, add, add_all
from agent.egress.meter import LinkMeter
from agent.storage import DurableFile
from wire.database import DiskError, set_aside_files, transaction

logger = logging.getLogger(__name__)

FILE_NAME = "egress.db"
FLUSH_S = 10.0
_IDLE_S = 60.0
"""When nothing but signs of life was sent; each writing is work for a card."""
_GOODBYE_S = 10.0
_CLIENTS = 128
OTHERS = "other clients"
"""Who reads this gateway beyond the first `_CLIENTS` addresses."""
_CLIENT = " client "


class Egress:
    """Owner of the account.

    Args:
      path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.problem = ""
        """What is wrong with the disk now; empty when nothing is."""
        self._lock = threading.Lock()
        self._kept: dict[Key, Line] = {}
        self._writing: dict[Key, Line] = {}
        self._new: dict[Key, Line] = {}
        self._clients: set[str] = set()
        self._is_urgent = False
        self._since, self._cuts = time.time(), 0
        self._file: DurableFile | None = None
        self._is_begun = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._classify = FederationMessages()

    def count(self, destination: str, category: str, messages: int, size: int) -> None:
        """Add bytes that have left; from any thread."""
        known = category if category in CATEGORIES else UNKNOWN
        now = time.time()
        with self._lock:
            add(self._new, Line(destination, known, messages, size, now, now))
            self._is_urgent = self._is_urgent or known not in (PROTOCOL, TLS)

    def count_client(self, protocol: str, address: str, category: str, size: int) -> None:
        """Add an answer to a client of this gateway's own servers; from any thread."""
        name = f"{protocol}{_CLIENT}{address}"
        with self._lock:
            if name not in self._clients and len(self._clients) >= _CLIENTS:
                name = OTHERS
            self._clients.add(name)
        self.count(name, category, 1, size)

    def broker(self, host: str, port: int) -> LinkMeter:
        """The meter of one connection to the federation's broker."""
        return self.link(f"broker {host}:{port}", self._classify)

    def link(self, destination: str, classify: Classify) -> LinkMeter:
        """The meter of one MQTT connection."""

        def count(category: str, messages: int, size: int) -> None:
            self.count(destination, category, messages, size)

        return LinkMeter(count, classify)

    def account(self) -> Account:
        """What has left so far, written or not."""
        with self._lock:
            lines = dict(self._kept)
            add_all(lines, self._writing.values())
            add_all(lines, self._new.values())
            return Account(since=self._since, cuts=self._cuts, lines=tuple(lines.values()))

    def start(self) -> None:
        """Begin to write."""
        if self._path is not None and self._thread is None:
            self._thread = threading.Thread(target=self._write_for_ever, name="egress", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what is left; a disk that hangs is not waited for."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_GOODBYE_S)

    def _write_for_ever(self) -> None:
        written_s = time.monotonic()
        self._flush()
        while not self._stopping.wait(FLUSH_S):
            if self._is_urgent or self.problem or time.monotonic() - written_s >= _IDLE_S:
                written_s = time.monotonic()
                self._flush()
        self._flush()
        self._end()

    def _flush(self) -> None:
        with self._lock:
            self._writing, self._new, self._is_urgent = self._new, {}, False
            writing = tuple(self._writing.values())
        try:
            self._open()
            if self._file is not None and writing:
                self._file.write(lambda database: store.add_lines(database, writing), small=True)
        except DiskError as error:
            if self._file is None and not self.problem:  # else the file has said so
                logger.warning("the account of what leaves waits for its disk: %s", error)
            self.problem = str(error)
            with self._lock:
                add_all(self._writing, self._new.values())
                self._new, self._writing = self._writing, {}
        else:
            self.problem = ""
            with self._lock:
                add_all(self._kept, writing)
                self._writing = {}

    def _open(self) -> None:
        """Open the file, and read it once, when that was not possible before.

        Raises:
          DiskError: it still is not.
        """
        if self._file is None:
            self._file = DurableFile(self._path or ":memory:", self._prepare, durable=True)
        if not self._is_begun:
            found = self._file.write(store.begin, small=True)
            self._is_begun = True
            with self._lock:
                self._since, self._cuts = found.since, found.cuts
                add_all(self._kept, found.lines)
                named = {line.destination for line in found.lines}
                self._clients |= {name for name in named if _CLIENT in name}

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Make what is missing; a new file begins with what was known before."""
        if store.is_made(database):
            return
        damaged = set_aside_files(self._path)[-1:] if self._path is not None else []
        known = tuple(self._kept.values()) or tuple(
            line for file in damaged for line in store.salvaged(file)
        )
        since = min([self._since, *(line.first for line in known)])
        with transaction(database):
            begun = Account(since=since, cuts=self._cuts, lines=known)
            store.make(database, begun, is_open=self._is_begun)

    def _end(self) -> None:
        """Note that nothing is missing."""
        if self._file is None:
            return
        if not self.problem:
            try:
                self._file.write(store.finish, small=True)
            except DiskError as error:
                logger.warning("the account of what left is not closed: %s", error)
        self._file.close()

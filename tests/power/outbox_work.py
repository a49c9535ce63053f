"""A process that uses an outbox as the agent does, and says what it has done.

    python -m tests.power.outbox_work DIRECTORY RUN SABOTAGE

Each step is one call of the outbox; after it, the account of the outbox is promised.  Run `first`
dies without closing, `second` goes on and closes, `third` begins a new incarnation; `large` adds
updates until SQLite moves its log into the file by itself.
"""

import hashlib
import os
import random
import sys
from pathlib import Path
from typing import Any

from agent.outbox import Outbox, UpdateId
from tests.power.replay import Promises
from tests.power.sabotage import sabotage
from wire.messages import Receipt

QUOTA_BYTES = 1 << 30
FILE = "outbox.db"
Account = list[Any]


def header_of(sequence: int) -> bytes:
    """The header of every update with this sequence."""
    return b"header %d" % sequence


def content_of(sequence: int, size: int) -> bytes:
    """Its content."""
    return random.Random(sequence).randbytes(size)


def account_of(outbox: Outbox) -> Account:
    """Everything that the outbox says of its updates; of those to be offered, their bytes."""
    offers = [
        (str(offer.id), offer.header.hex(), offer.content and _sha256(offer.content))
        for offer in (outbox.offer(at) for at in outbox.open_updates())
        if offer is not None
    ]
    entries = [
        (entry.incarnation, entry.sequence, entry.status, entry.version, entry.settled_at)
        for entry in outbox.account()
    ]
    counter = outbox.receipt_counter
    return [outbox.incarnation, outbox.produced, counter, entries, offers]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Work:
    """An outbox whose every step ends with a promise."""

    def __init__(self, directory: Path) -> None:
        self.outbox = Outbox(directory / FILE, QUOTA_BYTES)
        self._promises = Promises(directory)
        self.promise()

    def promise(self, **facts: object) -> None:
        """Say what is there now."""
        self._promises.make(account=account_of(self.outbox), **facts)

    def connect(self) -> None:
        """Take a session number."""
        self.promise(session=self.outbox.next_session())

    def add(self, size: int) -> UpdateId:
        """Add an update of so many bytes."""
        at = self.outbox.add(
            0, 1, lambda _, sequence: (header_of(sequence), content_of(sequence, size))
        )
        self.promise()
        return at

    def settle(self, at: UpdateId, status: str, counter: int) -> None:
        """Apply a receipt."""
        receipt = Receipt(
            incarnation=at.incarnation,
            sequence=at.sequence,
            status=status,  # type: ignore[arg-type]
            version=9,
        )
        self.outbox.settle((receipt,), counter)
        self.promise()

    def bury(self, at: UpdateId) -> None:
        """Make a tombstone of an update."""
        self.outbox.bury(at, b"tombstone %d" % at.sequence)
        self.promise()


def first(work: Work) -> None:
    """A new outbox; killed."""
    work.connect()
    updates = [work.add(size) for size in (100, 9000, 20000, 5000)]
    work.settle(updates[0], "committed", 1)
    work.settle(updates[0], "folded", 2)
    work.bury(updates[2])
    work.connect()


def second(work: Work) -> None:
    """After a crash."""
    work.connect()
    old = work.outbox.open_updates()
    updates = [work.add(size) for size in (3000, 40000)]
    work.settle(old[0], "refused", 3)
    work.settle(old[1], "dropped", 4)
    work.bury(updates[0])
    work.outbox.close()


def third(work: Work) -> None:
    """After a stop in peace; a copy of the card was noticed."""
    work.connect()
    old = work.outbox.open_updates()
    work.outbox.renew("the card was copied")
    work.promise()
    work.add(500)
    work.settle(old[-1], "folded", 5)
    work.add(700)
    work.outbox.close()


def large(work: Work) -> None:
    """More than 1000 pages, at which SQLite moves its log into the file."""
    work.connect()
    for size in (1_500_000, 900_000, 2_000_000, 600_000):
        at = work.add(size)
        work.settle(at, "folded", at.sequence)
    work.add(1000)


def opening(work: Work) -> None:
    """Only what a start does."""
    work.outbox.close()


RUNS = {"first": first, "second": second, "third": third, "large": large, "opening": opening}


def main() -> None:
    """Do one run."""
    sabotage(sys.argv[3])
    RUNS[sys.argv[2]](Work(Path(sys.argv[1])))
    os._exit(0)


if __name__ == "__main__":
    main()

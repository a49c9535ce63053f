"""A process that commits updates to the coordinator's store, and says what it has receipted.

    python -m tests.power.coordinator_work DIRECTORY RUN SABOTAGE

Run `first` is killed, `second` hears old updates again as after a lost receipt and stops in peace,
`third` goes on from there and is killed.
"""

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from coordinator.aggregate import Buffer
from coordinator.federation import Federation
from coordinator.ingest import Update
from coordinator.store import KnownAgent, Store
from tests.coordinator.committing import TOML, offered
from tests.coordinator.small_federation import P, evaluation, open_federation
from tests.power.replay import Promises
from tests.power.sabotage import sabotage
from wire.chunks import sha256
from wire.messages import Receipt, Report

FILE = "coordinator.db"
BATCH = 3
UPDATES = 27
AGENTS = ("press-0", "press-1", "press-2")


def updates() -> list[Update]:
    """Every update that the agents have."""
    return offered()[:UPDATES]


def reopened(directory: Path) -> tuple[Store, Federation]:
    """The store and the federation as a coordinator opens them."""
    store = Store(directory / FILE)
    return store, open_federation(store, TOML)


def account_of(store: Store, federation: Federation) -> dict[str, Any]:
    """Everything that decides what the federation learns next, as JSON.

    Without what agents say again after a restart and the store keeps softly: their births, their
    evaluations, the count of duplicates.
    """
    saved = federation.saved
    buffer = _buffer(store)
    return {
        **learned_of(store, federation),
        "state": sha256(msgspec.msgpack.encode(saved)).hex(),
        "head": federation.head_envelope.hex(),
        "contents": [sha256(store.content(content.digest)).hex() for content in saved.contents],
        "buffered": [sorted(buffer.agents), buffer.weight],
        "training": store.training,
    }


def _buffer(store: Store) -> Buffer:
    buffer = store.load_buffer(P, buckets=1)
    assert buffer is not None
    return buffer


def learned_of(store: Store, federation: Federation) -> dict[str, Any]:
    """What the updates made: which one counts where, and all numbers of the model."""
    known = [store.known_update(update.header) for update in updates()]
    return {
        "updates": [item and [item.digest.hex(), item.status, item.version] for item in known],
        "memberships": [list(row) for row in store.memberships()],
        "versions": [
            (store.version_digest(version) or b"").hex()
            for version in range(federation.saved.version + 1)
        ],
        "train": federation.saved.train.content.digest.hex(),
        "total": sha256(_buffer(store).total.tobytes()).hex(),
        "optimizer": sha256(store.vector("optimizer").tobytes()).hex(),
        "average": sha256(store.vector("average").tobytes()).hex(),
    }


class Work:
    """A coordinator whose every step ends with a promise."""

    def __init__(self, directory: Path) -> None:
        self.store, self.federation = reopened(directory)
        self._promises = Promises(directory)
        self.promise(boot=self.store.next_boot())

    def promise(self, **facts: object) -> None:
        """Say what is there now."""
        self._promises.make(account=account_of(self.store, self.federation), **facts)

    def enrol(self) -> None:
        """Agents are born."""
        for agent in AGENTS:
            known = KnownAgent(agent, "site", bytes(32), 1, "0" * 16, 1)
            self.store.keep_agent(known, "online")
            self.promise(enrolled=agent)

    def commit(self, batches: range) -> None:
        """Take updates and receipt them."""
        every = updates()
        for batch in batches:
            some = every[batch * BATCH : (batch + 1) * BATCH]
            result = self.federation.commit(some, 0.0)
            self.promise(receipts=[_as_fact(*receipt) for receipt in result.receipts])

    def count_duplicates(self) -> None:
        """An old header comes; it is counted with the next tick, softly."""
        self.federation.status_of(updates()[0].header)
        self.federation.tick(0.0)
        self.promise()

    def judge(self) -> None:
        """A site reports on what the head names."""
        digest = self.federation.saved.serve.content.digest
        report = Report(
            head=self.federation.head.sequence, evaluations=(evaluation(digest, 1.0, 40),)
        )
        self.federation.on_report("press-0", "site", report, 0.0)
        self.promise()


def _as_fact(agent: str, receipt: Receipt) -> list[object]:
    return [agent, receipt.incarnation, receipt.sequence, receipt.status]


def first(work: Work) -> None:
    """From nothing; killed."""
    work.enrol()
    work.commit(range(4))
    work.count_duplicates()
    work.judge()


def second(work: Work) -> None:
    """Everything is offered again, and more; stopped in peace."""
    work.commit(range(6))
    for switch in ("closed", "open"):
        work.store.set_training(switch)
        work.federation.tick(0.0)
        work.promise()
    work.store.close()


def third(work: Work) -> None:
    """The rest; killed."""
    work.commit(range(5, 9))


def main() -> None:
    """Do one run."""
    sabotage(sys.argv[3])
    {"first": first, "second": second, "third": third}[sys.argv[2]](Work(Path(sys.argv[1])))
    os._exit(0)


if __name__ == "__main__":
    main()

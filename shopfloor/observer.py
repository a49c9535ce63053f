"""A separate witness, `python -m shopfloor.observer`: writes down what crosses the broker.

It takes no part in the federation, keeps each distinct update, receipt, head and content in a
ledger (JSON lines) and the bytes beside it, and decides nothing.  `shopfloor/ledger.py` reads the
ledger; with it a run is checked against a witness that neither agent nor coordinator could
influence.
"""

import argparse
import asyncio
import logging
import sys
import time
from pathlib import Path

import msgspec

from shopfloor.ledger import (
    CONTENTS,
    FILE,
    ChunkFact,
    Fact,
    HeadFact,
    ReceiptFact,
    UpdateFact,
)
from shopfloor.lifetime import add_parent_option, run_until_told_to_stop
from wire.codec import open_envelope, parse_body
from wire.errors import LinkDownError, MalformedError, WireError
from wire.messages import Head, Receipts, UpdateHeader, VersionRef
from wire.mqtt import BrokerSettings, Received, connect
from wire.topics import Topics


class Witness:
    """Writes the ledger; each fact once."""

    def __init__(self, directory: Path, federation: str) -> None:
        self._directory = directory
        self._topics = Topics(federation)
        (directory / CONTENTS).mkdir(parents=True, exist_ok=True)
        self._ledger = (directory / FILE).open("ab", buffering=0)
        self._seen: set[bytes] = set()

    def take(self, message: Received) -> None:
        """Write down what a message says."""
        kind = message.topic.removeprefix(f"{self._topics.base}/").partition("/")[0]
        take = {
            "up": self._on_update,
            "to": self._on_inbox,
            "head": self._on_head,
            "model": self._on_content,
        }.get(kind)
        if take is not None and message.payload:
            take(message)

    def _on_update(self, message: Received) -> None:
        at = self._topics.parse_update(message.topic)
        update = (at.agent, at.incarnation, at.sequence)
        if at.chunk is not None:
            name = f"update-{at.agent}-{at.incarnation}-{at.sequence}-{at.chunk}"
            self._keep(name, message.payload)
            self._write(ChunkFact(_now(), update, len(message.payload)))
            return
        header = parse_body(open_envelope(message.payload, "update"), UpdateHeader)
        digest = header.content.digest.hex()
        size = len(message.payload)
        self._write(UpdateFact(_now(), update, digest, header.scale, header.bits, size))

    def _on_inbox(self, message: Received) -> None:
        agent = message.topic.rpartition("/")[2]
        for item in parse_body(open_envelope(message.payload, "receipts"), Receipts).items:
            update = (agent, item.incarnation, item.sequence)
            digest = item.digest.hex()
            self._once(ReceiptFact(_now(), update, digest, item.status, item.reason, item.version))

    def _on_head(self, message: Received) -> None:
        head = parse_body(open_envelope(message.payload, "head"), Head)
        candidate = None if head.candidate is None else _named(head.candidate)
        self._once(
            HeadFact(
                _now(),
                head.sequence,
                head.training,
                _named(head.train),
                _named(head.serve),
                candidate,
            )
        )

    def _on_content(self, message: Received) -> None:
        _, digest, chunk = message.topic.rsplit("/", 2)
        if len(digest) != 64 or not digest.isalnum() or not chunk.isdecimal():
            raise MalformedError(message.topic)
        self._keep(f"model-{digest}-{chunk}", message.payload)

    def _keep(self, name: str, data: bytes) -> None:
        """Keep bytes under a name; other bytes under the same name get a name of their own."""
        path = self._directory / CONTENTS / name
        if not path.exists():
            path.write_bytes(data)
        elif path.read_bytes() != data:
            (self._directory / CONTENTS / f"{name}.conflict").write_bytes(data)

    def _once(self, fact: ReceiptFact | HeadFact) -> None:
        key = msgspec.json.encode(msgspec.structs.replace(fact, wall=0.0))
        if key not in self._seen:
            self._seen.add(key)
            self._write(fact)

    def _write(self, fact: Fact) -> None:
        self._ledger.write(msgspec.json.encode(fact) + b"\n")


def _now() -> float:
    return round(time.time(), 3)


def _named(version: VersionRef) -> tuple[int, str]:
    return version.version, version.content.digest.hex()


async def observe(port: int, federation: str, directory: Path) -> None:
    """Watch a broker until cancelled, through its restarts."""
    witness = Witness(directory, federation)
    topics = Topics(federation)
    filters = [
        topics.all_updates,
        topics.all_inboxes,
        topics.head,
        f"{topics.base}/model/#",
    ]
    while True:
        try:
            async with connect(BrokerSettings(port=port), "observer") as link:
                await link.subscribe(filters)
                print("ready", flush=True)
                async for message in link.messages():
                    try:
                        witness.take(message)
                    except WireError as error:
                        logging.getLogger("observer").warning("%s: %s", message.topic, error)
        except LinkDownError:
            await asyncio.sleep(0.2)


def main() -> int:
    """Run the observer; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m shopfloor.observer", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="the broker's port on 127.0.0.1")
    parser.add_argument("--federation", required=True, help="name of the federation")
    parser.add_argument("--out", type=Path, required=True, help="directory of the ledger")
    add_parent_option(parser)
    options = parser.parse_args()
    work = observe(options.port, options.federation, options.out)
    asyncio.run(run_until_told_to_stop(work, options.parent_pid))
    return 0


if __name__ == "__main__":
    sys.exit(main())

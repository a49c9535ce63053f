"""A separate witness: `python -m shopfloor.observer` writes down everything that crosses the broker.

It subscribes as nobody's part of the federation, keeps each distinct update, receipt, head and
content in a ledger (JSON lines) and the bytes beside it, and decides nothing.  `shopfloor/ledger.py`
reads the ledger; with it a run is checked against a witness that neither agent nor coordinator
could influence.
"""

import argparse
import asyncio
import json
import logging
import sys
import time
from pathlib import Path

from shopfloor.lifetime import add_parent_option, run_until_told_to_stop
from wire.codec import open_envelope, parse_body
from wire.errors import LinkDownError, MalformedError, WireError
from wire.messages import Head, Receipts, UpdateHeader
from wire.mqtt import BrokerSettings, Received, connect
from wire.topics import Topics

CONTENTS = "contents"


class Witness:
    """Writes the ledger; each fact once."""

    def __init__(self, directory: Path, federation: str) -> None:
        self._directory = directory
        self._topics = Topics(federation)
        (directory / CONTENTS).mkdir(parents=True, exist_ok=True)
        self._ledger = (directory / "ledger.jsonl").open("a", encoding="utf-8", buffering=1)
        self._seen: set[tuple[object, ...]] = set()

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
        key = [at.agent, at.incarnation, at.sequence]
        if at.chunk is not None:
            name = f"update-{at.agent}-{at.incarnation}-{at.sequence}-{at.chunk}"
            self._keep(name, message.payload)
            self._write({"kind": "chunk", "update": key, "bytes": len(message.payload)})
            return
        header = parse_body(open_envelope(message.payload, "update"), UpdateHeader)
        fact = {
            "kind": "update",
            "update": key,
            "digest": header.content.digest.hex(),
            "base": header.base_version,
            "weight": header.weight,
            "scale": header.scale,
            "bits": header.bits,
            "bytes": header.content.size,
            "header_bytes": len(message.payload),
            "dropped": header.dropped,
        }
        self._write(fact)

    def _on_inbox(self, message: Received) -> None:
        agent = message.topic.rpartition("/")[2]
        for receipt in parse_body(open_envelope(message.payload, "receipts"), Receipts).items:
            self._once(
                {
                    "kind": "receipt",
                    "update": [agent, receipt.incarnation, receipt.sequence],
                    "status": receipt.status,
                    "reason": receipt.reason,
                    "version": receipt.version,
                }
            )

    def _on_head(self, message: Received) -> None:
        head = parse_body(open_envelope(message.payload, "head"), Head)
        named = {"train": head.train, "serve": head.serve, "candidate": head.candidate}
        fact: dict[str, object] = {
            "kind": "head",
            "sequence": head.sequence,
            "training": head.training,
        }
        for name, version in named.items():
            if version is not None:
                fact[name] = [version.version, version.content.digest.hex()]
        self._once(fact)

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

    def _once(self, fact: dict[str, object]) -> None:
        key = tuple(repr(value) for value in fact.values())
        if key not in self._seen:
            self._seen.add(key)
            self._write(fact)

    def _write(self, fact: dict[str, object]) -> None:
        self._ledger.write(json.dumps({"wall": round(time.time(), 3), **fact}) + "\n")


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

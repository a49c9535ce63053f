"""The tape: what every agent said, recorded on its own link before anything could happen to it.

The separate observer hears what crosses the broker and misses what the broker loses.  The tape runs
in the agents' links, so no update reaches anybody without having passed it; the weights are folded
again from its bytes.  Contents are kept by SHA-256, as headers name them, so two contents under one
id (a restored card) are two updates here.

    DIRECTORY/updates.jsonl    one line for each distinct header; one content may have several,
                               cut into larger or smaller chunks
    DIRECTORY/chunks/{sha256}  the bytes
"""

from pathlib import Path

import msgspec

from shopfloor.ledger import UpdateId
from wire.chunks import sha256
from wire.codec import open_envelope, parse_body
from wire.errors import WireError
from wire.messages import Masked, UpdateHeader
from wire.topics import Topics

_FILE = "updates.jsonl"
_CHUNKS = "chunks"


class Taped(msgspec.Struct, frozen=True):
    """What the header of an update said."""

    update: UpdateId
    digest: str
    chunks: tuple[str, ...]
    scale: float
    bits: int
    weight: int
    lineage: int
    base_version: int
    masked: Masked | None = None


class Tape:
    """Recorder and reader of the tape; reading starts with what an earlier one recorded."""

    def __init__(self, directory: Path, federation: str) -> None:
        self._topics = Topics(federation)
        self._prefix = f"{self._topics.base}/up/"
        self._chunks = directory / _CHUNKS
        self._chunks.mkdir(parents=True, exist_ok=True)
        self._known: dict[tuple[UpdateId, str], list[Taped]] = {}
        path = directory / _FILE
        if path.exists():
            for line in path.read_bytes().splitlines():
                self._keep(msgspec.json.decode(line, type=Taped))
        self._file = path.open("ab", buffering=0)

    def saw(self, topic: str, payload: bytes) -> None:
        """Record a message, if it is part of an update."""
        if not topic.startswith(self._prefix):
            return
        at = self._topics.parse_update(topic)
        if at.chunk is not None:
            self._keep_chunk(payload)
            return
        try:
            header = parse_body(open_envelope(payload, "update"), UpdateHeader)
        except WireError:
            return  # no agent of ours says this; whatever it is, it is no update
        taped = Taped(
            (header.agent, header.incarnation, header.sequence),
            header.content.digest.hex(),
            tuple(chunk.hex() for chunk in header.content.chunks),
            header.scale,
            header.bits,
            header.weight,
            header.lineage,
            header.base_version,
            header.masked,
        )
        if taped not in self._known.get((taped.update, taped.digest), []):
            self._keep(taped)
            self._file.write(msgspec.json.encode(taped) + b"\n")

    def _keep(self, taped: Taped) -> None:
        self._known.setdefault((taped.update, taped.digest), []).append(taped)

    def _keep_chunk(self, payload: bytes) -> None:
        path = self._chunks / sha256(payload).hex()
        if not path.exists():
            path.write_bytes(payload)

    def digests(self) -> dict[UpdateId, list[str]]:
        """Every update offered, with its contents' SHA-256 (hex) in order of first sight."""
        found: dict[UpdateId, list[str]] = {}
        for update, digest in self._known:
            found.setdefault(update, []).append(digest)
        return found

    def header(self, update: UpdateId, digest: str) -> Taped | None:
        """What the header said, None when it never passed."""
        found = self._known.get((update, digest))
        return found[0] if found else None

    def content(self, update: UpdateId, digest: str) -> bytes | None:
        """The bytes of an update, None when some never passed or are not the announced ones."""
        cuts = map(self._joined, self._known.get((update, digest), []))
        return next((whole for whole in cuts if whole is not None), None)

    def _joined(self, taped: Taped) -> bytes | None:
        parts: list[bytes] = []
        for chunk in taped.chunks:
            path = self._chunks / chunk
            if not path.exists():
                return None
            parts.append(path.read_bytes())
        whole = b"".join(parts)
        return whole if sha256(whole).hex() == taped.digest else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

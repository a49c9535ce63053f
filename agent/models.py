"""Model slots: the bundle, the versions a head names, and the head itself, durable and verified.

A content is written only after its SHA-256 was checked, and the head is accepted in the same file,
so a restart finds either the old state or the new one.  Kept: what the newest head names, and what
the head in use names, which stays until the newest one passed every check.
"""

from pathlib import Path

from wire.chunks import Assembly
from wire.database import open_database, transaction
from wire.messages import Content, Head

_SCHEMA = """
CREATE TABLE IF NOT EXISTS contents (digest BLOB PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  envelope BLOB NOT NULL,  -- the newest one accepted
  in_use BLOB              -- the newest one whose contents passed every check
) STRICT;
"""


class Models:
    """Owner of the model slots' file."""

    def __init__(self, path: Path | str) -> None:
        self._db = open_database(path, _SCHEMA, durable=True)

    @property
    def head_envelope(self) -> bytes | None:
        """The last accepted head as it came, still signed."""
        row = self._db.execute("SELECT envelope FROM head").fetchone()
        return bytes(row[0]) if row else None

    @property
    def head_in_use(self) -> bytes | None:
        """The last head whose contents passed every check, still signed."""
        row = self._db.execute("SELECT in_use FROM head").fetchone()
        return bytes(row[0]) if row and row[0] is not None else None

    def accept_head(self, envelope: bytes, head: Head, in_use: Head | None) -> None:
        """Make a verified head durable and drop contents that nothing names any more."""
        keep = [*(_digests(head) | (_digests(in_use) if in_use else set()))]
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO head VALUES (1, ?, NULL)"
                " ON CONFLICT (one) DO UPDATE SET envelope = excluded.envelope",
                (envelope,),
            )
            marks = ",".join("?" * len(keep))
            self._db.execute(f"DELETE FROM contents WHERE digest NOT IN ({marks})", keep)  # noqa: S608

    def use_head(self, envelope: bytes) -> None:
        """Remember, durably, the head whose contents passed every check."""
        with transaction(self._db):
            self._db.execute("UPDATE head SET in_use = ?", (envelope,))

    def keep(self, digest: bytes, data: bytes) -> None:
        """Store a content whose hash was checked."""
        with transaction(self._db):
            self._db.execute("INSERT OR IGNORE INTO contents VALUES (?, ?)", (digest, data))

    def read(self, digest: bytes) -> bytes | None:
        """Return a stored content."""
        row = self._db.execute("SELECT data FROM contents WHERE digest = ?", (digest,)).fetchone()
        return bytes(row[0]) if row else None

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _digests(head: Head) -> set[bytes]:
    named = {head.bundle.digest, head.train.content.digest, head.serve.content.digest}
    return named | ({head.candidate.content.digest} if head.candidate else set())


class Downloads:
    """Contents on their way in, keyed by the topic level that names them."""

    def __init__(self) -> None:
        self._assemblies: dict[str, Assembly] = {}

    def expect(self, key: str, content: Content) -> bool:
        """Start (or keep) assembling; return whether this content was not expected before."""
        held = self._assemblies.get(key)
        if held is not None and held.content.digest == content.digest:
            return False
        self._assemblies[key] = Assembly(content)
        return True

    def forget_all_but(self, keys: set[str]) -> list[str]:
        """Stop expecting everything else; return the keys given up."""
        gone = [key for key in self._assemblies if key not in keys]
        for key in gone:
            del self._assemblies[key]
        return gone

    def add(self, key: str, chunk: int, data: bytes) -> tuple[Content, bytes] | None:
        """Take a chunk; return the content when that made it whole.

        A wrong chunk raises `MalformedError` and leaves the rest as it was.
        """
        assembly = self._assemblies.get(key)
        if assembly is None:
            return None
        assembly.add(chunk, data)
        if assembly.missing:
            return None
        del self._assemblies[key]
        return assembly.content, assembly.join()

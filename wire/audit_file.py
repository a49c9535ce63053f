r"""Files of the audit: a whole log as the coordinator exports it, and heads that a site collected.

A file is a line that says what it is, then frames: a length (4 bytes, big endian), so many bytes.

    "journeyman audit log 1\n"            "journeyman heads 1\n"
    opening     federation, root, counts  opening     federation, agent, count
    entries     as they were hashed       heads       signed envelopes
    heads       signed envelopes
    signature   of the coordinator, 64 bytes

The signature is Ed25519 over

    "journeyman-v1" 00 federation 00 "audit-log" 00 size(8 bytes, big endian) root SHA-256(file)

with the tree's size and root, and the SHA-256 of all bytes of the file before the signature's
frame: so no byte can be changed, and whoever exported the file vouches for this size and root as
for a head's.  A file of heads needs none: each is signed.

Both are read in one pass, frame by frame, each frame within the cap of what it holds.  Refuses
other lines, frames that are cut off, and bytes after the last one.  No signature is checked here.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final, TypeVar

import msgspec

from wire.audit_entries import MAX_ENTRY_BYTES
from wire.codec import MAX_BYTES
from wire.errors import MalformedError, SettingsError, TooLargeError
from wire.messages import Count, Name, PublicKey, TreeHead
from wire.signing import PrivateKey
from wire.signing import PublicKey as SigningKey

LOG_LINE: Final = b"journeyman audit log 1\n"
HEADS_LINE: Final = b"journeyman heads 1\n"
MAX_HEADS: Final = 1024
_LENGTH: Final = 4
_OPENING_BYTES: Final = 1024
_SIGNATURE_BYTES: Final = 64

T = TypeVar("T")


class LogOpening(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What comes in a log's file.

    Attributes:
      root: the federation's root key, as the coordinator has it pinned; compare it with your own.
      entries: how many.
      heads: how many, the newest last.
    """

    federation: Name
    root: PublicKey
    entries: Count
    heads: Annotated[int, msgspec.Meta(ge=0, le=MAX_HEADS)]


class HeadsOpening(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What comes in a file of heads, and who collected them."""

    federation: Name
    agent: Name
    heads: Annotated[int, msgspec.Meta(ge=0, le=MAX_HEADS)]


def signed_bytes(federation: str, tree: TreeHead, file_digest: bytes) -> bytes:
    """What the signature at the end of a log's file is over."""
    head = f"journeyman-v1\0{federation}\0audit-log\0".encode()
    return head + tree.size.to_bytes(8, "big") + tree.root + file_digest


class LogWriter:
    """Writes a log's file, front to back: all entries, then all heads, then `finish`."""

    def __init__(self, stream: BinaryIO, opening: LogOpening) -> None:
        self._stream, self._opening = stream, opening
        self._digest = hashlib.sha256()
        self._write(LOG_LINE)
        self.frame(msgspec.msgpack.encode(opening))

    def frame(self, data: bytes) -> None:
        """Write one entry or head."""
        self._write(len(data).to_bytes(_LENGTH, "big"))
        self._write(data)

    def finish(self, tree: TreeHead, key: PrivateKey) -> None:
        """Sign what was written."""
        digest = self._digest.digest()
        self.frame(key.sign(signed_bytes(self._opening.federation, tree, digest)))

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)


@dataclass(frozen=True)
class Signed:
    """The end of a log's file.

    Attributes:
      digest: SHA-256 of all before it.
      signature: whose it is, is not checked yet.
    """

    digest: bytes
    signature: bytes

    def verify(self, federation: str, tree: TreeHead, key: SigningKey) -> None:
        """Raise `SignatureError` unless this key signed this file with this tree."""
        data = signed_bytes(federation, tree, self.digest)
        key.verify(self.signature, data, "the exported log")


class LogReader:
    """Reads a log's file once, front to back: `entries`, `heads`, `end`, in this order.

    Raises:
      WireError: it is no such file, or cut off; from every method.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._frames = _Frames(stream, LOG_LINE, "an exported audit log")
        self.opening = self._frames.opening(LogOpening)

    def entries(self) -> Iterator[bytes]:
        """The entries' bytes, in order."""
        for _ in range(self.opening.entries):
            yield self._frames.next(MAX_ENTRY_BYTES, "an entry")

    def heads(self) -> Iterator[bytes]:
        """The heads' envelopes, the newest last."""
        for _ in range(self.opening.heads):
            yield self._frames.next(MAX_BYTES["head"], "a head")

    def end(self) -> Signed:
        """The signature, after which nothing may come."""
        digest = self._frames.digest
        signature = self._frames.next(_SIGNATURE_BYTES, "the signature")
        if len(signature) != _SIGNATURE_BYTES:
            raise MalformedError(f"a signature of {len(signature)} bytes, not {_SIGNATURE_BYTES}")
        self._frames.check_end()
        return Signed(digest, signature)


def write_heads(stream: BinaryIO, opening: HeadsOpening, heads: Iterable[bytes]) -> None:
    """Write a file of heads; `opening.heads` of them."""
    stream.write(HEADS_LINE)
    stream.writelines(
        len(frame).to_bytes(_LENGTH, "big") + frame
        for frame in (msgspec.msgpack.encode(opening), *heads)
    )


def read_heads(stream: BinaryIO) -> tuple[HeadsOpening, list[bytes]]:
    """Read what `write_heads` wrote.

    Raises:
      WireError: it is no such file.
    """
    frames = _Frames(stream, HEADS_LINE, "a file of heads (journeyman-agent trust heads)")
    opening = frames.opening(HeadsOpening)
    heads = [frames.next(MAX_BYTES["head"], "a head") for _ in range(opening.heads)]
    frames.check_end()
    return opening, heads


def open_file(path: Path) -> BinaryIO:
    """Open a file to read; `SettingsError` where it can not be."""
    try:
        return path.open("rb")
    except OSError as error:
        reason = f"can not read it: {error.strerror}"
        raise SettingsError(str(path), None, None, reason) from None


class _Frames:
    """A stream of frames after its first line, and the SHA-256 of what was read."""

    def __init__(self, stream: BinaryIO, line: bytes, what: str) -> None:
        self._stream, self._sha256 = stream, hashlib.sha256()
        if self._read(len(line)) != line:
            raise MalformedError(f"not {what}: it does not begin with {line.decode().strip()!r}")

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that was read."""
        return self._sha256.digest()

    def opening(self, what: type[T]) -> T:
        data = self.next(_OPENING_BYTES, "the opening")
        try:
            opening = msgspec.msgpack.decode(data, type=what)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
            raise MalformedError(f"malformed opening: {error}") from None
        return opening

    def next(self, cap: int, what: str) -> bytes:
        """The next frame, of at most `cap` bytes."""
        length = int.from_bytes(self._exactly(_LENGTH, what), "big")
        if length > cap:
            raise TooLargeError(f"{what} of {length} bytes; at most {cap}")
        return self._exactly(length, what)

    def check_end(self) -> None:
        """Raise `MalformedError` unless all was read."""
        if self._read(1):
            raise MalformedError("bytes after the end")

    def _exactly(self, count: int, what: str) -> bytes:
        data = self._read(count)
        if len(data) != count:
            raise MalformedError(f"the file ends in {what}: it is cut off")
        return data

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        self._sha256.update(data)
        return data

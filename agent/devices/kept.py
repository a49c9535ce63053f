"""What a device was given last, in a file: an agent that starts again goes on from there.

The same served version must give the same bytes after a restart, or the device would get a model
that it has already: so the exported file is kept, and not made again of newer rows.  And what was
refused or taken back must not be offered again.

Bytes: 8 bytes of `_MAGIC`, the SHA-256 of the rest, and a msgpack map.  The SHA-256 finds
corruption; a damaged file is dropped with a log line, and costs one more export.
"""

import hashlib
import logging
from pathlib import Path
from typing import Annotated

import msgspec

from agent.learning.checkpoint import CheckpointError, read_capped, write_durably
from wire.errors import one_line
from wire.messages import Count, Digest

logger = logging.getLogger(__name__)

_MAGIC = b"JMDEVI1\n"
_HEADER_BYTES = len(_MAGIC) + hashlib.sha256().digest_size
_LARGEST_BYTES = 16 << 20


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model of one device.

    Attributes:
      key: of the served model that it is made from, and of how its inputs are scaled.
      bundle: SHA-256 of its bundle.
      version: served version.
      model: int8 `.tflite` file; empty where none could be made.
      weights: safetensors: with these the bundle's graph takes the device's samples.
      gain, offset: of the inputs, float32 by channel.
      vectors, rows, outputs: golden ones, as `wire.bridge.Offer`.
      rejected: why it does not run; empty while nothing is against it.
      refused: key of a newer one that was rejected, so that the device runs this one again; empty
        for none.
      refused_reason: why.
    """

    key: Digest
    bundle: Digest
    version: Count
    model: bytes = b""
    weights: bytes = b""
    gain: bytes = b""
    offset: bytes = b""
    vectors: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    rows: bytes = b""
    outputs: bytes = b""
    rejected: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    refused: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    refused_reason: Annotated[str, msgspec.Meta(max_length=2000)] = ""


_decoder = msgspec.msgpack.Decoder(Kept)


class KeptFile:
    """Owner of one device's file.

    Args:
      directory: the agent's state directory, locked by this process.
      socket, device: of its table; they name the file.
      kind: `model` for what it was given last, `good` for what was confirmed last.
    """

    def __init__(self, directory: Path, socket: str, device: str, kind: str = "model") -> None:
        name = hashlib.sha256(f"{socket}\n{device}".encode()).hexdigest()[:16]
        self._path = directory / f"device-{name}.{kind}"

    def load(self) -> Kept | None:
        """What an earlier process kept; drop a file that can not be read."""
        try:
            data = read_capped(self._path, _LARGEST_BYTES)
            body = data[_HEADER_BYTES:]
            if data[:_HEADER_BYTES] == _MAGIC + hashlib.sha256(body).digest():
                return _decoder.decode(body)
            reason = "it was cut or changed: its SHA-256 differs"
        except FileNotFoundError:
            return None
        except (OSError, CheckpointError, msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = one_line(str(error))
        logger.warning("%s is dropped, its device gets a model anew: %s", self._path, reason)
        return None

    def keep(self, kept: Kept) -> None:
        """Replace the file; a disk that does not take it is logged."""
        body = msgspec.msgpack.encode(kept)
        try:
            write_durably(self._path, _MAGIC + hashlib.sha256(body).digest() + body)
        except OSError as error:
            logger.warning("a device's model is not kept for a restart: %s", error)

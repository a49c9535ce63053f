"""The model that a site chose to serve, and the file that keeps it.

Responsible for `personal.model` in the agent's state directory: weights, what inputs are
standardised by besides, why it was chosen and for which bundle, version and number of rows.

Bytes: 8 bytes of `_MAGIC`, the SHA-256 of the rest, and a msgpack map with safetensors files in it.
The SHA-256 finds corruption; it is no signature, and the bytes come from the agent's own state
directory.  A damaged file is dropped with a log line; a disk that takes nothing costs no more than
a new choice after the next start.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.learning.checkpoint import (
    LARGEST_CHECKPOINT,
    CheckpointError,
    read_capped,
    write_durably,
)
from agent.learning.personalise import GLOBAL, Candidate, Kind, ModelName, Normalisation
from wire.chunks import sha256
from wire.errors import MalformedError, WireError, one_line
from wire.messages import Count, Digest
from wire.standards import Standard, read_standard, write_standard
from wire.tensors import Params, read_safetensors, write_params

logger = logging.getLogger(__name__)

_FILE = "personal.model"
_MAGIC = b"JMPERS1\n"
_HEADER_BYTES = len(_MAGIC) + hashlib.sha256().digest_size


@dataclass(frozen=True)
class Basis:
    """What a choice was made for.

    Attributes:
      bundle: SHA-256 of the bundle.
      served: SHA-256 of the served version's weights.
      version: its number.
      rows: training rows that there were.
    """

    bundle: bytes
    served: bytes
    version: int
    rows: int


@dataclass(frozen=True, eq=False)
class Serving:
    """The model that scores this site's live signal.

    Attributes:
      candidate: its weights, and what inputs are standardised by besides.
      digest: SHA-256 of the weights' safetensors file.
      reason: why it was chosen; empty before anything was.
    """

    candidate: Candidate
    digest: bytes
    reason: str = ""

    @property
    def kind(self) -> Kind:
        """What sort of model it is."""
        return self.candidate.kind

    @property
    def params(self) -> Params:
        """Its weights."""
        return self.candidate.params

    def inputs(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inputs that `Adopted.examples` made, as this model takes them."""
        return self.candidate.inputs(x)


@dataclass(frozen=True, eq=False)
class Chosen:
    """A choice, and what it was made for."""

    basis: Basis
    serving: Serving


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's body; of the global model as it is, `weights` is empty."""

    bundle: Digest
    served: Digest
    version: Count
    rows: Count
    model: ModelName
    normalisation: Normalisation
    reason: Annotated[str, msgspec.Meta(max_length=10_000)]
    weights: bytes = b""
    standard: bytes = b""


_decoder = msgspec.msgpack.Decoder(_Stored)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)


class OwnModelFile:
    """Owner of the file.

    Args:
      directory: the agent's state directory, locked by this process.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE

    def load(self) -> Chosen | None:
        """Return what an earlier process chose; drop a file that can not be read."""
        try:
            return _opened(read_capped(self._path, LARGEST_CHECKPOINT))
        except FileNotFoundError:
            return None
        except (OSError, CheckpointError, WireError, *_UNREADABLE) as error:
            reason = one_line(str(error))
            logger.warning("%s is dropped, the global model is served: %s", self._path, reason)
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s was not deleted: %s", self._path, error)
        return None

    def keep(self, chosen: Chosen) -> None:
        """Replace the file; a disk that does not take it is logged."""
        try:
            write_durably(self._path, _closed(chosen))
        except OSError as error:
            logger.warning("the chosen model is served, but not kept for a restart: %s", error)


def _closed(chosen: Chosen) -> bytes:
    basis, serving = chosen.basis, chosen.serving
    standard = serving.candidate.standard
    stored = _Stored(
        bundle=basis.bundle,
        served=basis.served,
        version=basis.version,
        rows=basis.rows,
        model=serving.kind.model,
        normalisation=serving.kind.normalisation,
        reason=serving.reason,
        weights=b"" if serving.kind == GLOBAL else write_params(serving.params),
        standard=b"" if standard is None else write_standard(standard),
    )
    body = msgspec.msgpack.encode(stored)
    return _MAGIC + hashlib.sha256(body).digest() + body


def _opened(data: bytes) -> Chosen:
    """Read the file's bytes.

    Raises:
      WireError, msgspec.DecodeError, UnicodeDecodeError: they are not what `keep` wrote.
    """
    body = data[_HEADER_BYTES:]
    if data[:_HEADER_BYTES] != _MAGIC + hashlib.sha256(body).digest():
        raise MalformedError("it was cut or changed: its SHA-256 differs")
    stored = _decoder.decode(body)
    kind = Kind(stored.model, stored.normalisation)
    has_standard = kind.normalisation == "local"
    if bool(stored.weights) != (kind != GLOBAL) or bool(stored.standard) != has_standard:
        raise MalformedError(f"its contents are not those of {kind}")
    weights = read_safetensors(stored.weights) if stored.weights else {}
    params = {name: value.astype(np.float32) for name, value in weights.items()}
    candidate = Candidate(kind, params, _standard(stored.standard) if has_standard else None)
    basis = Basis(stored.bundle, stored.served, stored.version, stored.rows)
    return Chosen(basis, Serving(candidate, sha256(stored.weights), stored.reason))


def _standard(data: bytes) -> Standard:
    """Read a standard of as many columns as its mean has."""
    return read_standard(data, read_safetensors(data).get("mean", np.zeros(0)).size)

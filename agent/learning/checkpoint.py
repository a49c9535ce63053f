"""A training's state between two steps, as a value, as bytes and as a file.

Responsible for what a training needs to go on bit-exactly, and for storing it so that a reader
sees a whole checkpoint or none. A checkpoint names its training by a digest of everything that
decides it (`fingerprint`); going on with another training is refused, not attempted.

Bytes: 8 bytes of `_MAGIC`, the SHA-256 of the rest, and a msgpack map; arrays are raw
little-endian values. The SHA-256 finds corruption; it is no signature, and the bytes come from
the agent's own state directory. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.learning.optimizers import OptimizerState
from agent.learning.params import Vector

LARGEST_CHECKPOINT = 128 << 20
"""Bytes; a model under `ir.Limits` has 4 Mi parameters, and one takes at most 20 bytes."""

_MAGIC = b"JMCKPT1\n"
_HEADER_BYTES = len(_MAGIC) + hashlib.sha256().digest_size

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class CheckpointError(ValueError):
    """The bytes are no checkpoint: cut, changed, too many, or of another format."""


class CheckpointMismatch(ValueError):  # noqa: N818 - states what happened, as the receipts do
    """The checkpoint belongs to another training: other rows, start, plan or loss."""


class Counts(msgspec.Struct, forbid_unknown_fields=True):
    """The numbers of a training in progress.

    Attributes:
      epoch: epochs completed.
      step: steps made in the epoch that is going on.
      examples: rows seen, counted again in every epoch.
      loss_first: weighted mean of the batches' losses in the first epoch, NaN before its first
        step, and when examples are clipped one by one, which yields no loss.
      loss_last: the same for the last epoch in which a step was made.
      loss_sum: sum of weight times loss in the epoch that is going on.
      weight_sum: sum of weights in the epoch that is going on.
      tail_count: steps whose parameters are in `Progress.tail_sum`.
      held_out_start: loss of the start on held-out rows, NaN without such rows.
      held_out_best: the smallest loss on held-out rows so far.
      best_epoch: epochs completed when it was reached; 0 is the start.
    """

    epoch: _Count = 0
    step: _Count = 0
    examples: _Count = 0
    loss_first: float = math.nan
    loss_last: float = math.nan
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    tail_count: _Count = 0
    held_out_start: float = math.nan
    held_out_best: float = math.nan
    best_epoch: _Count = 0


@dataclass
class Progress:
    """Everything that changes while training.

    Attributes:
      params: (P,), the parameters now.
      optimizer: the optimizer's state; its steps are the training's steps.
      best_params: (P,), the parameters of `best_epoch`; (0,) unless they may be returned.
      tail_sum: float64 (P,), sum of the parameters averaged so far; (0,) unless they are.
      counts: the numbers.
    """

    params: Vector
    optimizer: OptimizerState
    best_params: Vector
    tail_sum: NDArray[np.float64]
    counts: Counts

    def copy(self) -> Progress:
        """Return a copy that further steps do not change."""
        # Vectors and the optimizer's state are replaced by a step; only these two are changed.
        counts = msgspec.structs.replace(self.counts)
        return replace(self, tail_sum=self.tail_sum.copy(), counts=counts)


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    counts: Counts
    steps: _Count
    params: bytes
    averages: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=2)]
    best_params: bytes
    tail_sum: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)


@dataclass(frozen=True)
class Checkpoint:
    """Where a training can go on.

    Attributes:
      digest: `fingerprint` of the training, 32 bytes.
      progress: its state; treat as read-only.
    """

    digest: bytes
    progress: Progress

    def to_bytes(self) -> bytes:
        """Return the checkpoint's bytes."""
        progress = self.progress
        stored = _Stored(
            digest=self.digest,
            counts=progress.counts,
            steps=progress.optimizer.steps,
            params=_raw(progress.params),
            averages=tuple(_raw(average) for average in progress.optimizer.averages),
            best_params=_raw(progress.best_params),
            tail_sum=_raw(progress.tail_sum),
        )
        body = _encoder.encode(stored)
        return _MAGIC + hashlib.sha256(body).digest() + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a checkpoint's bytes.

        Raises:
          CheckpointError: they are none; says why.
        """
        if len(data) > LARGEST_CHECKPOINT:
            raise CheckpointError(f"{len(data)} bytes exceed {LARGEST_CHECKPOINT}")
        if len(data) < _HEADER_BYTES or data[: len(_MAGIC)] != _MAGIC:
            raise CheckpointError("the bytes do not begin as a checkpoint does")
        body = memoryview(data)[_HEADER_BYTES:]
        if hashlib.sha256(body).digest() != data[len(_MAGIC) : _HEADER_BYTES]:
            raise CheckpointError("the bytes were cut or changed: their SHA-256 differs")
        try:
            stored = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"not a checkpoint of this version: {error}") from error
        return cls(stored.digest, _progress(stored))

    def save(self, path: Path) -> None:
        """Write the checkpoint to a file, see `write_durably`."""
        write_durably(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a checkpoint's file.

        Raises:
          CheckpointError: the file holds none; names the file.
          OSError: the file cannot be read.
        """
        try:
            return cls.from_bytes(read_capped(path, LARGEST_CHECKPOINT))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error


def fingerprint(words: bytes, arrays: Iterable[NDArray[Any] | None]) -> bytes:
    """Return the SHA-256 of words and arrays: element types, shapes and values, in order."""
    digest = hashlib.sha256(len(words).to_bytes(8, "big") + words)
    for array in arrays:
        if array is None:
            digest.update(b"none;")
            continue
        plain = _little_endian(array)
        digest.update(f"{plain.dtype.str}{plain.shape};".encode())
        digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.digest()


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file by new bytes, mode 0600, so that a power cut leaves the old or the new.

    The bytes reach the disk before the name does, and the name before this returns: write and
    fsync a neighbour, rename it (POSIX: atomic), fsync the directory.

    Raises:
      OSError: the disk is full or the directory cannot be written.
    """
    neighbour = path.with_name(f".{path.name}.new")
    descriptor = os.open(neighbour, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    neighbour.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_capped(path: Path, largest: int) -> bytes:
    """Read a file of at most `largest` bytes.

    Raises:
      CheckpointError: it is larger.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise CheckpointError(f"the file exceeds {largest} bytes")
    return data


def _little_endian(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def _raw(array: NDArray[Any]) -> bytes:
    return _little_endian(array).tobytes()


def _progress(stored: _Stored) -> Progress:
    arrays = [stored.params, *stored.averages]
    optional = [(stored.best_params, 1), (stored.tail_sum, 2)]
    size = len(stored.params)
    fits = size % 4 == 0 and all(len(array) == size for array in arrays)
    if not fits or any(len(array) not in (0, size * width) for array, width in optional):
        raise CheckpointError("its arrays are not of one length")
    return Progress(
        params=_floats(stored.params),
        optimizer=OptimizerState(stored.steps, tuple(map(_floats, stored.averages))),
        best_params=_floats(stored.best_params),
        tail_sum=np.frombuffer(stored.tail_sum, "<f8").astype(np.float64),
        counts=stored.counts,
    )


def _floats(data: bytes) -> Vector:
    return np.frombuffer(data, "<f4").astype(np.float32)

"""The training that a stop or a crash cut short, kept until its update is durable.

Responsible for two files beside the outbox: `training.rows`, what the training learns from, written
once with its first checkpoint; and `training.checkpoint`, replaced as it goes on. The rows are kept
as they were, because the history moves on: rows arrive late, and a full ring forgets its oldest
ones. Like the history they never leave the site, and both files go when the training is over.

Invariant: a checkpoint goes on only for the job it was made for (`Job`) and with the very rows it
saw (its digest, which the training child checks). Anything else is discarded with a log line, and
training begins anew: nothing is lost but time.

While the disk takes nothing, the newest checkpoint is held in memory: a killed child still goes on
from it, a killed agent does not.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.learning.checkpoint import (
    LARGEST_CHECKPOINT,
    CheckpointError,
    read_capped,
    write_durably,
)
from agent.learning.frames import (
    LARGEST_FRAME,
    FrameError,
    WireArray,
    pack_array,
    unpack_array,
)
from agent.learning.plan import TrainingPlan
from wire.errors import one_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a training is for.

    Attributes:
      bundle: digest of the bundle.
      lineage: of the head.
      base_version: the version it starts from.
      base_digest: digest of that version's weights.
      incarnation, sequence: of the update it will become, so that no training makes two updates.
      plan: how it trains.
    """

    bundle: bytes
    lineage: int
    base_version: int
    base_digest: bytes
    incarnation: str
    sequence: int
    plan: TrainingPlan


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What a training learns from: inputs x float32 (N, ...), labels y as the loss takes them."""

    x: NDArray[np.float32]
    y: NDArray[Any]


class _Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    job: Job
    x: WireArray
    y: WireArray


_decoder = msgspec.msgpack.Decoder(_Rows)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)


class Unfinished:
    """Owner of the two files.

    Args:
      directory: the agent's state directory, locked by this process.
    """

    def __init__(self, directory: Path) -> None:
        self._rows = directory / "training.rows"
        self._checkpoint = directory / "training.checkpoint"
        self._written: TrainingRows | None = None
        self._held: tuple[Job, TrainingRows, bytes] | None = None

    def load(self, job: Job) -> tuple[TrainingRows, bytes] | None:
        """Return the rows and the checkpoint's bytes of this job; discard those of another."""
        if self._held is not None and self._held[0] == job:
            return self._held[1:]
        try:
            stored = _decoder.decode(read_capped(self._rows, LARGEST_FRAME))
            checkpoint = read_capped(self._checkpoint, LARGEST_CHECKPOINT)
            rows = TrainingRows(unpack_array(stored.x), unpack_array(stored.y))
        except FileNotFoundError:
            self.discard()
            return None
        except (OSError, CheckpointError, FrameError, *_UNREADABLE) as error:
            logger.warning("an unfinished training is discarded: %s", one_line(str(error)))
            self.discard()
            return None
        if stored.job != job:
            logger.info(
                "an unfinished training from version %d is discarded: another one is due",
                stored.job.base_version,
            )
            self.discard()
            return None
        self._written = rows
        return rows, checkpoint

    def keep(self, job: Job, rows: TrainingRows, checkpoint: bytes) -> None:
        """Keep the newest checkpoint of a job, and its rows when it is the first one.

        A full disk is logged, once, and the checkpoint held in memory.
        """
        was_held = self._held is not None
        try:
            if self._written is not rows:
                self.discard()
                write_durably(self._rows, _encoded(job, rows))
                self._written = rows
            write_durably(self._checkpoint, checkpoint)
            self._held = None
        except (OSError, FrameError) as error:
            if not was_held:
                logger.warning("a checkpoint was not kept: %s", error)
            self._held = (job, rows, checkpoint)

    def discard(self) -> None:
        """Delete both files; the checkpoint first, so that it does not stand beside other rows.

        After a power cut it may all the same; the child refuses it then by the rows' digest.
        """
        self._written = self._held = None
        try:
            self._checkpoint.unlink(missing_ok=True)
            self._rows.unlink(missing_ok=True)
        except OSError as error:  # what stays is of another job than the next one
            logger.warning("an unfinished training was not deleted: %s", error)


def _encoded(job: Job, rows: TrainingRows) -> bytes:
    data = msgspec.msgpack.encode(_Rows(job, pack_array(rows.x), pack_array(rows.y)))
    if len(data) > LARGEST_FRAME:
        raise FrameError(f"{len(data)} bytes of rows exceed {LARGEST_FRAME}")
    return data

"""The file that says what this agent's updates have cost: `privacy.ledger`.

Responsible for one promise: what `charge` returns is on the disk.  The caller charges first and
makes the update then, so a crash between the two costs budget and never gives away an update that
nobody paid for.  The file is replaced as a whole (`write_durably`): 64 hexadecimal digits, the
SHA-256 of the rest, and one JSON document.  It only grows, and is small enough to write each time.

Refuses to forget: a damaged file is set aside, never overwritten.  A lost, damaged or restored one
is made good by the marks in updates that still wait in the outbox, and by the coordinator's, which
remembers the highest that it has heard (`raise_to`); until then `Privacy` makes no update.
"""

import hashlib
import logging
import sqlite3
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from agent.learning.checkpoint import CheckpointError, read_capped, write_durably
from wire.database import DiskError, set_aside
from wire.errors import one_line
from wire.messages import Count, Spent
from wire.spent import added, highest

logger = logging.getLogger(__name__)

FILE_NAME = "privacy.ledger"
_LARGEST_FILE = 64 << 10
_FORMAT = 1
_DIGITS = 64
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Unit = Literal["record", "update"]


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds.

    Attributes:
      format: of the file.
      spent: all together, over all lives of this agent as far as they are known.
      by_record, by_update: updates that this file charged under each unit.
    """

    format: Annotated[int, msgspec.Meta(ge=1, le=_FORMAT)] = _FORMAT
    spent: Spent = Spent()
    by_record: Count = 0
    by_update: Count = 0

    @property
    def unit(self) -> Unit | None:
        """What the charges are about; None while there are none, or of both kinds."""
        if bool(self.by_record) == bool(self.by_update):
            return None
        return "record" if self.by_record else "update"


class Ledger:
    """Owner of the file.

    Args:
      directory: the agent's state directory, locked by this process; None keeps it in memory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._path = directory / FILE_NAME if directory is not None else None
        self._account: Account | None = None
        self.problem = ""
        """What is wrong with the disk, since the last attempt; empty when nothing is."""
        self.is_new = False
        """Whether there was no sound file, so that what this agent has spent may be more."""

    @property
    def account(self) -> Account:
        """What was spent.

        Raises:
          DiskError: the file can not be read now.
        """
        if self._account is None:
            self._account = self._read()
        return self._account

    def charge(self, cost: Spent, unit: Unit) -> Spent:
        """Add the cost of one update; durable before this returns.

        Returns:
          What is spent with it.

        Raises:
          DiskError: it was not charged, or nobody knows; the update must not be made.
        """
        before = self.account
        self._write(
            msgspec.structs.replace(
                before,
                spent=added(before.spent, cost),
                by_record=before.by_record + (unit == "record"),
                by_update=before.by_update + (unit == "update"),
            )
        )
        return self.account.spent

    def raise_to(self, mark: Spent) -> None:
        """Learn that at least so much was spent; durable before this returns.

        Raises:
          DiskError: it was not written.
        """
        before = self.account
        spent = highest(before.spent, mark)
        if spent == before.spent:
            return
        logger.warning(
            "this agent has made %d private updates, and its ledger knew of %d: it was lost or "
            "restored",
            spent.releases,
            before.spent.releases,
        )
        self._write(msgspec.structs.replace(before, spent=spent))

    def _write(self, account: Account) -> None:
        if self._path is not None:
            body = msgspec.json.encode(account)
            try:
                write_durably(self._path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            except OSError as error:
                raise self._failed(error) from error
        self.problem = ""
        self._account = account

    def _read(self) -> Account:
        if self._path is None:
            return Account()
        try:
            found = read_account(self._path)
        except OSError as error:
            raise self._failed(error) from error
        except ValueError as error:
            set_aside(self._path, one_line(str(error)))
            found = None
        self.is_new = found is None
        self.problem = ""
        return found or Account()

    def _failed(self, error: OSError) -> DiskError:
        reason = error.strerror or str(error)
        if not self.problem:
            logger.warning("%s: %s; no private update is made", self._path, reason)
        self.problem = f"{FILE_NAME}: {reason}"
        return DiskError(str(self._path), reason, sqlite3.SQLITE_IOERR)


def read_account(path: Path) -> Account | None:
    """What a ledger's file says; None when there is none.

    Raises:
      ValueError: it is damaged; says how.
      OSError: it can not be read.
    """
    try:
        data = read_capped(path, _LARGEST_FILE)
    except FileNotFoundError:
        return None
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    digest, _, body = data.partition(b"\n")
    if len(digest) != _DIGITS or hashlib.sha256(body).hexdigest().encode() != digest:
        reason = "the file was cut or changed: its SHA-256 differs"
        raise ValueError(reason)
    try:
        return msgspec.json.decode(body, type=Account)
    except _UNREADABLE as error:
        reason = f"not a ledger of this version of the agent: {error}"
        raise ValueError(reason) from error

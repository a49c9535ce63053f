"""The newest charter that a program has seen, in a file of its own; and what a newer one changes.

A charter comes with the program's configuration, over the broker (topic `charter`, retained) or in
an answer of the enrolment authority.  Whoever brings it, only the root can have signed it, so it is
taken from anybody; and only a higher epoch replaces one.  What was seen is kept, so that neither a
restart nor an older file of the administrator leads back to keys that the root has withdrawn.

Refuses, besides what `wire/trust.py` refuses: another federation, an epoch below the newest one,
two charters of one epoch, a `recovery` that falls.

Invariant: the epoch in use never falls while the file is whole.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from wire.codec import MAX_BYTES, seal
from wire.errors import MalformedError, ReplayError, SettingsError, WireError
from wire.files import read_small, replace_file
from wire.messages import Charter
from wire.signing import PrivateKey, PublicKey
from wire.trust import ROOT, Trust, problems, read_charter

logger = logging.getLogger(__name__)


@dataclass
class KeptCharter:
    """Owner of the file with the newest charter.

    Attributes:
      path: the file; its folder is made when there is something to keep.
      root: pinned.
      trust: the newest charter, verified; at first the one that is configured.
    """

    path: Path
    root: PublicKey
    trust: Trust
    _is_kept: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        configured = self.trust
        self.trust = newest_trust(self.path, self.root, configured)
        self._is_kept = self.trust is not configured
        self._keep()

    def take(self, data: bytes) -> bool:
        """Take a charter from wherever it comes; returns whether it is newer than all before.

        Raises:
          WireError: it is refused, and nothing changed.
        """
        offered = read_charter(data, self.root)
        if not check_newer(self.trust, offered):
            self._keep()  # which the disk may have refused before
            return False
        # Believed even when the disk does not take it: it withdraws what was believed until now.
        self.trust, self._is_kept = offered, False
        self._keep()
        return True

    def _keep(self) -> None:
        if self._is_kept or not self.trust.envelope:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self.path, self.trust.envelope)
        except (OSError, SettingsError) as error:
            epoch = self.trust.charter.epoch
            logger.warning("charter %d is in use and not kept: %s", epoch, error)
            return
        self._is_kept = True


def newest_trust(path: Path, root: PublicKey, configured: Trust) -> Trust:
    """The newer of what is configured and what `KeptCharter` keeps; writes nothing.

    A kept charter that can not be used is left out, and said.
    """
    if not path.exists():
        return configured
    try:
        kept = read_charter(read_small(path, MAX_BYTES["charter"], "a charter"), root)
        if kept.federation != configured.federation:
            raise MalformedError(f"it governs {kept.federation}, not {configured.federation}")
    except (SettingsError, WireError) as error:
        logger.warning("the kept charter is ignored: %s: %s", path, error)
        return configured
    try:
        check_newer(configured, kept)
    except ReplayError:
        return configured  # the administrator's is newer
    except MalformedError as error:
        logger.warning("the configured charter is ignored: %s", error)
    return kept


def check_newer(present: Trust, offered: Trust) -> bool:
    """Whether a verified charter replaces the present one; False when it is the same.

    Raises:
      ReplayError: it is older.
      MalformedError: the root would contradict itself.
    """
    before, after = present.charter, offered.charter
    if after.federation != before.federation:
        raise MalformedError(f"the charter governs {after.federation}, not {before.federation}")
    if after == before:
        return False
    if after.epoch == before.epoch:
        raise MalformedError(f"the root has signed two different charters {after.epoch}")
    if after.epoch < before.epoch:
        raise ReplayError(f"charter {after.epoch} is older than charter {before.epoch} in use")
    if after.recovery < before.recovery:
        reason = f"charter {after.epoch} takes recovery {before.recovery} back"
        raise MalformedError(f"{reason} to {after.recovery}")
    return True


def sign_charter(charter: Charter, root: PrivateKey) -> bytes:
    """The charter's envelope.

    Raises:
      MalformedError: it contradicts itself; nothing was signed.
    """
    for problem in problems(charter, root.public):
        raise MalformedError(f"this charter contradicts itself: {problem}")
    return seal(
        charter, federation=charter.federation, signer=ROOT, counter=charter.epoch, key=root
    )


def changes(before: Charter, after: Charter) -> Iterator[str]:
    """What differs, for people: one line each, with `-` what goes and `+` what comes."""
    for name in after.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if old == new:
            continue
        if isinstance(new, tuple):
            yield from (f"- {name} {shown(each)}" for each in old if each not in new)
            yield from (f"+ {name} {shown(each)}" for each in new if each not in old)
        else:
            yield f"- {name} {shown(old)}"
            yield f"+ {name} {shown(new)}"


def shown(value: object) -> str:
    """A charter's field, for people."""
    if isinstance(value, bytes):
        return value.hex() or "none"
    if isinstance(value, tuple):
        return "; ".join(map(shown, value)) or "none"
    if isinstance(value, msgspec.Struct):
        parts = (f"{name} {shown(getattr(value, name))}" for name in value.__struct_fields__)
        return ", ".join(parts)
    return "none" if value is None else str(value)

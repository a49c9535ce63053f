"""An exported audit log, checked: form, signatures, tree, and that its decisions fit each other.

    every byte of the file          the coordinator's signature at its end
    every entry                     the root of the tree, which that signature and the heads name
    the newest head                 signed, recorded as its hash, over the tree before its entry
    the coordinator's key           the newest charter
    each charter                    the root, which you compare with the one that you pinned

What can not be read raises; what can be read and does not fit is a problem, and all are told.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import BinaryIO

from shopfloor.audit.account import Account
from wire.audit_entries import HeadNoted, decode_entry
from wire.audit_file import LogOpening, LogReader, Signed
from wire.chunks import sha256
from wire.codec import unseal
from wire.errors import SignatureError, WireError
from wire.merkle import Frontier, leaf_hash
from wire.messages import Charter, Head, TreeHead
from wire.signing import PublicKey
from wire.trust import COORDINATOR


@dataclass(frozen=True)
class Checked:
    """What a file holds.

    Attributes:
      tree: size and root of the log, as computed from the entries.
      roots: of the beginnings that were asked for, by size.
      head: the newest one; None where the log has none yet.
    """

    opening: LogOpening
    tree: TreeHead
    account: Account
    roots: dict[int, bytes]
    head: Head | None

    @property
    def problems(self) -> list[str]:
        """What does not fit; nothing when the log holds."""
        return self.account.problems


def check_log(
    stream: BinaryIO, root: PublicKey | None = None, sizes: Collection[int] = ()
) -> Checked:
    """Check an exported log.

    Args:
      stream: the file.
      root: the federation root's key as you pinned it; None: believe the file's.
      sizes: beginnings of the log whose roots are wanted.

    Raises:
      WireError: it is no such file, is cut off, or holds what is no entry.
    """
    reader = LogReader(stream)
    opening = reader.opening
    account = Account(opening.federation, PublicKey(opening.root))
    if root is not None and root.raw != opening.root:
        account.say(f"the file is of another root: {opening.root.hex()}")
    tree, roots = _read_entries(reader.entries(), account, set(sizes))
    head = _check_heads(reader.heads(), account)
    _check_signature(reader.end(), tree, account)
    return Checked(opening, tree, account, roots, head)


def _read_entries(
    entries: Iterable[bytes], account: Account, sizes: set[int]
) -> tuple[TreeHead, dict[int, bytes]]:
    tree, roots = Frontier(), {}
    for number, data in enumerate(entries):
        entry = decode_entry(data)
        is_head = isinstance(entry, HeadNoted)
        if number in sizes:
            roots[number] = tree.root
        account.take(number, entry, tree.root if is_head else b"")
        tree = tree.add(leaf_hash(data))
    account.finish()
    if tree.size in sizes:
        roots[tree.size] = tree.root
    return TreeHead(size=tree.size, root=tree.root), roots


def open_head(envelope: bytes, federation: str, charters: Iterable[Charter]) -> Head:
    """Read a head that a coordinator of one of these charters signed.

    Raises:
      WireError: it is none, or no such coordinator signed it.
    """
    keys = dict.fromkeys(charter.coordinator_key for charter in charters)
    for key in keys:
        try:
            head, _ = unseal(
                envelope, Head, federation=federation, signer=COORDINATOR, key=PublicKey(key)
            )
        except SignatureError:
            continue
        return head
    raise SignatureError("a head that no coordinator signed whom a charter of the log names")


def _check_heads(envelopes: Iterable[bytes], account: Account) -> Head | None:
    """Hold the exported heads against the log; returns the newest."""
    newest: Head | None = None
    digest = b""
    for envelope in envelopes:
        digest = sha256(envelope)
        try:
            newest = open_head(
                envelope, account.federation, (charter for _, charter in account.charters[::-1])
            )
        except WireError as error:
            account.say(f"an exported head: {error}")
            continue
        _check_head(newest, digest, account)
    noted = account.newest_head
    if noted is not None and noted.digest != digest:
        account.say("the newest head that the log records is not in the file")
    if newest is not None:
        _check_newest(newest, account)
    return newest


def _check_head(head: Head, digest: bytes, account: Account) -> None:
    noted = account.heads.get(head.log.size) if head.log is not None else None
    if head.log is None or noted is None:
        account.say(f"head {head.sequence} is not recorded where it says")
        return
    entry, root = noted
    if (entry.digest, entry.sequence, root) != (digest, head.sequence, head.log.root):
        account.say(f"head {head.sequence} was signed over another log than this one")


def _check_newest(head: Head, account: Account) -> None:
    version = account.version
    if version is None or (version.version, version.lineage, version.digest) != (
        head.train.version,
        head.lineage,
        head.train.content.digest,
    ):
        account.say(f"the newest head names version {head.train.version}, the log another")


def _check_signature(end: Signed, tree: TreeHead, account: Account) -> None:
    charter = account.charter
    if charter is None:
        account.say("nobody can have signed this log: it has no charter")
        return
    try:
        end.verify(account.federation, tree, PublicKey(charter.coordinator_key))
    except SignatureError as error:
        account.say(str(error))

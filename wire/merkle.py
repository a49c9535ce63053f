"""Merkle trees over lists that only grow: RFC 6962, section 2.1, with SHA-256.

    leaf    SHA-256(00 || entry)
    node    SHA-256(01 || left || right), the left subtree full: the largest power of two that is
            smaller than the number of leaves

The prefixes keep a node from being passed off as an entry.  `Frontier` holds the full subtrees from
left to right, one for each bit of the size: log2(n) hashes are all that appending needs.

An inclusion proof shows that an entry is in the list behind a root, a consistency proof that one
root's list is the beginning of another's.  Both are verified by the iterations of RFC 9162,
sections 2.1.3.2 and 2.1.4.2, whose trees are the same.

Refuses proofs that are too long, too short or lead to another root.  Pure.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wire.errors import MalformedError

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
_DIGEST_BYTES: Final = 32


def leaf_hash(entry: bytes) -> bytes:
    """Hash of an entry as a leaf."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two subtrees' hashes."""
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """The right edge of a tree: enough to append and to tell the root.

    Attributes:
      size: leaves.
      peaks: hashes of the full subtrees, the largest first; as many as `size` has bits set.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.peaks) != self.size.bit_count():
            reason = f"{len(self.peaks)} subtrees are not those of a tree of {self.size} entries"
            raise MalformedError(reason)

    def add(self, leaf: bytes) -> "Frontier":
        """The tree with one leaf (its hash) more."""
        peaks, node, rest = list(self.peaks), leaf, self.size
        while rest & 1:
            node = node_hash(peaks.pop(), node)
            rest >>= 1
        return Frontier(self.size + 1, (*peaks, node))

    @property
    def root(self) -> bytes:
        """Merkle Tree Hash over all leaves."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root


class Tree:
    """A whole tree, for proofs: each of log2(n)^2 steps.

    Args:
      leaves: hashes of all leaves; the tree takes as much memory again.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.size = len(leaves)
        self._levels = [list(leaves)]
        """Roots of all full subtrees of 1, 2, 4 ... leaves, from left to right."""
        while len(level := self._levels[-1]) > 1:
            pairs = zip(level[::2], level[1::2], strict=False)
            self._levels.append([node_hash(left, right) for left, right in pairs])

    def root(self, size: int | None = None) -> bytes:
        """Merkle Tree Hash over the first leaves, so many; None: all.

        Raises:
          ValueError: there are not so many.
        """
        size = self.size if size is None else size
        self._check_beginning(size)
        return self._root(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int) -> tuple[bytes, ...]:
        """Merkle audit path of a leaf (RFC 6962, section 2.1.1), its sibling first.

        Raises:
          ValueError: there is no such leaf.
        """
        if not 0 <= index < self.size:
            raise ValueError(f"no leaf {index} in a tree of {self.size}")
        path: list[bytes] = []
        start, stop = 0, self.size
        while stop - start > 1:
            middle = start + _split(stop - start)
            if index < middle:
                path.append(self._root(middle, stop))
                stop = middle
            else:
                path.append(self._root(start, middle))
                start = middle
        return tuple(reversed(path))

    def consistency(self, earlier: int) -> tuple[bytes, ...]:
        """Proof that the first `earlier` leaves are the beginning (RFC 6962, section 2.1.2).

        Empty where it is trivial: `earlier` is 0 or all.

        Raises:
          ValueError: there are not so many leaves.
        """
        self._check_beginning(earlier)
        if earlier in (0, self.size):
            return ()
        path: list[bytes] = []
        start, stop, is_whole = 0, self.size, True
        while earlier != stop:
            middle = start + _split(stop - start)
            if earlier <= middle:
                path.append(self._root(middle, stop))
                stop = middle
            else:
                path.append(self._root(start, middle))
                start, is_whole = middle, False
        if not is_whole:
            path.append(self._root(start, stop))
        return tuple(reversed(path))

    def _root(self, start: int, stop: int) -> bytes:
        """Of leaves that are a subtree: `start` is a multiple of the full size above them."""
        width = stop - start
        if width.bit_count() == 1:
            level = width.bit_length() - 1
            return self._levels[level][start >> level]
        middle = start + _split(width)
        return node_hash(self._root(start, middle), self._root(middle, stop))

    def _check_beginning(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ValueError(f"no beginning of {size} leaves in a tree of {self.size}")


def check_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that a leaf is at `index` of the tree of `size` leaves that has this root.

    Raises:
      MalformedError: the proof does not show it.
    """
    _check_digests(proof)
    if not 0 <= index < size:
        raise MalformedError(f"no leaf {index} in a tree of {size}")
    at, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise MalformedError(f"an inclusion proof of {len(proof)} hashes is too long")
        if at & 1 or at == last:
            node = node_hash(sibling, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        at, last = at >> 1, last >> 1
    if last or node != root:
        raise MalformedError(f"the proof does not show that entry {index} is in this log")


def check_consistency(
    earlier: int, earlier_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that one tree's leaves are the beginning of another's.

    Raises:
      MalformedError: the proof does not show it.
    """
    _check_digests(proof)
    if not 0 <= earlier <= size:
        raise MalformedError(f"a log of {earlier} entries is not the beginning of one of {size}")
    if earlier in (0, size):
        is_same = earlier_root == (root if earlier else EMPTY_ROOT)
        if proof or not is_same:
            raise MalformedError(f"two logs of {earlier} entries have different roots")
        return
    # A full tree is a subtree of the other one, so its root is in no proof.
    nodes = [earlier_root, *proof] if earlier.bit_count() == 1 else [*proof]
    if _roots(earlier, size, nodes) != (earlier_root, root):
        raise MalformedError(
            f"the proof does not show that the log of {earlier} entries is the beginning of the "
            f"one of {size}"
        )


def _roots(earlier: int, size: int, nodes: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Roots of both trees as a proof's nodes have them; None where their number is wrong."""
    if not nodes:
        return None
    at, last = earlier - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return None
        if at & 1 or at == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, node)
        at, last = at >> 1, last >> 1
    return None if last else (old, new)


def _split(size: int) -> int:
    """The largest power of two below `size`, which is 2 or more."""
    return 1 << (size - 1).bit_length() - 1


def _check_digests(proof: Sequence[bytes]) -> None:
    if any(len(node) != _DIGEST_BYTES for node in proof):
        raise MalformedError(f"a proof's hashes have {_DIGEST_BYTES} bytes")

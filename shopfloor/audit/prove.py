"""Proofs that single entries are in an exported log, for somebody who only knows a root.

Each is a JSON object with the entry as it was hashed (hexadecimal) and in words, its place, the
tree's size and root, and the path of RFC 6962, section 2.1.1; whoever has a signed head or an
export of the same size checks it with any implementation of Certificate Transparency.
"""

from collections.abc import Callable
from typing import Any, BinaryIO, Final

import msgspec

from wire.audit_entries import Entry, SettledNoted, decode_entry
from wire.audit_file import LogReader
from wire.merkle import Tree, check_inclusion, leaf_hash

MAX_PROOFS: Final = 100
Wanted = Callable[[int, Entry], bool]


def at(number: int) -> Wanted:
    """Wants the entry with this number."""
    return lambda index, _entry: index == number


def about(agent: str) -> Wanted:
    """Wants all entries that name an agent."""

    def names(_number: int, entry: Entry) -> bool:
        if isinstance(entry, SettledNoted):
            return any(update.agent == agent for update in entry.updates)
        return getattr(entry, "agent", None) == agent

    return names


def proofs(stream: BinaryIO, wanted: Wanted) -> list[dict[str, Any]]:
    """Inclusion proofs of the newest `MAX_PROOFS` wanted entries, checked.

    Raises:
      WireError: the file is no exported log.
    """
    leaves: list[bytes] = []
    found: list[tuple[int, bytes]] = []
    for number, data in enumerate(LogReader(stream).entries()):
        leaves.append(leaf_hash(data))
        if wanted(number, decode_entry(data)):
            found = [*found[1 - MAX_PROOFS :], (number, data)]
    tree = Tree(leaves)
    root = tree.root()
    made = []
    for number, data in found:
        path = tree.inclusion(number)
        check_inclusion(leaves[number], number, len(leaves), path, root)
        made.append(
            {
                "entry": number,
                "says": readable(decode_entry(data)),
                "bytes": data.hex(),
                "leaf": leaves[number].hex(),
                "size": len(leaves),
                "root": root.hex(),
                "path": [node.hex() for node in path],
            }
        )
    return made


def consistency(stream: BinaryIO, earlier: int) -> dict[str, Any]:
    """Proof that the log's first entries, so many, are its beginning (RFC 6962, section 2.1.2).

    Raises:
      WireError: the file is no exported log.
      ValueError: it has fewer entries.
    """
    tree = Tree([leaf_hash(data) for data in LogReader(stream).entries()])
    path = tree.consistency(earlier)
    return {
        "earlier": earlier,
        "earlier_root": tree.root(earlier).hex(),
        "size": tree.size,
        "root": tree.root().hex(),
        "path": [node.hex() for node in path],
    }


def readable(value: object) -> Any:  # noqa: ANN401  whatever JSON can say
    """An entry as JSON has it: its tag as `kind`, bytes in hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [readable(item) for item in value]
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        kind = {"kind": tag} if tag is not None else {}
        fields = {name: readable(getattr(value, name)) for name in value.__struct_fields__}
        return {**kind, **fields}
    return value

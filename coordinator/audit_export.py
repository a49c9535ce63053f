"""`journeyman-coordinator audit export`: the audit log as a file that anybody checks offline.

Reads the coordinator's file beside a running coordinator, in one read transaction, so what comes
out is the log as of one decision.  Streamed: memory does not grow with the log.  Signs size, root
and file with the coordinator's key (`wire/audit_file.py`).

Refuses to export a log whose entries do not lead to the root that the file remembers: then the file
was tampered with or is damaged.
"""

import argparse
import contextlib
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from coordinator.audit import load_tree
from coordinator.config import DATABASE, Identity, read_coordinator_settings, read_identity
from coordinator.store import Saved
from wire.audit_file import LogOpening, LogWriter
from wire.errors import MalformedError, SettingsError
from wire.files import PUBLIC_MODE, sync_directory
from wire.merkle import Frontier, leaf_hash
from wire.messages import TreeHead
from wire.settings import resolve, settings_error
from wire.signing import parse_public_key


def add_audit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `audit export` to the coordinator's parser."""
    audit = commands.add_parser(
        "audit",
        help="export the audit log",
        description="Every decision is in a Merkle log; journeyman audit verify checks it offline.",
    )
    actions = audit.add_subparsers(required=True, metavar="ACTION")
    export = actions.add_parser(
        "export",
        help="write the whole log, signed, to a file",
        description="Writes charter, all entries, the newest head and a signature over all of "
        "it. The coordinator may run meanwhile.",
    )
    export.add_argument("config", type=Path, help="the coordinator's TOML file")
    export.add_argument("--out", type=Path, required=True, help="the file; an old one is replaced")
    export.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> None:
    tree = export(options.config, options.out)
    sys.stdout.write(
        f"{options.out}: {tree.size:,} entries, root {tree.root.hex()}\n"
        f"check it, on any computer: journeyman audit verify {options.out} --root YOUR-ROOT\n"
    )


def export(config: Path, out: Path) -> TreeHead:
    """Write the log of one configuration file.

    Returns:
      Size and root of what was written.

    Raises:
      SettingsError: there is no log, its entries are not what it says, or `out` can not be
        written; an old file there is untouched.
    """
    settings = read_coordinator_settings(config)
    identity = read_identity(config, settings)
    root = parse_public_key(settings.trust.root).raw
    path = resolve(config, settings.coordinator.state_dir) / DATABASE
    if not path.exists():
        reason = f"no state in {path.parent} yet; start it: journeyman-coordinator run {config}"
        raise settings_error(config, "coordinator.state_dir", reason)
    try:
        with contextlib.closing(_open(path)) as database, _replacing(out) as stream:
            return write_log(database, stream, identity, root)
    except (sqlite3.DatabaseError, MalformedError) as error:
        raise SettingsError(str(path), None, None, f"no audit log to export: {error}") from None
    except OSError as error:
        raise SettingsError(str(out), None, None, f"can not write: {error.strerror}") from None


def write_log(
    database: sqlite3.Connection, stream: BinaryIO, identity: Identity, root: bytes
) -> TreeHead:
    """Write the log that is in a coordinator's file.

    Args:
      database: in autocommit mode.
      stream: where to.
      identity: signs it.
      root: the federation's, as pinned.

    Raises:
      MalformedError: its entries are not what its tree says.
    """
    database.execute("BEGIN")
    tree = load_tree(database)
    state = database.execute("SELECT body FROM state").fetchone()
    head = msgspec.msgpack.decode(state[0], type=Saved).head if state else b""
    opening = LogOpening(identity.trust.federation, root, tree.size, int(bool(head)))
    writer, found = LogWriter(stream, opening), Frontier()
    for number, data in database.execute("SELECT number, entry FROM audit ORDER BY number"):
        if number != found.size:
            raise MalformedError(f"entry {found.size} is missing")
        found = found.add(leaf_hash(data))
        writer.frame(data)
    if found != tree:
        raise MalformedError("its entries do not lead to its root: it was changed or damaged")
    if head:
        writer.frame(head)
    signed = TreeHead(size=tree.size, root=tree.root)
    writer.finish(signed, identity.key)
    return signed


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when all was written."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), PUBLIC_MODE)
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

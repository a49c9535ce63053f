"""`journeyman audit`: check what a coordinator exported, without a coordinator or a network."""

import argparse
import sys
from pathlib import Path

import msgspec

from shopfloor.audit.check import Checked, check_log
from shopfloor.audit.compare import compare, in_words, sizes_of
from shopfloor.audit.prove import about, at, consistency, proofs
from shopfloor.audit.words import summary
from wire.audit_file import HeadsOpening, open_file, read_heads
from wire.errors import SettingsError, WireError
from wire.signing import PublicKey, parse_public_key


def add_audit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `audit verify`, `audit compare` and `audit prove` to the command line."""
    audit = commands.add_parser(
        "audit",
        help="check a coordinator's exported audit log, offline",
        description="Works on files alone: journeyman-coordinator audit export makes the log's, "
        "journeyman-agent trust heads those with the heads that a site collected. "
        "docs/audit.md goes through it step by step.",
    )
    actions = audit.add_subparsers(required=True, metavar="ACTION")
    verify = actions.add_parser(
        "verify",
        help="check an exported log and say what it holds",
        description="Checks form, signatures, the Merkle root, and that the decisions fit each "
        "other; prints versions, sites, updates, privacy spent, decisions. Exit status 0: it "
        "holds; 1: it does not.",
    )
    verify.set_defaults(command=_verify)
    held = actions.add_parser(
        "compare",
        help="look for a split view: heads that sites collected against the log",
        description="A coordinator that tells two sites different histories signed both. Exit "
        "status 0: none found; 1: found, or the log does not hold.",
    )
    held.set_defaults(command=_compare)
    prove = actions.add_parser(
        "prove",
        help="prove that entries are in the log",
        description="Prints inclusion proofs (RFC 6962) as JSON, or with --since a consistency "
        "proof.",
    )
    prove.set_defaults(command=_prove)
    for action in (verify, held, prove):
        action.add_argument("file", type=Path, help="from journeyman-coordinator audit export")
        action.add_argument(
            "--root", metavar="KEY", help="the root's public key as you pinned it, 64 digits"
        )
    held.add_argument("heads", type=Path, nargs="+", help="from journeyman-agent trust heads")
    which = prove.add_mutually_exclusive_group(required=True)
    which.add_argument("--entry", type=int, metavar="N", help="this entry, from 0")
    which.add_argument("--agent", metavar="NAME", help="the newest 100 entries that name it")
    which.add_argument("--since", type=int, metavar="SIZE", help="the log of so many entries")


def _verify(options: argparse.Namespace) -> int:
    checked = _checked(options)
    if checked is None:
        return 1
    _say(summary(checked, is_pinned=options.root is not None))
    return 1 if checked.problems else 0


def _compare(options: argparse.Namespace) -> int:
    collected: list[tuple[str, HeadsOpening, list[bytes]]] = []
    for path in options.heads:
        with open_file(path) as stream:
            try:
                collected.append((str(path), *read_heads(stream)))
            except WireError as error:
                raise SettingsError(str(path), None, None, str(error)) from None
    envelopes = [head for _, _, heads in collected for head in heads]
    checked = _checked(options, sizes_of(envelopes))
    if checked is None:
        return 1
    comparison = compare(checked, collected)
    _say(in_words(comparison))
    if checked.problems:
        _say(f"{options.file}: the log itself does not hold: journeyman audit verify tells why")
    found = any(finding.kind == "split view" for finding in comparison.findings)
    return 1 if found or checked.problems else 0


def _prove(options: argparse.Namespace) -> int:
    checked = _checked(options)
    if checked is None:
        return 1
    if checked.problems:
        _say(f"{options.file}: the log does not hold: journeyman audit verify tells why")
        return 1
    with open_file(options.file) as stream:
        if options.since is not None:
            if not 0 <= options.since <= checked.tree.size:
                return _out_of_range(options.since, checked)
            shown: object = consistency(stream, options.since)
        else:
            wanted = at(options.entry) if options.entry is not None else about(options.agent)
            shown = proofs(stream, wanted)
    if not shown:
        return _out_of_range(options.entry or options.agent, checked)
    _say(msgspec.json.format(msgspec.json.encode(shown), indent=1).decode())
    return 0


def _out_of_range(wanted: object, checked: Checked) -> int:
    sys.stderr.write(f"journeyman: the log of {checked.tree.size:,} entries has no {wanted}\n")
    return 2


def _checked(options: argparse.Namespace, sizes: set[int] | None = None) -> Checked | None:
    """The checked log; None, and said why, where the file can not be read as one."""
    with open_file(options.file) as stream:
        try:
            return check_log(stream, _root(options.root), sizes or ())
        except WireError as error:
            _say(f"{options.file}: THE LOG DOES NOT HOLD: {error}")
            return None


def _root(text: str | None) -> PublicKey | None:
    if text is None:
        return None
    try:
        return parse_public_key(text)
    except ValueError as error:
        raise SettingsError("--root", None, None, str(error)) from None


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")

"""`journeyman-helper`: the command line."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from coordinator.helper.app import run, status
from coordinator.helper.config import HelperSettings, read_helper_settings, read_identity
from coordinator.helper.identity import differences, make_helper, own_keys
from coordinator.helper.store import Store, make_store, refuse_existing
from coordinator.recipient.commands import add_recipient
from wire.codec import MAX_BYTES
from wire.errors import SettingsError, WireError
from wire.files import read_small
from wire.logs import log_to_standard_error_or_journal
from wire.schema_command import add_schema
from wire.signing import parse_public_key
from wire.trust import read_charter


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 the check failed, 2 wrong use."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (SettingsError, WireError, OSError) as error:
        print(f"journeyman-helper: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="journeyman-helper",
        description="The unmasking party of secure aggregation: one of three, each run by somebody "
        "other than the coordinator's operator and than each other. Two of the three together let "
        "the coordinator read sums of client updates over enough sites, and never a single one. A "
        "helper sees no data, no update and no model: only who reported, and seeds that say "
        "nothing without the masked updates.",
        epilog="First: keys NAME, then send NAME.public to whoever signs the charter. With the "
        "charter and a file like configs/helper.toml: check, then run. Never restore the store "
        "from a backup: make new keys instead. The helper refuses to work where it notices.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_keys(commands)
    for name, command, text in (
        ("run", _run, "run until SIGTERM (what the systemd unit starts)"),
        ("status", _status, "print what is in the store: reports, promises, alarms"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("config", type=Path, help="the helper's TOML file")
        sub.set_defaults(command=command)
    _add_check(commands)
    add_schema(commands, "helper", HelperSettings)
    add_recipient(commands)
    return parser


def _add_keys(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    keys = commands.add_parser(
        "keys",
        help="make this helper's signing and sealing key, and their store",
        description="Makes NAME.signing.key and NAME.sealing.key, which stay here, NAME.public for "
        "whoever runs: journeyman keys federation --helper NAME.public, and the store that goes "
        "with the keys. What the store knows must never be forgotten while the keys are in use, "
        "so both are made together and given up together.",
    )
    keys.add_argument("name", help="the helper's name in the charter")
    keys.add_argument("--out", type=Path, required=True, help="directory for the files")
    keys.add_argument(
        "--state", type=Path, help="directory for the store, `state_dir` (default: that of --out)"
    )
    keys.set_defaults(command=_keys)


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = commands.add_parser(
        "check",
        help="verify that a charter names exactly this helper's keys",
        description="With a configuration file (helper.toml): checks the file, keys, store and "
        "charter. With a charter (charter.jm), --root and --keys: before there is such a file.",
    )
    check.add_argument("file", type=Path, help="helper.toml, or the federation's charter.jm")
    check.add_argument("--root", help="the root's public key, 64 hexadecimal digits")
    check.add_argument("--keys", type=Path, help="directory with this helper's keys")
    check.set_defaults(command=_check)


def _keys(options: argparse.Namespace) -> int:
    state = options.state or options.out
    refuse_existing(state)
    keys = make_helper(options.out, options.name)
    store = make_store(state, keys)
    print(f"{options.out / keys.name}.signing.key and .sealing.key stay on this machine")
    print(f"{options.out / keys.name}.public is for the charter")
    print(f"store {store} in {state} goes with these keys: without it they are worth nothing")
    return 0


def _run(options: argparse.Namespace) -> int:
    log_to_standard_error_or_journal("journeyman-helper", logging.INFO)
    asyncio.run(run(options.config))
    return 0


def _status(options: argparse.Namespace) -> int:
    for line in status(options.config):
        print(line)
    return 0


def _check(options: argparse.Namespace) -> int:
    if options.root is None and options.keys is None:
        settings = read_helper_settings(options.file)
        identity = read_identity(options.file, settings)
        Store(identity.state, identity.keys.public).close()
        charter, keys = identity.charter.trust.charter, identity.keys.public
    elif options.root is None or options.keys is None:
        raise SettingsError("check", None, None, "a charter alone needs both --root and --keys")
    else:
        try:
            root = parse_public_key(options.root)
        except ValueError as error:
            raise SettingsError("--root", None, None, str(error)) from None
        keys = own_keys(options.keys)
        data = read_small(options.file, MAX_BYTES["charter"], "the charter")
        charter = read_charter(data, root).charter
    problems = differences(charter, keys)
    for problem in problems:
        print(f"journeyman-helper: {options.file}: {problem}", file=sys.stderr)
    if not problems:
        print(f"{options.file}: federation {charter.federation} names helper {keys.name}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

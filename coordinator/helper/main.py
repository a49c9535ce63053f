"""`journeyman-helper`: the command line."""

import argparse
import sys
from pathlib import Path

from coordinator.helper.identity import differences, make_helper, own_keys
from wire.errors import SettingsError, WireError
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
        description="The unmasking party of secure aggregation, run by somebody other than the "
        "coordinator's operator. This version makes and checks a helper's identity, so that a "
        "federation's charter can name its helpers from the start; it unmasks nothing yet: that "
        "comes with secure aggregation, and until then updates reach the coordinator unmasked.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    keys = commands.add_parser(
        "keys",
        help="make this helper's signing and sealing key",
        description="Makes NAME.signing.key and NAME.sealing.key, which stay here, and NAME.public "
        "for whoever runs: journeyman keys federation --helper NAME.public",
    )
    keys.add_argument("name", help="the helper's name in the charter")
    keys.add_argument("--out", type=Path, required=True, help="directory for the files")
    keys.set_defaults(command=_keys)
    check = commands.add_parser(
        "check", help="verify that a charter names exactly this helper's keys"
    )
    check.add_argument("charter", type=Path, help="the federation's charter.jm")
    check.add_argument("--root", required=True, help="the root's public key, 64 hexadecimal digits")
    check.add_argument("--keys", type=Path, required=True, help="directory with this helper's keys")
    check.set_defaults(command=_check)
    return parser


def _keys(options: argparse.Namespace) -> int:
    keys = make_helper(options.out, options.name)
    print(f"{options.out / keys.name}.signing.key and .sealing.key stay on this machine")
    print(f"{options.out / keys.name}.public is for the charter")
    return 0


def _check(options: argparse.Namespace) -> int:
    try:
        root = parse_public_key(options.root)
    except ValueError as error:
        raise SettingsError("--root", None, None, str(error)) from None
    keys = own_keys(options.keys)
    charter = read_charter(options.charter.read_bytes(), root).charter
    problems = differences(charter, keys)
    for problem in problems:
        print(f"journeyman-helper: {options.charter}: {problem}", file=sys.stderr)
    if not problems:
        print(f"{options.charter}: federation {charter.federation} names helper {keys.name}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""`journeyman-helper recipient`: keys, check and run for the recipient of encrypted sums."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from coordinator.recipient.app import run
from coordinator.recipient.config import read_identity, read_recipient_settings
from coordinator.recipient.keys import difference, make_recipient
from wire.bfv_keys import can_encrypt
from wire.logs import log_to_standard_error_or_journal


def add_recipient(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the helper's parser."""
    recipient = commands.add_parser(
        "recipient",
        help="the party that decrypts sums under homomorphic encryption",
        description='For federations with protection = "encrypted" (docs/homomorphic.md), whose '
        "sums one recipient decrypts in place of three helpers. It needs the extra journeyman[he].",
    )
    actions = recipient.add_subparsers(required=True, metavar="ACTION")
    keys = actions.add_parser(
        "keys",
        help="make the recipient's keys",
        description="Makes NAME.signing.key and NAME.bfv.key, which stay here, NAME.context for "
        "every agent, and NAME.recipient for whoever runs: journeyman keys charter --recipient",
    )
    keys.add_argument("name", help="the recipient's name in the charter")
    keys.add_argument("--out", type=Path, required=True, help="directory for the files")
    keys.set_defaults(command=_keys)
    for name, command, text in (
        ("run", _run, "run until SIGTERM"),
        ("check", _check, "verify the file, the keys, and that the charter names them"),
    ):
        sub = actions.add_parser(name, help=text, description=text)
        sub.add_argument("config", type=Path, help="the recipient's TOML file")
        sub.set_defaults(command=command)


def _keys(options: argparse.Namespace) -> int:
    made = make_recipient(options.out, options.name)
    path = options.out / made.name
    sys.stdout.write(f"{path}.signing.key and .bfv.key stay on this machine\n")
    sys.stdout.write(f"{path}.context is for every agent: [trust] recipient_context\n")
    sys.stdout.write(
        f"{path}.recipient is for the charter; the context's SHA-256 is {made.context.hex()}\n"
    )
    return 0


def _run(options: argparse.Namespace) -> int:
    log_to_standard_error_or_journal("journeyman-helper", logging.INFO)
    asyncio.run(run(options.config))
    return 0


def _check(options: argparse.Namespace) -> int:
    settings = read_recipient_settings(options.config)
    identity = read_identity(options.config, settings)
    charter = identity.charter.trust.charter
    problem = difference(charter, identity.keys.public) or can_encrypt()
    if problem:
        sys.stderr.write(f"journeyman-helper: {options.config}: {problem}\n")
        return 1
    sys.stdout.write(
        f"{options.config}: federation {charter.federation} names {settings.recipient.name}\n"
    )
    return 0

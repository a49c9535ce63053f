"""`journeyman-coordinator`: the command line."""

import argparse
import asyncio
import logging
import os
import sys
import tomllib
from pathlib import Path
from typing import get_args

from coordinator.app import (
    order,
    roll_back,
    run,
    set_training,
    status,
    status_for_people,
    web,
)
from coordinator.audit_export import add_audit
from coordinator.config import CoordinatorSettings, read_coordinator_settings, read_identity
from coordinator.strategies.choice import StrategyName
from wire.errors import SettingsError
from wire.files import read_small
from wire.logs import log_to_standard_error_or_journal
from wire.messages import MAX_TABLES
from wire.schema_command import add_schema


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 failed, 2 configuration."""
    options = _parser().parse_args(arguments)
    level = logging.DEBUG if options.verbose else logging.INFO
    log_to_standard_error_or_journal("journeyman-coordinator", level)
    try:
        options.command(options)
    except SettingsError as error:
        print(f"journeyman-coordinator: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        logging.getLogger("coordinator").exception("stopped by an error")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="journeyman-coordinator",
        description="Takes client updates in exactly once, folds, judges and publishes models.",
        epilog="Every key of the configuration file is explained in configs/coordinator.toml.",
    )
    parser.add_argument("--verbose", action="store_true", help="log every step")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("run", _run, "run until SIGTERM"),
        ("check", _check, "check the configuration file, keys and bundle, then exit"),
        ("status", _status, "print versions, quality, sites, agents, decisions, alarms"),
        ("web", _web, "serve the page and /metrics until SIGTERM; see [web] in the file"),
        ("close", _close, "close training: agents deliver what they have and train nothing new"),
        ("open", _open, "open training again"),
        ("pause", _order, "tell one agent to stop training; it still delivers and scores"),
        ("resume", _order, "tell one agent to train again"),
        ("train", _order, "tell one agent to train now, without its rest between trainings"),
        ("configure", _configure, "give one agent other settings; it goes back if they harm it"),
        ("rollback", _rollback, "serve an earlier version again, and train on from it"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("config", type=Path, help="the coordinator's TOML file")
        if command is _run:
            sub.add_argument(
                "--strategy",
                choices=get_args(StrategyName),
                help="instead of the file's [strategy] name",
            )
        if command is _status:
            sub.add_argument("--json", action="store_true", help="for programs")
        if command is _rollback:
            sub.add_argument("version", type=int, help="served before; `status` lists them")
        if command in (_order, _configure):
            sub.add_argument("agent", help="the agent's id")
        if command is _configure:
            sub.add_argument(
                "tables", type=Path, help="TOML with the keys to change, and no others"
            )
            sub.add_argument(
                "--deadline",
                type=int,
                default=300,
                metavar="SECONDS",
                help="the agent has to be healthy within so long (10 to 86,400; default 300)",
            )
        sub.set_defaults(command=command, name=name)
    add_audit(commands)
    add_schema(commands, "coordinator", CoordinatorSettings)
    return parser


def _run(options: argparse.Namespace) -> None:
    asyncio.run(run(options.config, options.strategy))


def _check(options: argparse.Namespace) -> None:
    config = options.config
    settings = read_coordinator_settings(config)
    identity = read_identity(config, settings)
    manifest = identity.bundle.manifest
    print(
        f"{config}: federation {identity.trust.federation}, bundle {manifest.name} revision "
        f"{manifest.revision}, strategy {settings.strategy.name}"
    )


def _order(options: argparse.Namespace) -> None:
    number = order(options.config, options.agent, options.name)
    _say_ordered(options, number)


def _configure(options: argparse.Namespace) -> None:
    tables = read_small(options.tables, 4 * MAX_TABLES, "settings for an agent")
    try:
        text = tables.decode()
        tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(str(options.tables), None, None, f"not TOML: {error}") from None
    if len(text) > MAX_TABLES or not 10 <= options.deadline <= 86_400:
        reason = f"at most {MAX_TABLES:,} characters, and a deadline of 10 to 86,400 seconds"
        raise SettingsError(str(options.tables), None, None, reason)
    number = order(options.config, options.agent, "configure", text, options.deadline)
    _say_ordered(options, number)


def _say_ordered(options: argparse.Namespace, number: int) -> None:
    print(
        f"order {number} for {options.agent}: {options.name}; what becomes of it: "
        f"journeyman-coordinator status {options.config}"
    )


def _rollback(options: argparse.Namespace) -> None:
    roll_back(options.config, options.version)
    print(f"asked for version {options.version}; the coordinator goes back within a second")


def _web(options: argparse.Namespace) -> None:
    web(options.config)


def _status(options: argparse.Namespace) -> None:
    if options.json:
        print(status(options.config))
    else:
        color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        sys.stdout.write(status_for_people(options.config, color=color))


def _close(options: argparse.Namespace) -> None:
    set_training(options.config, "closed")


def _open(options: argparse.Namespace) -> None:
    set_training(options.config, "open")


if __name__ == "__main__":
    sys.exit(main())

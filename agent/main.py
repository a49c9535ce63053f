"""`journeyman-agent`: the command line."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from agent.app import run
from agent.config import read_agent_settings, read_identity, resolve
from agent.status import read_status
from wire.errors import SettingsError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 failed, 2 configuration."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("asyncua").setLevel(logging.WARNING)
    try:
        return int(options.command(options.config))
    except SettingsError as error:
        print(f"journeyman-agent: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        logging.getLogger("agent").exception("stopped by an error")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="journeyman-agent",
        description="Reads machines over OPC UA, learns on site, and shares only client updates.",
        epilog="Every key of the configuration file is explained in configs/agent.toml.",
    )
    parser.add_argument("--verbose", action="store_true", help="log every step")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("run", _run, "run until SIGTERM (what the systemd unit starts)"),
        ("check", _check, "check the configuration file and the keys it names, then exit"),
        ("status", _status, "print what the running agent is doing"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("config", type=Path, help="the agent's TOML file")
        sub.set_defaults(command=command)
    return parser


def _run(config: Path) -> int:
    try:
        asyncio.run(run(config))
    except ExceptionGroup as group:  # what ended the task group
        wrong = _first_settings_error(group)
        if wrong is None:
            raise
        raise wrong from None
    return 0


def _first_settings_error(group: ExceptionGroup) -> SettingsError | None:
    """Find what needs a sentence instead of a traceback."""
    for error in group.exceptions:
        if isinstance(error, SettingsError):
            return error
        found = _first_settings_error(error) if isinstance(error, ExceptionGroup) else None
        if found is not None:
            return found
    return None


def _check(config: Path) -> int:
    settings = read_agent_settings(config)
    identity = read_identity(config, settings.trust)
    channels = len(settings.source.opcua.channel)
    print(
        f"{config}: agent {identity.agent} of site {identity.credential.site} in federation "
        f"{identity.trust.federation}, {channels} channels from {settings.source.opcua.endpoint}"
    )
    return 0


def _status(config: Path) -> int:
    settings = read_agent_settings(config)
    state = resolve(config, settings.agent.state_dir)
    status = read_status(state)
    if status is None:
        print(f"no status in {state}: the agent has not run with this file yet", file=sys.stderr)
        return 1
    for name in status.__struct_fields__:
        print(f"{name:16} {getattr(status, name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`journeyman-agent`: the command line.

What each command needs is imported when it is given: the service, `run`, is to carry nothing of the
others through the years.
"""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from agent.config import AgentSettings, read_agent_settings, read_identity
from agent.status import read_channels, read_status
from agent.status_words import channel_lines
from wire.errors import SettingsError
from wire.logs import log_to_standard_error_or_journal
from wire.settings import resolve


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 failed, 2 configuration."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(is_service=given[:1] == ["run"]).parse_args(given)
    level = logging.DEBUG if options.verbose else getattr(options, "log_level", logging.INFO)
    log_to_standard_error_or_journal("journeyman-agent", level)
    logging.getLogger("asyncua").setLevel(logging.WARNING)
    try:
        return int(options.command(options))
    except SettingsError as error:
        print(f"journeyman-agent: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        logging.getLogger("agent").exception("stopped by an error")
        return 1


def _parser(*, is_service: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="journeyman-agent",
        description="Reads machines, learns on site, and shares only client updates.",
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
        if name == "status":
            sub.add_argument("--channels", action="store_true", help="every channel's statistics")
    if not is_service:
        _add_tools(commands)
    return parser


def _add_tools(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands for people, whose imports the service does without."""
    from agent.browse_command import add_browse  # noqa: PLC0415
    from agent.doctor_command import add_doctor  # noqa: PLC0415
    from agent.egress_command import add_egress  # noqa: PLC0415
    from agent.enrol_command import add_enrol  # noqa: PLC0415
    from agent.label_command import add_label  # noqa: PLC0415
    from agent.live_command import add_test  # noqa: PLC0415
    from agent.privacy_command import add_privacy  # noqa: PLC0415
    from agent.trust_command import add_trust  # noqa: PLC0415
    from wire.schema_command import add_schema  # noqa: PLC0415

    add_test(commands)
    add_browse(commands)
    add_doctor(commands)
    add_trust(commands)
    add_egress(commands)
    add_label(commands)
    add_enrol(commands)
    add_privacy(commands)
    add_schema(commands, "agent", AgentSettings)


def _run(options: argparse.Namespace) -> int:
    from agent.app import run  # noqa: PLC0415

    try:
        asyncio.run(run(options.config))
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


def _check(options: argparse.Namespace) -> int:
    config: Path = options.config
    settings = read_agent_settings(config)
    identity = read_identity(config, settings.trust)
    print(
        f"{config}: agent {identity.agent} of site {identity.credential.site} in federation "
        f"{identity.trust.federation}"
    )
    for source in settings.sources:
        print(f"  {len(source.channels)} channels from {source.title}")
    return 0


def _status(options: argparse.Namespace) -> int:
    config: Path = options.config
    settings = read_agent_settings(config)
    state = resolve(config, settings.agent.state_dir)
    status = read_status(state)
    if status is None:
        print(f"no status in {state}: the agent has not run with this file yet", file=sys.stderr)
        return 1
    if options.channels:
        for line in channel_lines(read_channels(state), settings.channels):
            print(line)
        return 0
    for name in status.__struct_fields__:
        print(f"{name:16} {getattr(status, name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

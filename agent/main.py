"""`journeyman-agent`: the command line."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from agent.app import run
from agent.browse_command import add_browse
from agent.config import read_agent_settings, read_identity, resolve
from agent.doctor_command import add_doctor
from agent.enrol import install, request
from agent.label_command import add_label
from agent.live_command import add_test
from agent.schema_command import add_schema
from agent.status import read_channels, read_status
from agent.status_words import channel_lines
from agent.trust_command import add_trust
from wire.errors import SettingsError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 failed, 2 configuration."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else getattr(options, "log_level", logging.INFO),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
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


def _parser() -> argparse.ArgumentParser:
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
    add_test(commands)
    add_browse(commands)
    add_doctor(commands)
    add_trust(commands)
    add_label(commands)
    _add_enrol(commands)
    add_schema(commands)
    return parser


def _add_enrol(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    enrol = commands.add_parser(
        "enrol",
        help="get this gateway's credential and certificate with a one-time token",
        description="Enrols this gateway. `enrol request` makes its private keys, which never "
        "leave it, and a request to the enrolment authority; `enrol install` checks the answer, "
        "installs it, and prints the lines for agent.toml.",
    )
    actions = enrol.add_subparsers(required=True, metavar="ACTION")
    ask = actions.add_parser(
        "request",
        help="make keys and a request with the token",
        description="Makes AGENT.key, AGENT.tls.key and AGENT.request for the agent that the token "
        "names. Keys that are there already are used, so an agent can be enrolled anew.",
    )
    ask.add_argument("--token", required=True, metavar="FILE", help="the token; - reads it here")
    ask.add_argument("--out", type=Path, required=True, metavar="DIR", help="for keys and request")
    ask.set_defaults(command=lambda options: _say(request(options.token, options.out)))
    take = actions.add_parser(
        "install",
        help="check and install the authority's answer",
        description="Checks the answer against the token's root and CA and this gateway's keys, "
        "writes charter.jm, ca.crt, AGENT.credential and AGENT.crt, and prints what agent.toml "
        "needs. Writes nothing if anything is wrong.",
    )
    take.add_argument("answer", type=Path, metavar="ANSWER", help="what `enrolment grant` wrote")
    take.add_argument(
        "--dir", type=Path, required=True, metavar="DIR", help="as at `enrol request`"
    )
    take.set_defaults(command=lambda options: _say(install(options.answer, options.dir)))


def _say(text: str) -> int:
    print(text)
    return 0


def _run(options: argparse.Namespace) -> int:
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

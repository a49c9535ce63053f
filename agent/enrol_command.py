"""The command line of `journeyman-agent enrol`: in one step, or carried by hand in two."""

import argparse
from pathlib import Path

from agent.enrol import how_to_go_on, install, request
from agent.enrol_online import enrol
from wire.errors import SettingsError


def add_enrol(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the agent's parser."""
    parser = commands.add_parser(
        "enrol",
        help="get this gateway's credential and certificate with a one-time token",
        description="Enrols this gateway. With --from, in one step at an authority that runs "
        "`journeyman enrolment serve`. Without a network to it: `enrol request` makes the private "
        "keys, which never leave this gateway, and a request; `enrol install` checks the answer, "
        "installs it, and prints the lines for agent.toml.",
    )
    parser.add_argument("--token", metavar="FILE", help="the token; - reads it here")
    parser.add_argument("--from", dest="url", metavar="URL", help="such as http://10.1.2.3:8460")
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="for keys, charter, credential and certificate"
    )
    parser.set_defaults(command=_enrol)
    actions = parser.add_subparsers(metavar="ACTION")
    ask = actions.add_parser(
        "request",
        help="make keys and a request with the token",
        description="Makes AGENT.key, AGENT.tls.key and AGENT.request for the agent that the token "
        "names. Keys that are there already are used, so an agent can be enrolled anew.",
    )
    ask.add_argument("--token", required=True, metavar="FILE", help="the token; - reads it here")
    ask.add_argument("--out", type=Path, required=True, metavar="DIR", help="for keys and request")
    ask.set_defaults(command=_request)
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
    take.set_defaults(command=_install)


def _enrol(options: argparse.Namespace) -> int:
    given = {"--token": options.token, "--from": options.url, "--dir": options.dir}
    for name, value in given.items():
        if value is None:
            reason = "is needed; or carry files by hand: see `enrol request --help`"
            raise SettingsError(name, None, None, reason)
    print(enrol(options.token, options.url, options.dir))
    return 0


def _request(options: argparse.Namespace) -> int:
    print(how_to_go_on(request(options.token, options.out)))
    return 0


def _install(options: argparse.Namespace) -> int:
    print(install(options.answer, options.dir))
    return 0

"""`journeyman keys ca|broker` and `journeyman enrolment ...`: what whoever admits sites types.

Everything happens in the authority's directory, where `journeyman keys federation` put the
enrolment key (`docs/trust.md`).
"""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shopfloor.enrolment_office import Office
from shopfloor.enrolment_serve_command import add_serve, days
from wire.certificates import (
    AGENT_DAYS,
    CA_CERTIFICATE,
    SERVICE_DAYS,
    fingerprint,
    issue_broker,
    issue_client,
    make_authority,
    read_authority,
)
from wire.enrolment import MAX_REQUEST_BYTES, MAX_SERIAL, encode_token, new_token
from wire.enrolment_ledger import Entry, Ledger, open_ledger
from wire.errors import SettingsError
from wire.files import create_secret, read_small, replace_file
from wire.keys import issued_serial, read_enroller, read_federation
from wire.revocations import CRL, REVOKED
from wire.topics import COORDINATOR, NAME

Commands = argparse._SubParsersAction  # noqa: SLF001  argparse has no public name for it
MAX_HOURS = 24 * 90


def add_key_actions(actions: "Commands[argparse.ArgumentParser]") -> None:
    """Add `ca` and `broker` to `journeyman keys`."""
    ca = actions.add_parser(
        "ca",
        help="make the CA for TLS to the broker, and the coordinator's certificate",
        description="Makes ca.key and ca.crt beside the enrolment key, and coordinator.tls.key and "
        "coordinator.crt, which belong on the coordinator. ca.crt is for everybody; ca.key stays. "
        "With a CA here and no coordinator.crt it makes only that.",
    )
    ca.add_argument("directory", type=Path, metavar="DIR", help="the authority's directory")
    ca.set_defaults(command=_ca)
    broker = actions.add_parser(
        "broker",
        help="make the broker's key and certificate",
        description="Makes broker.key and broker.crt, which belong on the broker together with "
        "ca.crt. Agents refuse a broker that they call by a name or address not listed here.",
    )
    broker.add_argument("directory", type=Path, metavar="DIR", help="the authority's directory")
    broker.add_argument(
        "--host",
        action="append",
        required=True,
        metavar="NAME_OR_IP",
        help="as in the agents' broker.host; give it once for each name",
    )
    broker.add_argument(
        "--days", type=days, default=SERVICE_DAYS, help=f"validity (default: {SERVICE_DAYS})"
    )
    broker.set_defaults(command=_broker)


def add_enrolment(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `journeyman enrolment`."""
    enrolment = commands.add_parser(
        "enrolment",
        help="admit gateways: one-time tokens, answers, renewals, revocation",
        description="Admits a gateway in three steps. 1. `enrolment token` here makes a secret, "
        "one-time token; give it to whoever installs the gateway. 2. `journeyman-agent enrol "
        "request` on the gateway makes its keys and a request, which need not be kept secret. "
        "3. `enrolment grant` here answers it, and `journeyman-agent enrol install` on the gateway "
        "checks and installs the answer. With `enrolment serve` running, steps 2 and 3 are one "
        "command on the gateway: `journeyman-agent enrol --token FILE --from URL --dir DIR`.",
    )
    actions = enrolment.add_subparsers(required=True, metavar="ACTION")
    _add_token(actions)
    _add_grant(actions)
    add_serve(actions)
    show = actions.add_parser("list", help="show all tokens and what became of them")
    show.add_argument("directory", type=Path, metavar="DIR", help="the authority's directory")
    show.set_defaults(command=_list)
    revoke = actions.add_parser(
        "revoke",
        help="make a token, or all that an agent has, useless",
        description="Makes a token, or everything that an agent was given, useless: open tokens, "
        "credentials, certificates. Writes ca.crl for the broker and revoked.jm for the "
        "coordinator; a running `enrolment serve --broker` tells the coordinator by itself. The "
        "agent can be enrolled again.",
    )
    revoke.add_argument("directory", type=Path, metavar="DIR", help="the authority's directory")
    revoke.add_argument("which", metavar="TOKEN_ID_OR_AGENT", help="as `enrolment list` shows it")
    revoke.set_defaults(command=_revoke)


def _add_token(actions: "Commands[argparse.ArgumentParser]") -> None:
    token = actions.add_parser(
        "token",
        help="make a one-time token for one gateway",
        description="Prints a token, or writes it into a file of mode 0600. Whoever has it can "
        "enrol as this agent, once, until it ends: hand it over as you would a password.",
    )
    token.add_argument("directory", type=Path, metavar="DIR", help="the authority's directory")
    token.add_argument("agent", metavar="AGENT", help="the agent's id, also its MQTT user name")
    token.add_argument("--site", required=True, help="the site it stands at")
    token.add_argument(
        "--hours", type=_hours, default=72, help="how long it can be used (default: 72)"
    )
    token.add_argument("--out", type=Path, metavar="FILE", help="write it here, do not print it")
    token.add_argument(
        "--serial",
        type=_serial,
        default=1,
        help="least number of the credential; only needed after the ledger was lost",
    )
    token.set_defaults(command=_token)


def _add_grant(actions: "Commands[argparse.ArgumentParser]") -> None:
    grant = actions.add_parser(
        "grant",
        help="answer a gateway's request, which uses its token up",
        description="Checks a request against its token and writes the answer. The same request "
        "gets the same answer again, as often as it is lost; any other one is refused.",
    )
    grant.add_argument("directory", type=Path, metavar="DIR", help="the authority's directory")
    grant.add_argument("request", type=Path, metavar="REQUEST", help="the gateway's AGENT.request")
    grant.add_argument("--out", type=Path, required=True, metavar="ANSWER", help="for the gateway")
    grant.add_argument(
        "--days",
        type=days,
        default=AGENT_DAYS,
        help=f"validity of the certificate (default: {AGENT_DAYS})",
    )
    grant.set_defaults(command=_grant)


def _ca(options: argparse.Namespace) -> int:
    directory = options.directory
    _, _, trust = read_federation(directory)
    if not (directory / CA_CERTIFICATE).exists() or (directory / f"{COORDINATOR}.crt").exists():
        make_authority(directory, trust.federation)
    issue_client(directory, COORDINATOR)
    shown = fingerprint(read_authority(directory).certificate).hex()
    print(f"{directory / 'ca.crt'}: SHA-256 {shown}; for brokers, agents and the coordinator")
    print(f"{directory / COORDINATOR}.tls.key and .crt: move them to the coordinator")
    print(f"{directory / 'ca.key'}: stays here, as safe as the enrolment key")
    return 0


def _broker(options: argparse.Namespace) -> int:
    issue_broker(options.directory, options.host, days=options.days)
    print(f"{options.directory / 'broker'}.key and .crt are for the broker, with ca.crt")
    return 0


def _token(options: argparse.Namespace) -> int:
    enroller = read_enroller(options.directory)
    now = datetime.now(UTC)
    end = now + timedelta(hours=options.hours)
    token = new_token(enroller, options.agent, options.site, int(end.timestamp()))
    if options.out is not None and options.out.exists():
        reason = "this exists; nothing is overwritten. Give another name, or remove it"
        raise SettingsError(str(options.out), None, None, reason)
    elsewhere = issued_serial(options.directory, token.agent, enroller.trust)
    with open_ledger(options.directory) as ledger:
        before = _remark(ledger, token.agent, now)
        ledger.add(token, now, least_serial=max(options.serial, elsewhere + 1))
    if options.out is None:
        print(encode_token(token))
    else:
        create_secret(options.out, f"{encode_token(token)}\n".encode())
    about = f"token {token.id.hex()} for {token.agent} of {token.site}, until {end:%Y-%m-%d %H:%M}"
    print(f"{about} UTC. It is a secret.{before}", file=sys.stderr)
    return 0


def _remark(ledger: Ledger, agent: str, now: datetime) -> str:
    """What whoever makes a token should know about the agent."""
    others = [entry for entry in ledger.entries(now) if entry.agent == agent]
    remark = ""
    still_open = [entry.id.hex() for entry in others if entry.state == "open"]
    if still_open:
        remark += f"\nThis agent's older tokens can be used as well: {', '.join(still_open)}"
    if any(entry.state == "used" for entry in others):
        remark += "\nThis agent was enrolled before; using this token replaces its credential."
    return remark


def _grant(options: argparse.Namespace) -> int:
    enroller = read_enroller(options.directory)
    request = read_small(options.request, MAX_REQUEST_BYTES, "an enrolment request")
    with open_ledger(options.directory) as ledger:
        answer = ledger.grant(request, enroller, datetime.now(UTC), days=options.days)
    # The token is used and its answer recorded; what fails from here on is repaired by granting
    # the same request again.
    write_answer(options.out, answer)
    print(f"{options.out}: bring it to the gateway; there: journeyman-agent enrol install")
    return 0


def write_answer(path: Path, answer: bytes) -> None:
    """Write the answer; a file that holds something else is not overwritten."""
    if path.exists() and read_small(path, 1 << 20, "the file in the way") != answer:
        reason = "this exists and is another file; give another name, or remove it"
        raise SettingsError(str(path), None, None, reason)
    replace_file(path, answer)


def _list(options: argparse.Namespace) -> int:
    with open_ledger(options.directory) as ledger:
        entries, revoked = ledger.entries(datetime.now(UTC)), ledger.issued.revocations()
    print(f"{'TOKEN':32}  {'AGENT':20}  {'SITE':16}  STATE")
    for entry in entries:
        print(f"{entry.id.hex()}  {entry.agent:20}  {entry.site:16}  {_state(entry)}")
    for each in revoked:
        print(f"revoked up to credential {each.serial}: {each.agent}, {each.since:%Y-%m-%d %H:%M}")
    return 0


def _state(entry: Entry) -> str:
    when = f"{entry.since:%Y-%m-%d %H:%M} UTC"
    word = "until" if entry.state == "open" else "since"
    serial = f", credential {entry.serial}" if entry.serial else ""
    return f"{entry.state} {word} {when}{serial}"


def _revoke(options: argparse.Namespace) -> int:
    directory, which = options.directory, options.which
    enroller = read_enroller(directory)
    elsewhere = issued_serial(directory, which, enroller.trust) if NAME.fullmatch(which) else 0
    with open_ledger(directory) as ledger:
        before = ledger.issued.number
        tokens = ledger.revoke(which, datetime.now(UTC), serial=elsewhere)
        after, credentials = ledger.issued.number, ledger.issued.revocations()
    for entry in tokens:
        print(f"{entry.id.hex()} for {entry.agent}: revoked")
    if after == before:
        if not tokens:
            reason = f"no token or agent to revoke has this name: {which}"
            print(f"{reason}; `enrolment list` shows what was revoked before", file=sys.stderr)
        return 0 if tokens else 1
    for each in credentials:
        print(f"{each.agent}: revoked up to credential {each.serial}")
    office = Office(directory, AGENT_DAYS)
    office.new_crl()
    replace_file(directory / REVOKED, office.revoked() or b"")
    print(f"{directory / CRL}: for the broker's crlfile; then reload the broker")
    print(f"{directory / REVOKED}: for the coordinator's [trust] revoked, unless", end=" ")
    print("`enrolment serve --broker` runs")
    return 0


def _hours(text: str) -> float:
    value = float(text)
    if not 0 < value <= MAX_HOURS:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to {MAX_HOURS} hours")
    return value


def _serial(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_SERIAL:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {MAX_SERIAL}")
    return value

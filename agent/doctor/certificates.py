"""Certificates: how long they last, and whether files belong together.

Reads, and makes or renews nothing.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from agent.doctor.finding import Finding, ok, problem, skipped, warning
from agent.sensors.opcua.certificates import (
    MAX_CERTIFICATE_BYTES,
    is_expired,
    parse_certificate,
    thumbprint,
)
from agent.sensors.opcua.own_certificate import TAKE_OVER, given_application, given_user
from agent.sensors.opcua.security import SecuritySettings
from agent.sensors.opcua.trust_store import read_trust_list
from wire.certificates import read_certificate, read_client
from wire.errors import MalformedError, SettingsError
from wire.files import read_small
from wire.mqtt import BrokerSettings

SOON = timedelta(days=45)
"""Time to have a certificate renewed by somebody else's department."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Resolve = Callable[[str], Path]


def judge_end(check: str, what: str, end: datetime, now: datetime, renewal: str) -> Finding:
    """How long a certificate lasts.

    Args:
      check: its name.
      what: the file, for people.
      end: last moment of its validity.
      now: the clock.
      renewal: what to do for a new one.
    """
    if now > end:
        return problem(check, f"{what} expired on {end:%Y-%m-%d %H:%M} UTC", renewal)
    left = f"{what} is valid until {end:%Y-%m-%d}, {(end - now).days} days"
    return warning(check, left, renewal) if end - now < SOON else ok(check, left)


def broker_files(broker: BrokerSettings, agent: str, now: datetime) -> Iterator[Finding]:
    """The TLS files of the broker; `broker` holds whole paths."""
    check = "broker certificates"
    if not broker.ca_file:
        if broker.host in _LOOPBACK:
            yield ok(check, "no TLS, and the broker is on this machine")
        else:
            yield warning(
                check,
                f"no TLS to {broker.host}: others on the way see metadata and can disturb it",
                "set ca_file, cert_file and key_file in [broker] (journeyman-agent enrol)",
            )
        return
    renew_ca = "get the federation's new ca.crt"
    renew = "the agent renews it while `journeyman enrolment serve` runs at the authority; without "
    renew += "that, enrol anew with a new token: journeyman-agent enrol"
    try:
        ca = read_certificate(Path(broker.ca_file))
        yield judge_end(check, broker.ca_file, ca.not_valid_after_utc, now, renew_ca)
        if broker.cert_file and broker.key_file:
            own = read_certificate(Path(broker.cert_file))
            end = judge_end(check, broker.cert_file, own.not_valid_after_utc, now, renew)
            yield end
            key = Path(broker.key_file)
            if key.parent == Path("/") and not key.exists():
                yield skipped("broker key", "only the unit sees it ($CREDENTIALS_DIRECTORY)")
            elif end.status != "problem" and not is_expired(ca, now):
                paths = (Path(broker.ca_file), Path(broker.cert_file), Path(broker.key_file))
                read_client(*paths, agent, now)
                yield ok(check, "CA, certificate and key belong together")
    except SettingsError as error:
        yield problem(check, str(error), "correct the file or its name in [broker]")


def opcua_certificate(
    security: SecuritySettings, pki: Path, resolve: Resolve, now: datetime
) -> Iterator[Finding]:
    """The certificate by which the agent shows itself to OPC UA servers."""
    check = "OPC UA certificate"
    try:
        if security.certificate:
            path = resolve(security.certificate)
            # An expired one is told by its date, before `given_application` refuses it.
            parsed = parse_certificate(read_small(path, MAX_CERTIFICATE_BYTES, "a certificate"))
            end = parsed.not_valid_after_utc
            yield judge_end(check, str(path), end, now, "get a new one, and trust it at the server")
            if now <= end:
                given_application(path, resolve(security.key))
        elif security.policy != "None":
            yield from _own(check, pki / "own", now)
        if security.user_certificate:
            given_user(resolve(security.user_certificate), resolve(security.user_key))
    except MalformedError as error:
        yield problem(check, f"{security.certificate}: {error}", "put the certificate there")
    except SettingsError as error:
        yield problem(check, str(error), "correct the file, or its name in the security table")


def _own(check: str, own: Path, now: datetime) -> Iterator[Finding]:
    path, after = own / "certificate.der", own / "next.der"
    if not path.exists():
        yield skipped(
            check,
            "not made yet: that happens at the first connection with a policy",
            "start the agent once, then trust its certificate at the server",
        )
        return
    try:
        current = parse_certificate(read_small(path, MAX_CERTIFICATE_BYTES, "a certificate"))
    except MalformedError as error:
        yield problem(check, f"{path}: {error}", f"delete {own}: a new one is made")
        return
    end = current.not_valid_after_utc
    shown = f"{path} (thumbprint {thumbprint(current)})"
    if after.exists():
        yield warning(
            check,
            f"{shown} is valid until {end:%Y-%m-%d} and has a successor",
            f"trust {after} at the servers before {end - TAKE_OVER:%Y-%m-%d}",
        )
    elif now > end:
        yield warning(
            check, f"{shown} expired", "the agent makes a new one: trust that at the servers"
        )
    else:
        yield ok(check, f"{shown} is valid until {end:%Y-%m-%d}")


def trust_list(pki: Path) -> Iterator[Finding]:
    """Servers that were refused and wait for somebody's decision; files that count for nothing."""
    check = "OPC UA trust list"
    try:
        trust = read_trust_list(pki)
    except SettingsError as error:
        yield problem(check, str(error), "make it readable for the agent")
        return
    for path, reason in trust.unreadable.items():
        yield warning(check, f"{path} counts for nothing: {reason}", "remove or replace it")
    if trust.rejected:
        yield warning(
            check,
            f"{len(trust.rejected)} servers were refused and are not trusted",
            "compare their thumbprints: journeyman-agent trust list, then trust add",
        )
    elif not trust.unreadable:
        yield ok(check, f"{len(trust.trusted)} certificates trusted, none refused")

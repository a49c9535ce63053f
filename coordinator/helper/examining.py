"""Verdicts: which of the reports that the coordinator shows this helper would put into a sum.

Refuses what `wire/SECURE.md`, "Examine", lists, in words that name what is wrong.  The answer to a
report that was accepted is the same for ever.
"""

import logging

from coordinator.helper.office import TOLD_OTHERWISE, Office
from coordinator.helper.reports import Credentials, opened_report, read_credentials, read_shown
from coordinator.helper.store import Accepted
from wire.chunks import sha256
from wire.errors import MalformedError, SignatureError, WireError
from wire.messages import Examine, UpdateHeader, Verdict, Verdicts

logger = logging.getLogger(__name__)

_REASON = 300
"""Characters of a reason: 256 of them fit the cap of their message."""


def examine(office: Office, payload: bytes) -> Verdicts:
    """Say of each report whether this helper would put it into a sum.

    Raises:
      WireError: this is no `examine` by the charter's coordinator.
    """
    message = office.by_coordinator(payload, Examine)
    refusal = office.why_nothing()
    if refusal:
        return Verdicts(items=tuple(_refused(sha256(each), refusal) for each in message.reports))
    with office.store.transaction():
        office.hear_bases(message.bases)
        credentials = read_credentials(message.credentials, office.trust)
        items = [_verdict(office, envelope, credentials) for envelope in message.reports]
    return Verdicts(items=tuple(items))


def _verdict(office: Office, envelope: bytes, credentials: Credentials) -> Verdict:
    report = sha256(envelope)
    known = office.store.report(report)
    if known is not None:
        return Verdict(report=report, accepted=True, number=known.place)
    try:
        accepted = _acceptable(office, envelope, credentials)
    except WireError as error:
        return _refused(report, str(error))
    office.store.accept(accepted)
    return Verdict(report=report, accepted=True, number=accepted.place)


def _acceptable(office: Office, envelope: bytes, credentials: Credentials) -> Accepted:
    charter, store = office.trust.charter, office.store
    shown = read_shown(envelope, credentials, charter.federation)
    agent, serial = shown.credential.agent, shown.credential.serial
    if store.revocations.covers(agent, serial):
        raise SignatureError(f"credential {serial} of {agent} is revoked")
    before = store.named(agent, shown.name)
    if before is not None:
        reason = f"{agent} {shown.name} was shown under another header, {before.hex()[:16]}…"
        raise MalformedError(f"{reason}: replayed")
    report = opened_report(shown, office.keys.sealing.raw, charter.federation)
    if isinstance(shown.header, UpdateHeader):
        _check_base(office, shown.header)
    return report


def _check_base(office: Office, header: UpdateHeader) -> None:
    known = office.store.base(office.trust.charter.recovery, header.base_version)
    if known is None:
        reason = f"nobody told this helper the digest of version {header.base_version}"
        raise MalformedError(reason)
    if known != header.base_digest:
        reason = f"version {header.base_version} is {known.hex()[:16]}…, and {header.agent} "
        reason += f"trained from {header.base_digest.hex()[:16]}…"
        office.alarm(TOLD_OTHERWISE, reason)
        raise MalformedError(reason)


def _refused(report: bytes, reason: str) -> Verdict:
    logger.warning("report %s: %s", report.hex()[:16], reason)
    return Verdict(report=report, accepted=False, reason=reason[:_REASON])

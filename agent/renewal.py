"""How this agent stands with the enrolment authority: its certificate's next one, and revocation.

It asks once a day, so that a newer charter comes and that a clock which is far behind does no harm
(`wire/renewal.py`); and every hour while, by its own clock, less than a third of the certificate's
validity is left.  Without an authority online nothing happens, and it asks again.

The next certificate is for the next connection; one that is up is not ended for it.  A newer
charter or credential counts at once.  An agent that was revoked delivers nothing, since what it
delivers would be refused, and keeps it until it is enrolled again.  One whose credential a newer
charter does not count, because another key enrols now, asks for its next one without waiting.

Certificates are read where there is one: an agent without TLS does not load what that takes.
"""

import logging
import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config import Identity
from agent.kept_identity import uncounted
from agent.status import Status
from wire.errors import SettingsError
from wire.messages import Renewal as Question
from wire.mqtt import BrokerSettings
from wire.signing import PublicKey
from wire.trust import highest_revoked, read_revoked

if TYPE_CHECKING:
    from agent.own_certificate import OwnCertificate

logger = logging.getLogger(__name__)

_DUE_S, _ROUTINE_S = 3600.0, 86_400.0
_SPREAD = 0.2
"""Waits are so much longer or shorter, at random: gateways enrolled together ask apart."""
_FIRST_DUE_S, _FIRST_ROUTINE_S = 2.0, 3600.0
"""After a start, at most: a gateway that is on for an hour a day asks each day."""
_WARN = timedelta(days=30)
_WARN_AGAIN_S = 86_400.0


@dataclass
class Renewal:
    """Asks, takes answers, and knows whether this agent was revoked.

    Attributes:
      identity: of the running agent.
      root: pinned.
      state: the agent's state directory.
      status: told of what comes.
    """

    identity: Identity
    root: PublicKey
    state: Path
    status: Status
    rng: random.Random = field(default_factory=random.Random)
    _broker: BrokerSettings = field(default_factory=BrokerSettings, init=False)
    _own: "OwnCertificate | None" = field(default=None, init=False)
    _next_s: float | None = field(default=None, init=False)
    _was_due: bool = field(default=False, init=False)
    _list: int = field(default=0, init=False)
    _warned_s: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.follow(self.identity)

    def follow(self, identity: Identity) -> None:
        """Go on by a newer charter or credential."""
        self.identity = identity
        reason = uncounted(identity)
        self.status.renewed = f"its credential does not count: {reason}" if reason else ""
        if reason:
            logger.warning("%s", self.status.renewed)

    @property
    def is_revoked(self) -> bool:
        """Whether the authority says that this agent's credential is not to be believed."""
        return bool(self.status.revoked)

    def newest(self, broker: BrokerSettings) -> BrokerSettings:
        """The settings for the next connection: with the newest certificate, where there is one."""
        self._broker, self._own = broker, None
        if not (broker.ca_file and broker.cert_file and broker.key_file):
            return broker
        from agent.own_certificate import newest_certificate  # noqa: PLC0415

        try:
            self._own = newest_certificate(broker, self.identity.agent, self.state)
        except SettingsError as error:
            logger.warning("the certificate is not looked after: %s", error)
            return broker  # which says by itself what can not be used
        return self._own.shown(broker)

    def next_question(self, now: datetime, now_s: float) -> Question | None:
        """What to ask now; None while it is not time.

        Args:
          now: the clock, which may be wrong.
          now_s: monotonic time.
        """
        if self._own is None:
            return None
        is_due = self._own.is_due(now) or bool(self.status.renewed)
        if self._next_s is None or (is_due and not self._was_due):
            longest_s = _FIRST_DUE_S if is_due else _FIRST_ROUTINE_S
            self._next_s = now_s + self.rng.uniform(0.0, longest_s)
        self._was_due = is_due
        if now_s < self._next_s:
            return None
        pause_s = _DUE_S if is_due else _ROUTINE_S
        self._next_s = now_s + pause_s * self.rng.uniform(1 - _SPREAD, 1 + _SPREAD)
        return self._own.question(self.identity)

    def on_answer(self, payload: bytes) -> Identity | None:
        """Take the authority's answer; returns who the agent is now where that is news.

        Raises:
          WireError: it is refused, and nothing changed.
        """
        own = self._own
        if own is None:
            return None
        from agent.own_certificate import take_answer  # noqa: PLC0415

        try:
            newer = take_answer(payload, own, self.identity, self.root, self.state)
        except SettingsError as error:
            logger.warning("what was renewed could not be kept: %s", error)
            return None
        if newer.certificate != own.certificate:
            end = newer.certificate.not_valid_after_utc
            logger.info("the certificate was renewed until %s", f"{end:%Y-%m-%d}")
            self.newest(self._broker)
        now = replace(
            self.identity,
            trust=newer.trust,
            credential=newer.own,
            credential_envelope=newer.credential,
        )
        return now if now != self.identity else None

    def on_revoked(self, payload: bytes) -> bool:
        """Take the list of revoked credentials; returns whether this agent is on it.

        Raises:
          WireError: it is refused.
        """
        revoked, own = read_revoked(payload, self.identity.trust), self.identity.credential
        if revoked.number < self._list:
            return self.is_revoked
        self._list = revoked.number
        if highest_revoked(revoked, own.agent) >= own.serial and not self.is_revoked:
            self.status.revoked = f"credential {own.serial} of {own.agent} was revoked by the "
            self.status.revoked += "enrolment authority: enrol this gateway again"
            logger.error("%s", self.status.revoked)
        return self.is_revoked

    def tell(self, now: datetime, now_s: float) -> None:
        """Put into the status how long the certificate lasts; warn in its last month.

        Args:
          now: the clock.
          now_s: monotonic time.
        """
        if self._own is None:
            return
        end = self._own.end
        left = end - now
        self.status.certificate_ends = end.timestamp()
        self.status.certificate = f"valid until {end:%Y-%m-%d}, {max(left.days, 0)} days"
        if left >= _WARN:
            return
        self.status.certificate += ": not renewed yet; does `journeyman enrolment serve` run?"
        if self._warned_s is None or now_s - self._warned_s > _WARN_AGAIN_S:
            self._warned_s = now_s
            logger.warning("the certificate for the broker: %s", self.status.certificate)

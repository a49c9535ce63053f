"""By which certificate the agent shows itself to the broker: the configured or the renewed one.

Of two for the same key the one made later counts (`agent/kept_identity.py`).  Asking for the next
one needs its private key and shows that the agent holds it.
"""

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509

from agent.config import Identity
from agent.kept_identity import keep, kept_certificate
from wire.certificates import (
    check_client,
    check_key,
    read_certificate,
    read_key,
    write_certificate,
)
from wire.errors import SettingsError, WireError
from wire.issuing import Key, signing_request
from wire.messages import Renewal
from wire.mqtt import BrokerSettings
from wire.renewal import Newer, Present, is_due, is_older, read_renewed
from wire.signing import PublicKey

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnCertificate:
    """A certificate, its file, its key, and the CA that made it."""

    certificate: x509.Certificate
    path: Path
    key: Key
    ca: x509.Certificate

    @property
    def end(self) -> datetime:
        """Last moment of its validity."""
        return self.certificate.not_valid_after_utc

    def is_due(self, now: datetime) -> bool:
        """Whether a clock that says `now` asks for the next one."""
        return is_due(self.certificate, now)

    def shown(self, broker: BrokerSettings) -> BrokerSettings:
        """Settings by which a connection shows it."""
        return msgspec.structs.replace(broker, cert_file=str(self.path))

    def question(self, identity: Identity) -> Renewal:
        """What to ask the enrolment authority."""
        return Renewal(
            credential=identity.credential_envelope,
            signing_request=signing_request(self.key, identity.agent),
        )


def newest_certificate(broker: BrokerSettings, agent: str, state: Path) -> OwnCertificate:
    """The certificate to show.

    Args:
      broker: with whole paths, and a CA, certificate and key.
      agent: the CN.
      state: the agent's state directory.

    Raises:
      SettingsError: a configured file can not be used.
    """
    path, kept = Path(broker.cert_file), kept_certificate(state, agent)
    own = OwnCertificate(
        read_certificate(path),
        path,
        read_key(Path(broker.key_file)),
        read_certificate(Path(broker.ca_file)),
    )
    if not kept.exists():
        return own
    try:
        renewed = read_certificate(kept)
        check_client(renewed, own.ca, agent, f"{kept}")
        check_key(renewed, own.key.public_key(), f"{kept}")
    except (SettingsError, WireError) as error:
        logger.warning("the renewed certificate is ignored: %s", error)
        return own
    if is_older(renewed, own.certificate):
        return own
    return OwnCertificate(renewed, kept, own.key, own.ca)


def take_answer(
    data: bytes, own: OwnCertificate, identity: Identity, root: PublicKey, state: Path
) -> Newer:
    """Verify an answer of the authority and make durable what is newer.

    Raises:
      WireError: refused; nothing was written.
      SettingsError: the disk did not take it.
    """
    present = Present(root, identity.trust, identity.credential, own.ca, own.certificate)
    newer = read_renewed(data, present)
    has_news = newer.trust != identity.trust or newer.credential != identity.credential_envelope
    if has_news or newer.certificate != own.certificate:
        keep(state, identity.agent, newer.charter, newer.credential)
        write_certificate(kept_certificate(state, identity.agent), newer.certificate)
    return newer

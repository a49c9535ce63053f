"""Which clients may read: everybody on this machine, and elsewhere those in the trust list.

The agent has one application certificate and one trust list (`agent/sensors/opcua/trust.py`), for
the servers that it talks to and for the clients that talk to it.  Both are read anew for each
client, so what a person adds works without a restart.
"""

import logging
import time
from typing import Final

from cryptography import x509

from agent.sensors.opcua.certificates import (
    application_uri,
    parse_chain,
    subject_of,
    thumbprint,
    utc_now,
)
from agent.sensors.opcua.own_certificate import OwnCertificate, own_certificate
from agent.sensors.opcua.trust import refusal
from agent.sensors.opcua.trust_store import pki_directory, read_trust_list, reject
from agent.sensors.source import SourceContext
from agent.serve.inbox import OutputReport
from agent.serve.settings import OpcUaServerSettings
from wire.errors import MalformedError, SettingsError

_REJECT_EVERY_S: Final = 10.0
"""Strangers could wear out a memory card with certificates that are kept for `trust add`."""
CLIENTS: Final = "clients"

logger = logging.getLogger(__name__)


class Clients:
    """Judges clients; what it refused is in the report's problems.

    Args:
      settings: of the server.
      context: where the certificates are.
      report: for people.
    """

    def __init__(
        self, settings: OpcUaServerSettings, context: SourceContext, report: OutputReport
    ) -> None:
        self._settings, self._context, self._report = settings, context, report
        self._pki = pki_directory(context.state_dir)
        self._rejected_s = -_REJECT_EVERY_S

    @property
    def is_open(self) -> bool:
        """Whether everybody who can connect may read."""
        return self._settings.is_loopback or self._settings.allow_insecure

    def own_certificate(self) -> OwnCertificate:
        """The agent's own certificate, made or renewed when it is time.

        Raises:
          SettingsError: a file can not be read or written.
        """
        return own_certificate(self._pki / "own", self._context.agent, utc_now())

    def refusal(self, certificate: bytes | None) -> str:
        """Why a client is refused; empty when it is not.

        Args:
          certificate: of its secure channel, DER; None on a channel without security.
        """
        if self.is_open:
            return ""
        reason = self._reason(certificate)
        if reason and self._report.problems.get(CLIENTS) != reason:
            logger.warning("scores over OPC UA: a client is refused: %s", reason)
        if reason:
            self._report.problems[CLIENTS] = reason
        else:
            self._report.problems.pop(CLIENTS, None)
        return reason

    def _reason(self, certificate: bytes | None) -> str:
        if certificate is None:
            return "it asks for no security: choose one of the policies in its settings"
        try:
            chain = parse_chain(certificate)
            trust = read_trust_list(self._pki)
        except (MalformedError, SettingsError) as error:
            return str(error)
        leaf = chain[0]
        refused = refusal(chain, application_uri(leaf), trust, utc_now(), peer="client")
        if refused is None:
            return ""
        named = f"{subject_of(leaf)}, thumbprint {thumbprint(leaf)}"
        advice = ""
        if refused.can_be_trusted:
            self._keep_rejected(leaf)
            advice = "; if this is the client's own thumbprint, run: journeyman-agent trust add "
            advice += f"CONFIG {thumbprint(leaf)}"
        return f"{refused.reason} ({named}){advice}"

    def _keep_rejected(self, leaf: x509.Certificate) -> None:
        now_s = time.monotonic()
        if now_s - self._rejected_s >= _REJECT_EVERY_S:
            self._rejected_s = now_s
            reject(self._pki, leaf)

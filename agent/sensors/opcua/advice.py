"""What a person can do when a server refuses the agent, in a sentence.  Pure.

Servers say little about why, on purpose (OPC 10000-4, 6.1.3: details would help an attacker), so
the sentences name what to look at, with the paths of this gateway.
"""

from typing import Final

from asyncua import ua

from agent.sensors.opcua.offers import RefusedError
from agent.sensors.opcua.security import SecuredSource, SecuritySettings
from agent.sensors.opcua.trust_store import pki_directory
from agent.sensors.source import SourceContext

_IDENTITY: Final = frozenset(
    {
        ua.StatusCodes.BadUserAccessDenied,
        ua.StatusCodes.BadIdentityTokenInvalid,
        ua.StatusCodes.BadIdentityTokenRejected,
        ua.StatusCodes.BadUserSignatureInvalid,
    }
)
_CERTIFICATE: Final = frozenset(
    {
        ua.StatusCodes.BadSecurityChecksFailed,
        ua.StatusCodes.BadCertificateInvalid,
        ua.StatusCodes.BadCertificateTimeInvalid,
        ua.StatusCodes.BadCertificateUriInvalid,
        ua.StatusCodes.BadCertificateUseNotAllowed,
        ua.StatusCodes.BadCertificateUntrusted,
        ua.StatusCodes.BadCertificateRevoked,
        ua.StatusCodes.BadCertificateChainIncomplete,
    }
)


def advice(error: BaseException, settings: SecuredSource, context: SourceContext) -> str:
    """Say what to do about an error of an attempt to connect; empty when it is not security.

    A `RefusedError` says it itself.
    """
    security = settings.security
    if isinstance(error, RefusedError):
        return ""
    if isinstance(error, ua.UaStatusCodeError):
        if error.code in _IDENTITY:
            return _about_identity(security)
        if error.code not in _CERTIFICATE:
            return ""
        return f"the server does not accept the agent's certificate: {_show(security, context)}"
    # A server that does not trust the client's certificate may just close (OPC 10000-6, 6.7.4).
    if isinstance(error, ConnectionError) and security.policy != "None":
        return f"if the server does not trust the agent yet: {_show(security, context)}"
    return ""


def _about_identity(security: SecuritySettings) -> str:
    if security.user:
        return (
            f"the server does not accept user {security.user!r}: correct the user there, or the "
            f"password in {security.password_file}, which is read again at the next attempt"
        )
    if security.user_certificate:
        return (
            f"the server does not accept {security.user_certificate}: trust it there among the "
            "certificates of users"
        )
    return "the server takes no anonymous users: set user and password_file, or user_certificate"


def _show(security: SecuritySettings, context: SourceContext) -> str:
    path = security.certificate or pki_directory(context.state_dir) / "own" / "certificate.der"
    return f"trust {path} there, among the certificates of clients, and compare the clocks"

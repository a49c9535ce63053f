"""What a server offers, and which of it is acceptable: endpoints and identity tokens.  Pure.

Never chooses less than what is asked for, and never a token policy that shows a password to the
network.  The refusal names what there is.
"""

import dataclasses
from collections.abc import Sequence

from asyncua import ua

from wire.errors import one_line

_PREFIX = "http://opcfoundation.org/UA/SecurityPolicy#"
NO_POLICY = f"{_PREFIX}None"
_SECRET = tuple(
    f"{_PREFIX}{name}"
    for name in ("Aes256_Sha256_RsaPss", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Basic256")
)
"""Policies that keep a password secret on an open channel (RSA-OAEP), the strongest first."""


class RefusedError(ConnectionError):
    """The agent does not talk to this server so; the message says why and what to do.

    Attributes:
      endpoint: the configured one.
      reason: the message without it.
    """

    def __init__(self, endpoint: str, reason: str) -> None:
        self.endpoint, self.reason = endpoint, one_line(reason)
        super().__init__(f"OPC UA {endpoint}: {self.reason}")


def choose_endpoint(
    offered: Sequence[ua.EndpointDescription], policy: str, mode: ua.MessageSecurityMode, where: str
) -> ua.EndpointDescription:
    """Find the endpoint of this policy (a URI) and mode.

    Raises:
      RefusedError: the server `where` has none.
    """
    # asyncua speaks only this transport.
    reachable = [each for each in offered if str(each.EndpointUrl).startswith("opc.tcp://")]
    for endpoint in reachable:
        if (str(endpoint.SecurityPolicyUri), endpoint.SecurityMode) == (policy, mode):
            return endpoint
    names = dict.fromkeys(
        _shown(str(each.SecurityPolicyUri), each.SecurityMode) for each in reachable
    )
    reason = f"the server does not offer {_shown(policy, mode)} but {', '.join(names) or 'nothing'}"
    advice = "enable it there, or change policy and mode in [source.opcua.security]"
    raise RefusedError(where, f"{reason}: {advice}")


def _shown(policy: str, mode: ua.MessageSecurityMode) -> str:
    """As the settings write it: `Aes128Sha256RsaOaep/Sign`."""
    name = policy.rpartition("#")[2].replace("_", "")
    return name if mode == ua.MessageSecurityMode.None_ else f"{name}/{mode.name}"


def choose_token(
    offered: Sequence[ua.UserTokenPolicy],
    kind: ua.UserTokenType,
    policy: str,
    where: str,
    *,
    may_be_open: bool,
) -> ua.UserTokenPolicy:
    """Pick the token policy that protects this kind of identity best.

    Args:
      offered: by the endpoint in use.
      kind: Anonymous, UserName or Certificate.
      policy: URI of the channel's, which an empty URI stands for (OPC 10000-4, 7.42).
      where: the server.
      may_be_open: whether a password may be sent as it is: the channel encrypts, or it is allowed.

    Returns:
      The policy, its URI filled in.

    Raises:
      RefusedError: the server takes no such identity, or would have it unprotected.
    """
    found = {
        str(each.SecurityPolicyUri or policy): each
        for each in reversed(offered)  # the first of equals stays
        if each.TokenType == kind
    }
    if not found:
        kinds = ", ".join(dict.fromkeys(each.TokenType.name for each in offered)) or "none"
        reason = f"the server takes no identity of kind {kind.name}, but {kinds}: change user or "
        raise RefusedError(where, f"{reason}user_certificate in [source.opcua.security]")
    uri = next((each for each in _SECRET if each in found), next(iter(found)))
    if uri not in _SECRET and kind == ua.UserTokenType.Certificate:
        reason = "the server wants the user's certificate without a signature that the agent makes"
        raise RefusedError(where, f"{reason}: set a policy in [source.opcua.security]")
    if uri not in _SECRET and kind == ua.UserTokenType.UserName and not may_be_open:
        reason = "the server wants the password in clear text on a channel that is not encrypted"
        raise RefusedError(where, f"{reason}: set mode = 'SignAndEncrypt'")
    return dataclasses.replace(found[uri], SecurityPolicyUri=uri)

"""Secure channels and identities of the OPC UA client (OPC 10000-4, 5.5, 5.6, 6.1; 10000-7).

`secure` prepares a client before each connection.  It refuses, and never falls back to less:
  - a server that does not offer the configured policy and mode,
  - a server whose certificate the trust list does not accept,
  - a password that would cross an unencrypted channel in clear text.

The certificate that is checked is the one of the chosen endpoint; the channel is encrypted for it,
and the session's answer, signed with its key, must show the same one.

Files are read before every connection: a corrected password, a newly trusted certificate and a
renewed own one work without a restart.
"""

import asyncio
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlparse

from asyncua import Client, ua
from asyncua.crypto import security_policies
from asyncua.crypto.uacrypto import CertProperties
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.sensors.opcua.certificates import (
    application_uri,
    der,
    is_for_host,
    parse_chain,
    subject_of,
    thumbprint,
    utc_now,
)
from agent.sensors.opcua.offers import RefusedError, choose_endpoint, choose_token
from agent.sensors.opcua.own_certificate import (
    OwnCertificate,
    agent_uri,
    given_application,
    given_user,
    own_certificate,
)
from agent.sensors.opcua.security_settings import SecuritySettings, problems_of_security
from agent.sensors.opcua.trust import refusal, unusable_key
from agent.sensors.opcua.trust_store import pki_directory, read_trust_list, reject
from agent.sensors.source import SourceContext
from wire.errors import MalformedError, SettingsError
from wire.files import read_secret_file

_MAX_PASSWORD_BYTES = 1024
_POLICIES: dict[str, type[security_policies.SecurityPolicy]] = {
    "None": security_policies.SecurityPolicyNone,
    "Basic256Sha256": security_policies.SecurityPolicyBasic256Sha256,
    "Aes128Sha256RsaOaep": security_policies.SecurityPolicyAes128Sha256RsaOaep,
    "Aes256Sha256RsaPss": security_policies.SecurityPolicyAes256Sha256RsaPss,
}

__all__ = [
    "RefusedError",
    "SecuredSource",
    "SecuritySettings",
    "problems_of_security",
    "secure",
]

logger = logging.getLogger(__name__)


class SecuredSource(Protocol):
    """What `secure` needs of the source's settings."""

    @property
    def endpoint(self) -> str:
        """`opc.tcp://host:port/path`."""

    @property
    def security(self) -> SecuritySettings:
        """The security table."""


@dataclass(frozen=True)
class _Identity:
    """Files of the gateway that one connection needs."""

    own: OwnCertificate | None
    password: str
    user: OwnCertificate | None


async def secure(client: Client, settings: SecuredSource, context: SourceContext) -> None:
    """Prepare a client for one connection, also one that was connected before.

    Raises:
      RefusedError: the server or the gateway's own files are not as the settings ask.
      OSError, TimeoutError, ua.UaError: the server can not be asked for its endpoints.
    """
    security, where = settings.security, settings.endpoint
    for key, reason in problems_of_security(security):
        raise RefusedError(where, f"security.{key}: {reason}")
    identity = await asyncio.to_thread(_read_identity, settings, context)
    discovery = Client(where, timeout=client.uaclient._timeout)  # noqa: SLF001  has no public name
    offered = await discovery.connect_and_get_server_endpoints()
    chosen = choose_endpoint(offered, _POLICIES[security.policy].URI, _mode(security), where)
    client.name = client.description = f"Journeyman agent {context.agent}"
    client.product_uri = "urn:journeyman:agent"
    client.application_uri = agent_uri(context.agent)
    if identity.own is not None:
        client.application_uri = application_uri(identity.own.certificate)
        checked = await asyncio.to_thread(_checked, chosen, settings, context)
        await _open_for(client, security, identity.own, checked)
        client.certificate_validator = _same(checked, chosen.Server.ApplicationUri, where)
    if security.user:
        client.set_user(security.user)
        client.set_password(identity.password)
    if identity.user is not None:
        client.user_certificate = identity.user.certificate
        client.user_private_key = identity.user.key
    # asyncua takes the first token policy of a kind, whatever it does to the password.
    client.server_policy = _token_chooser(client, settings)  # type: ignore[assignment]


def _mode(security: SecuritySettings) -> ua.MessageSecurityMode:
    if security.policy == "None":
        return ua.MessageSecurityMode.None_
    return ua.MessageSecurityMode[security.mode or "SignAndEncrypt"]


def _read_identity(settings: SecuredSource, context: SourceContext) -> _Identity:
    security = settings.security
    own, user, password = None, None, ""
    try:
        if security.certificate:
            own = given_application(
                _path(security.certificate, context), _path(security.key, context)
            )
        elif security.policy != "None":
            directory = pki_directory(context.state_dir) / "own"
            own = own_certificate(directory, context.agent, utc_now())
        if security.user:
            path = _path(security.password_file, context)
            data = read_secret_file(path, _MAX_PASSWORD_BYTES, "this password")
            password = data.decode().rstrip("\r\n")
        if security.user_certificate:
            user = given_user(
                _path(security.user_certificate, context), _path(security.user_key, context)
            )
    except UnicodeDecodeError:
        raise RefusedError(settings.endpoint, "the password file is not UTF-8") from None
    except SettingsError as error:
        raise RefusedError(settings.endpoint, str(error)) from None
    return _Identity(own, password, user)


def _path(name: str, context: SourceContext) -> Path:
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return context.config_dir / name.replace("${CREDENTIALS_DIRECTORY}", credentials)


async def _open_for(
    client: Client, security: SecuritySettings, own: OwnCertificate, server: x509.Certificate
) -> None:
    key = own.key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    await client.set_security(
        _POLICIES[security.policy],
        CertProperties(der(own.certificate), "der"),
        CertProperties(key, "der"),
        server_certificate=CertProperties(der(server), "der"),
        mode=_mode(security),
    )


def _checked(
    endpoint: ua.EndpointDescription, settings: SecuredSource, context: SourceContext
) -> x509.Certificate:
    """The certificate of the endpoint, once the trust list accepts it."""
    security, where = settings.security, settings.endpoint
    try:
        chain = parse_chain(endpoint.ServerCertificate or b"")
    except MalformedError as error:
        raise RefusedError(where, f"the server's certificate can not be used: {error}") from None
    leaf, uri = chain[0], str(endpoint.Server.ApplicationUri or "")
    named = f"{subject_of(leaf)}, thumbprint {thumbprint(leaf)}"
    unusable = unusable_key(leaf)
    if unusable:
        raise RefusedError(where, f"{unusable} ({named})")
    if security.trust == "any":
        _warn_once(f"OPC UA {where}: trust = 'any', so anybody could be this server ({named})")
        return leaf
    if security.server_uri and security.server_uri != application_uri(leaf):
        reason = f"the server ({named}) is {application_uri(leaf)!r} and not server_uri"
        raise RefusedError(where, f"{reason}, {security.server_uri!r}")
    pki = pki_directory(context.state_dir)
    try:
        trust = read_trust_list(pki)
    except SettingsError as error:
        raise RefusedError(where, str(error)) from None
    for path, reason in trust.unreadable.items():
        _warn_once(f"trust list: {path} counts for nothing: {reason}")
    refused = refusal(chain, uri, trust, utc_now())
    if refused is not None:
        advice = ""
        if refused.can_be_trusted:
            reject(pki, leaf)
            advice = "; if this is the server's own thumbprint, run: journeyman-agent trust add "
            advice += f"CONFIG {thumbprint(leaf)}"
        raise RefusedError(where, f"{refused.reason} ({named}){advice}")
    host = urlparse(where).hostname or ""
    if not is_for_host(leaf, host):
        _warn_once(f"OPC UA {where}: the server's certificate ({named}) does not name {host}")
    return leaf


@functools.lru_cache(maxsize=256)
def _warn_once(text: str) -> None:
    logger.warning("%s", text)


def _same(
    checked: x509.Certificate, uri: str, where: str
) -> Callable[[x509.Certificate, ua.ApplicationDescription], Awaitable[None]]:
    """What asyncua calls with the certificate and the description in the session's answer."""

    async def validate(shown: x509.Certificate, server: ua.ApplicationDescription) -> None:
        if shown != checked or server.ApplicationUri != uri:
            reason = "the session is with another server than the one whose endpoint was checked"
            raise RefusedError(where, f"{reason}: thumbprint {thumbprint(shown)}")

    return validate


def _token_chooser(
    client: Client, settings: SecuredSource
) -> Callable[[ua.UserTokenType], ua.UserTokenPolicy]:
    security = settings.security
    is_encrypted = _mode(security) == ua.MessageSecurityMode.SignAndEncrypt

    def choose(token_type: ua.UserTokenType) -> ua.UserTokenPolicy:
        return choose_token(
            client._policy_ids,  # noqa: SLF001  of the session's answer, which is signed
            token_type,
            _POLICIES[security.policy].URI,
            settings.endpoint,
            may_be_open=is_encrypted or security.allow_unprotected_password,
        )

    return choose

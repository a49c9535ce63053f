"""The table `[source.opcua.security]`.  Pure.

What a key leaves open is never filled with less security: without a policy nothing is protected, so
keys that make sense only with one are refused instead of ignored.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from wire.settings import Settings

Text = Annotated[str, msgspec.Meta(max_length=1000)]


class SecuritySettings(Settings, frozen=True, kw_only=True):
    """The `[source.opcua.security]` table.

    Attributes:
      policy: security policy of the channel.
      mode: of messages, with a policy; SignAndEncrypt unless said otherwise.
      trust: `list` (with a policy, unless said otherwise): the server's certificate must be in the
        trust list; `any`: it is not checked at all.
      server_uri: application URI that the server must have; asked for where CAs are trusted.
      certificate: own application instance certificate, instead of the one that the agent makes.
      key: its private key.
      user: user name.
      password_file: file with the user's password.
      user_certificate: certificate of a user, instead of user name and password.
      user_key: its private key.
      allow_unprotected_password: lets the password cross a channel where others can read it.
    """

    policy: Literal["None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"] = "None"
    mode: Literal["Sign", "SignAndEncrypt"] | None = None
    trust: Literal["list", "any"] | None = None
    server_uri: Text = ""
    certificate: Text = ""
    key: Text = ""
    user: Text = ""
    password_file: Text = ""
    user_certificate: Text = ""
    user_key: Text = ""
    allow_unprotected_password: bool = False


def problems_of_security(settings: SecuritySettings) -> Iterator[tuple[str, str]]:
    """Find keys that contradict each other, as (key, reason)."""
    if settings.policy == "None":
        needless = "has no effect without a policy: set policy to Basic256Sha256, or remove this"
        for key in ("mode", "trust", "server_uri", "certificate", "key"):
            if getattr(settings, key):
                yield key, needless
        if settings.user and not settings.allow_unprotected_password:
            reason = "the password would cross the network unprotected: set a policy, or "
            reason += "allow_unprotected_password = true if nobody else can be on this network"
            yield "user", reason
    for key, other in (
        ("certificate", "key"),
        ("user", "password_file"),
        ("user_certificate", "user_key"),
    ):
        if getattr(settings, key) and not getattr(settings, other):
            yield key, f"needs {other} beside it"
        if getattr(settings, other) and not getattr(settings, key):
            yield other, f"needs {key} beside it"
    if settings.user and settings.user_certificate:
        yield "user_certificate", "a session has one identity: remove this or user"
    if settings.trust == "any" and settings.server_uri:
        yield "server_uri", "is not checked with trust = 'any'"

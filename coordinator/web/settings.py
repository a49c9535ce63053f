"""The `[web]` table: where the page listens, and who may act on it."""

import ipaddress
from pathlib import Path
from typing import Annotated, Final

import msgspec

from wire.errors import SettingsError
from wire.files import read_secret_file
from wire.settings import Settings

_MAX_TOKEN_BYTES: Final = 4096
_SHORTEST_TOKEN: Final = 32


class WebSettings(Settings, frozen=True, kw_only=True):
    """The `[web]` table.

    Attributes:
      listen: `address:port`; an IPv6 address stands in brackets.
      token_file: file of mode 0600 with the token that actions need; empty: the page only shows.
      hosts: names by which a browser may ask for the page, besides addresses and `localhost`; a
        page of another origin can not read this one by pointing a name of its own here.
    """

    listen: str = "127.0.0.1:8181"
    token_file: str = ""
    hosts: Annotated[tuple[str, ...], msgspec.Meta(max_length=32)] = ()

    def __post_init__(self) -> None:
        """Refuse an address that nobody can listen on."""
        split_address(self.listen)


def split_address(listen: str) -> tuple[str, int]:
    """Host and port of `listen`.

    Raises:
      ValueError: it is not `address:port`.
    """
    host, separator, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError("listen is `address:port`, such as 127.0.0.1:8181 or [::1]:8181")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> str:
    """The token that actions need.

    Raises:
      SettingsError: missing, open to others, too short, or not one line of printable characters.
    """
    data = read_secret_file(path, _MAX_TOKEN_BYTES, "the page's token").strip()
    text = data.decode("ascii", "replace")
    if len(text) < _SHORTEST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        reason = f"a token is one word of at least {_SHORTEST_TOKEN} ASCII characters; make one: "
        reason += f"(umask 077; openssl rand -hex 32 > {path})"
        raise SettingsError(str(path), None, None, reason)
    return text

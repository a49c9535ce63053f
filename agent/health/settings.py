"""The `[metrics]` table: where the agent says how it is, to machines."""

import ipaddress
from collections.abc import Iterator
from typing import Annotated

import msgspec

from wire.settings import Settings

Host = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class MetricsTable(Settings, frozen=True, kw_only=True):
    """`[metrics]`: `/healthz`, `/readyz` and `/metrics` over HTTP; off unless `listen` is given.

    Attributes:
      listen: `127.0.0.1:9485`, or `[::1]:9485`; empty for none.
      allow_remote: let `listen` be an address that other machines can reach.  It is plain HTTP that
        knows no users: names of sources and channels, and how much they give, can be read by all.
      hosts: names by which it may be asked for, besides addresses and `localhost`; a page on the
        web can not read it by pointing a name of its own here (DNS rebinding).
      channels: so many channels, the first ones, have figures of their own; each adds about 800
        bytes to the answer.
    """

    listen: str = ""
    allow_remote: bool = False
    hosts: Annotated[tuple[Host, ...], msgspec.Meta(max_length=32)] = ()
    channels: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 200


def address_of(listen: str) -> tuple[str, int]:
    """Host and port of `listen`.

    Raises:
      ValueError: it is not `address:port`.
    """
    host, separator, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else -1
    if not separator or not 0 <= number <= 65535:
        raise ValueError(f"{listen!r} is not an address such as 127.0.0.1:9485")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            reason = f"{host!r} is not an IP address of this machine, such as 127.0.0.1 or [::1]"
            raise ValueError(reason) from None
    return host, number


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address of `address_of`."""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def problems(table: MetricsTable) -> Iterator[tuple[str, str]]:
    """Yield (key path, reason) for everything wrong with settings whose types are right."""
    if not table.listen:
        return
    try:
        host, _ = address_of(table.listen)
    except ValueError as error:
        yield "metrics.listen", str(error)
        return
    if not is_loopback(host) and not table.allow_remote:
        reason = "other machines can reach this address, and whoever does can read the figures: "
        yield "metrics.listen", f"{reason}listen on 127.0.0.1, or add allow_remote = true"

"""The `[metrics]` table: where the agent says how it is, to machines."""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from wire.listening import address_of, is_loopback
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

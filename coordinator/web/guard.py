"""Around every answer: headers that keep a browser strict, and a check of who was asked for.

The headers forbid scripts and styles that are not files of ours, framing, and sniffing
(OWASP Secure Headers Project).  A request whose `Host` is a name that we were not told about is
refused: else any page on the web could point a name of its own at 127.0.0.1 and read this one
through the browser of somebody who may (DNS rebinding).
"""

import ipaddress
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class Guard:
    """ASGI middleware around the whole application.

    Attributes:
      app: what it guards.
      hosts: names, besides IP addresses and `localhost`, that a browser may ask for.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts} | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse, one request."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        host = Headers(scope=scope).get("host", "")
        app = self._app if self.is_known(host) else _MISDIRECTED
        await app(scope, receive, send_guarded)

    def is_known(self, host: str) -> bool:
        """Whether a `Host` header names this page; the port does not matter."""
        name = host.lower()
        if name.startswith("["):
            name, _, rest = name[1:].partition("]")
            if rest and not rest.startswith(":"):
                return False
        else:
            name = name.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.removesuffix(".") in self._hosts
        return True


_MISDIRECTED: Final = PlainTextResponse(
    "unknown host name; add it to [web] hosts in the coordinator's configuration\n", 421
)

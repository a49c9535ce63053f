"""`/healthz` and `/metrics` on loopback: two answers over HTTP/1.1, and nothing else.

On the event loop, on purpose: when that hangs there is no answer, and whoever asks finds out.
Refuses host names but `localhost` and addresses (DNS rebinding), requests over a few KiB, and
whoever takes longer than a few seconds.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from wire.exposition import CONTENT_TYPE

_REQUEST_BYTES: Final = 8192
_ANSWER_S: Final = 5.0
_PLAIN: Final = "text/plain; charset=utf-8"
Pages = Callable[[str], tuple[int, str] | None]
_WORDS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    421: "Misdirected Request",
    503: "Service Unavailable",
}


@asynccontextmanager
async def serving(host: str, port: int, pages: Pages) -> AsyncIterator[int]:
    """Serve from here on; gives the port.

    Args:
      host: address to listen on.
      port: 0 for any.
      pages: gives status and text of a path; None for what there is not.

    Raises:
      OSError: the address is taken.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_ANSWER_S):
                with contextlib.suppress(asyncio.IncompleteReadError):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(answer(head, pages))
                    await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, host, port, limit=_REQUEST_BYTES)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


def answer(head: bytes, pages: Pages) -> bytes:
    """The whole answer to a request.

    Args:
      head: request line and header fields.
      pages: see `serving`.
    """
    first, *fields = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3:
        return _packed(400, "not a request")
    method, path, _ = words
    if method not in ("GET", "HEAD"):
        return _packed(405, "this only tells")
    hosts = [line.partition(":")[2].strip() for line in fields if line.lower().startswith("host:")]
    if len(hosts) != 1 or not _is_for_us(hosts[0]):
        return _packed(421, "unknown host name")
    found = pages(path.partition("?")[0])
    status, text = found or (404, "there are /healthz and /metrics")
    kind = CONTENT_TYPE if status == 200 and path.startswith("/metrics") else _PLAIN
    return _packed(status, text, kind, has_body=method == "GET")


def _is_for_us(host: str) -> bool:
    host = host.lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.removesuffix(".") == "localhost"
    return True


def _packed(status: int, text: str, kind: str = _PLAIN, *, has_body: bool = True) -> bytes:
    body = f"{text.rstrip()}\n".encode(errors="replace")
    head = (
        f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (body if has_body else b"")

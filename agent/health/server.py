"""`/healthz`, `/readyz` and `/metrics` over HTTP, in a thread of their own.

Off the event loop, because `/healthz` has to answer when that hangs.  Standard library only.
Refuses other host names (DNS rebinding), more than a few connections at a time, and whoever takes
longer than a few seconds for a request; bodies are not read.
"""

import asyncio
import ipaddress
import logging
import threading
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from agent.egress import Egress
from agent.egress.categories import HEALTH
from agent.health.board import Board
from agent.health.settings import MetricsTable
from agent.small_server import ANSWER_S, SmallServer
from wire.errors import one_line
from wire.exposition import CONTENT_TYPE
from wire.listening import address_of, is_loopback

logger = logging.getLogger(__name__)

_AGAIN_S = 30.0
_PLAIN = "text/plain; charset=utf-8"


async def serve_health(board: Board, table: MetricsTable, egress: Egress) -> None:
    """Serve until cancelled; return at once when nobody wants it.

    An address that is taken is told once and tried again: the rest works meanwhile.
    """
    is_told = not table.listen
    while table.listen:
        try:
            async with health_server(board, table, egress) as address:
                logger.info("health and figures are at %s", address)
                await asyncio.get_running_loop().create_future()
        except OSError as error:
            if not is_told:
                logger.warning("no health and figures at %s: %s", table.listen, error)
            is_told = True
        await asyncio.sleep(_AGAIN_S)


@asynccontextmanager
async def health_server(board: Board, table: MetricsTable, egress: Egress) -> AsyncIterator[str]:
    """Serve from here on; gives the address.

    Args:
      board: what is told.
      table: settings without problems, with an address to listen on.
      egress: counts what is answered.

    Raises:
      OSError: the address is taken, or not this machine's.
    """
    host, port = address_of(table.listen)
    handler = partial(_Handler, board, {name.lower() for name in table.hosts} | {"localhost"})

    def count(client: str, size: int) -> None:
        egress.count_client("HTTP", client, HEALTH, size)

    server = SmallServer((host, port), handler, count)
    if not is_loopback(host):
        logger.warning(
            "health and figures can be read by whoever reaches %s, over plain HTTP", table.listen
        )
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_address[1]}"
    finally:
        # It looks twice a second whether to stop; other tasks need the loop to end in order.
        await asyncio.to_thread(server.shutdown)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    timeout = ANSWER_S
    server_version = "journeyman"
    sys_version = ""

    def __init__(self, board: Board, hosts: Collection[str], *arguments: Any) -> None:  # noqa: ANN401
        self._board, self._hosts = board, hosts
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Answer one of the three, or say that there is nothing else."""
        if not self._is_for_us():
            reason = "unknown host name; add it to [metrics] hosts"
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, reason)
            return
        path, now_s = self.path.partition("?")[0], time.monotonic()
        if path == "/metrics":
            self._answer(HTTPStatus.OK, self._board.metrics(now_s), CONTENT_TYPE)
        elif path == "/healthz":
            self._judge(self._board.not_alive(now_s))
        elif path == "/readyz":
            self._judge(self._board.not_ready(now_s))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "there are /healthz, /readyz and /metrics")

    do_HEAD = do_GET  # noqa: N815  the library's name

    def _judge(self, wrong: str) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
        self._answer(status, one_line(wrong) if wrong else "ok")

    def _is_for_us(self) -> bool:
        """Whether `Host` is an address, or one of our names; see `coordinator/web/guard.py`."""
        host = self.headers.get("Host", "").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.removesuffix(".") in self._hosts
        return True

    def _answer(self, status: HTTPStatus, text: str, kind: str = _PLAIN) -> None:
        body = f"{text.rstrip()}\n".encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, text: str, *values: Any) -> None:  # noqa: ANN401
        """Keep what was asked out of the log: it is the same every few seconds."""
        logger.debug("health: " + text, *values)  # noqa: G003  the library's own format

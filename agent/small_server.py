"""An HTTP server for the gateway itself: a few people and programs, never many, none for long.

The library's own, on IPv4 or IPv6, that looks up no names and lets nobody hold a connection.
"""

import logging
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import ThreadingHTTPServer
from socketserver import BaseRequestHandler, TCPServer
from typing import Any

logger = logging.getLogger(__name__)

ANSWER_S = 5.0
"""Longest time for a request and its answer."""
_MOST_CONNECTIONS = 8


CountAnswer = Callable[[str, int], None]
"""Takes a client's address and the bytes of an answer."""


class _Counted:
    """A socket, as handlers use it, that counts what is sent (`socketserver._SocketWriter`)."""

    def __init__(self, held: socket.socket) -> None:
        self._held, self.sent_bytes = held, 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  the socket's
        return getattr(self._held, name)

    def sendall(self, data: bytes | memoryview) -> None:
        """Send all; what is cut short counts whole."""
        self.sent_bytes += len(data)
        self._held.sendall(data)


class SmallServer(ThreadingHTTPServer):
    """A few connections at a time, each for `answer_s` seconds, each in a thread of its own."""

    daemon_threads = True
    request_queue_size = 16
    answer_s = ANSWER_S

    def __init__(
        self,
        address: tuple[str, int],
        handler: Callable[..., BaseRequestHandler],
        count: CountAnswer = lambda _client, _size: None,
    ) -> None:
        self._count = count
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._since_s: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind only: the library would also ask the name service for a name of this address."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  the library's
        """Take a connection, or close it when there are enough."""
        if len(self._since_s) >= _MOST_CONNECTIONS:
            self.shutdown_request(request)
            return
        self._since_s[request] = time.monotonic()
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  the library's
        """Answer one connection, and count what went out."""
        counted = _Counted(request)
        try:
            super().finish_request(counted, client_address)  # type: ignore[arg-type]
        finally:
            if counted.sent_bytes:
                self._count(str(client_address[0]), counted.sent_bytes)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401  the library's
        """End a connection; called by its own thread."""
        self._since_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called twice a second: end those that take their time, byte by byte or not at all."""
        now_s = time.monotonic()
        for request, since_s in list(self._since_s.items()):
            if now_s - since_s > self.answer_s:
                with suppress(OSError):  # it has just ended by itself
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  the library's
        """Whoever asked is gone, which is nothing, or an answer could not be made."""
        del request
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            logger.debug("%s is gone: %s", client_address, error)
        else:
            logger.error("a request was not answered", exc_info=error)

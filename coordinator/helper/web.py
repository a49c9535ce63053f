"""`/healthz` and `/metrics` of a helper, on loopback.

In a thread of its own, and asks for what it shows when it is asked.  Refuses whoever names another
host than this one (DNS rebinding), and everything but GET.
"""

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from wire.exposition import CONTENT_TYPE

Page = Callable[[], tuple[int, str]]
"""Status and text."""
_TIMEOUT_S = 5.0


class _Server(ThreadingHTTPServer):
    """Listens on one address; its answers come from `pages`."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], pages: dict[str, Page]) -> None:
        self.pages = pages
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Answers)


class _Answers(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        """Answer with a page."""
        page = self.server.pages.get(self.path.partition("?")[0])
        if not _is_here(self.headers.get("Host", "")):
            self._say(421, "unknown host name")
        elif page is None:
            self._say(404, "there are /healthz and /metrics")
        else:
            self._say(*page())

    def _say(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        is_metrics = status == 200 and self.path.startswith("/metrics")
        kind = CONTENT_TYPE if is_metrics else "text/plain; charset=utf-8"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a scrape each few seconds is no news."""


@contextmanager
def serving(address: tuple[str, int], pages: dict[str, Page]) -> Iterator[int]:
    """Serve pages to the end of the block; gives the port.

    Args:
      address: loopback, and a port or 0.
      pages: by path; called in another thread than the caller's.

    Raises:
      OSError: the address is taken.
    """
    with _Server(address, pages) as server:
        thread = threading.Thread(target=server.serve_forever, name="web", daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def _is_here(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"

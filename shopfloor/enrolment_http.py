"""Enrolment over HTTP: `POST /enrol` with a request, and `GET /ca.crl` for brokers.

Plain HTTP on purpose: request and answer are authenticated with the token's secret and hold no
secret (`wire/enrolment.py`), and the list is signed by the CA.  Who listens learns which gateway
was enrolled; who interferes can make it fail and nothing else.

Refuses bodies beyond the cap before reading them, and addresses that fail too often.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from agent.small_server import ANSWER_S, SmallServer
from shopfloor.enrolment_office import Office
from wire.database import DiskError
from wire.enrolment import MAX_REQUEST_BYTES, EnrolmentError
from wire.errors import SettingsError, SignatureError, TooLargeError, WireError, one_line
from wire.pacing import TokenBucket

logger = logging.getLogger(__name__)

ENROL_PATH = "/enrol"
CRL_PATH = "/ca.crl"
_FAILURES, _EACH_S = 10, 30.0
"""So many failures at once from one address, and one more every so many seconds."""
_ADDRESSES = 1000
_BINARY = "application/octet-stream"
_PEM = "application/x-pem-file"
_PLAIN = "text/plain; charset=utf-8"


class Failures:
    """How often each address failed; the addresses heard of longest ago are forgotten."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, address: str, now_s: float, *, failed: int = 0) -> float:
        """Seconds until this address may ask again; 0 when it may now.

        Args:
          address: who.
          now_s: monotonic time.
          failed: failures to count first.
        """
        with self._lock:
            bucket = self._buckets.setdefault(address, TokenBucket(1 / _EACH_S, _FAILURES))
            self._buckets.move_to_end(address)
            while len(self._buckets) > _ADDRESSES:
                self._buckets.popitem(last=False)
            return bucket.reserve(failed, now_s)


@contextmanager
def enrolment_server(office: Office, address: tuple[str, int]) -> Iterator[str]:
    """Serve from here on, in a thread; gives the URL.

    Raises:
      OSError: the address is taken, or not this machine's.
    """
    server = SmallServer(address, partial(_Handler, office, Failures()))
    thread = threading.Thread(target=server.serve_forever, name="enrolment", daemon=True)
    thread.start()
    try:
        host, port = server.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        yield f"http://{shown}:{port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    timeout = ANSWER_S
    server_version = "journeyman"
    sys_version = ""

    def __init__(self, office: Office, failures: Failures, *arguments: Any) -> None:  # noqa: ANN401
        self._office, self._failures = office, failures
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """The list of revoked certificates."""
        if self.path != CRL_PATH:
            self._refuse(HTTPStatus.NOT_FOUND, f"there are POST {ENROL_PATH} and GET {CRL_PATH}")
            return
        try:
            self._answer(HTTPStatus.OK, self._office.crl(), _PEM)
        except (SettingsError, DiskError) as error:
            self._broken(error)

    def do_POST(self) -> None:
        """An enrolment request."""
        who, now_s = str(self.client_address[0]), time.monotonic()
        if self.path != ENROL_PATH:
            self._refuse(HTTPStatus.NOT_FOUND, f"there are POST {ENROL_PATH} and GET {CRL_PATH}")
            return
        wait_s = self._failures.wait_s(who, now_s)
        if wait_s:
            reason = f"too many requests of this address were refused; try again in {wait_s:.0f} s"
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, reason)
            return
        try:
            answer = self._office.grant(self._body())
        except WireError as error:
            self._failures.wait_s(who, now_s, failed=1)
            logger.warning("%s: refused: %s", who, one_line(str(error)))
            self._refuse(_status(error), str(error))
        except (SettingsError, DiskError) as error:
            self._broken(error)
        else:
            self._answer(HTTPStatus.OK, answer, _BINARY)
            logger.info("%s: an enrolment request was granted", who)

    def _body(self) -> bytes:
        said = self.headers.get("Content-Length", "")
        size = int(said) if said.isascii() and said.isdecimal() and len(said) < 10 else -1
        if not 0 <= size <= MAX_REQUEST_BYTES:
            raise TooLargeError(f"send a body of known length, at most {MAX_REQUEST_BYTES} bytes")
        return self.rfile.read(size)

    def _broken(self, error: SettingsError | DiskError) -> None:
        """Say nothing of our own files to whoever asks."""
        logger.error("a request can not be answered: %s", error)
        reason = "the authority can not answer now; its log says why. Try again later"
        self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, reason)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True
        self._answer(status, f"{one_line(reason)}\n".encode(errors="replace"), _PLAIN)

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, text: str, *values: Any) -> None:  # noqa: ANN401
        """What matters is logged above."""
        logger.debug("http: " + text, *values)  # noqa: G003  the library's own format


def _status(error: WireError) -> HTTPStatus:
    """What kind of refusal it is, for programs; the words are for people."""
    if isinstance(error, TooLargeError):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    is_forbidden = isinstance(error, EnrolmentError | SignatureError)
    return HTTPStatus.FORBIDDEN if is_forbidden else HTTPStatus.BAD_REQUEST

"""What was sent to be enrolled, kept beside the credential: there is no account yet by then."""

import http.client
import time
from pathlib import Path

import msgspec

from agent.egress.categories import ENROLMENT, PROTOCOL, TLS
from agent.egress.lines import Key, Line, add
from wire.errors import SettingsError
from wire.files import read_small, replace_file
from wire.handed_over import handed_over

_SUFFIX = ".sent"
_MAX_BYTES = 1 << 16


class CountedConnection(http.client.HTTPConnection):
    """HTTP's connection that counts what it sends.

    Attributes:
      sent_bytes: of HTTP.
      tls_bytes: around them, as far as the kernel tells.
    """

    sent_bytes = 0
    tls_bytes = 0

    def send(self, data: bytes) -> None:  # type: ignore[override]
        """Send these bytes, for this program gives it nothing else.

        It is the only place where the library hands bytes to a socket.
        """
        super().send(data)
        self.sent_bytes += len(data)
        self.tls_bytes = max(0, (handed_over(self.sock) or 0) - self.sent_bytes)


class CountedTlsConnection(CountedConnection, http.client.HTTPSConnection):
    """The same over TLS."""


def note(directory: Path, agent: str, link: CountedConnection, size: int) -> None:
    """Add what one attempt sent.

    Args:
      directory: for the credential.
      agent: the agent's name.
      link: that was used, also when it failed.
      size: bytes of the request without HTTP around it.

    Raises:
      SettingsError: it can not be written; nor could the answer.
    """
    if not link.sent_bytes:
        return
    now, path = time.time(), directory / f"{agent}{_SUFFIX}"
    lines: dict[Key, Line] = {(line.destination, line.category): line for line in _read(path)}
    request = min(size, link.sent_bytes)
    for category, messages, count in (
        (ENROLMENT, 1, request),
        (PROTOCOL, 0, link.sent_bytes - request),
        (TLS, 0, link.tls_bytes),
    ):
        if count:
            where = f"enrolment authority {link.host}:{link.port}"
            add(lines, Line(where, category, messages, count, now, now))
    data = msgspec.json.format(msgspec.json.encode(list(lines.values())), indent=1)
    replace_file(path, data)


def enrolment_lines(credential: Path) -> list[Line]:
    """What was sent for the agent of a credential; none where it was carried by hand."""
    return _read(credential.with_suffix(_SUFFIX))


def _read(path: Path) -> list[Line]:
    try:
        data = read_small(path, _MAX_BYTES, "what enrolment sent")
        return msgspec.json.decode(data, type=list[Line])
    except (SettingsError, msgspec.MsgspecError, UnicodeDecodeError):
        return []

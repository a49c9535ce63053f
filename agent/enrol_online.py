"""Enrolment in one step: the request goes to the authority over HTTP, the answer comes back.

Plain HTTP is enough: both are authenticated with the token's secret, hold none, and are checked as
those that a person carries.  The token never leaves the gateway.  Everything can be repeated: the
same request gets the same answer.
"""

import http.client
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from agent.egress.enrolment import CountedConnection, CountedTlsConnection, note
from agent.enrol import install_answer, request
from wire.enrolment import MAX_ANSWER_BYTES
from wire.errors import SettingsError, one_line

_PATH = "/enrol"
_PORT = 8460
_PATIENCE_S = 30.0
_MOST_WORDS = 500


def enrol(token_file: str, url: str, directory: Path) -> str:
    """Make keys and request, have it answered at `url`, install the answer.

    Args:
      token_file: path, or `-` for standard input.
      url: of `journeyman enrolment serve`, such as `http://10.1.2.3:8460`.
      directory: for keys and what is installed.

    Returns:
      What to tell the person at the terminal: the lines for agent.toml.

    Raises:
      SettingsError: says what is wrong; the same command may be given again.
    """
    where = _checked(url)
    path = request(token_file, directory)
    answer = _answered(where, path, url)
    return install_answer(answer, url, directory)


def _checked(url: str) -> SplitResult:
    try:
        where = urlsplit(url)
        is_fine = where.scheme in ("http", "https") and where.path in ("", "/", _PATH)
        is_fine = is_fine and bool(where.hostname) and (where.port is None or where.port > 0)
    except ValueError:
        is_fine = False
    if not is_fine or "@" in url or where.query or where.fragment:
        reason = "not the address of an enrolment service, such as http://10.1.2.3:8460"
        raise SettingsError(url, None, None, reason)
    return where


def _answered(where: SplitResult, request_file: Path, url: str) -> bytes:
    """What the service answers to the request; what was sent is noted beside it.

    Raises:
      SettingsError: it can not be reached, or refuses.
    """
    data = request_file.read_bytes()
    host, is_tls = where.hostname or "", where.scheme == "https"
    kind = CountedTlsConnection if is_tls else CountedConnection
    link = kind(host, where.port or (443 if is_tls else _PORT), timeout=_PATIENCE_S)
    try:
        link.request("POST", _PATH, data, {"Content-Type": "application/octet-stream"})
        reply = link.getresponse()
        body = reply.read(MAX_ANSWER_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        reason = f"no answer: {error}; is `journeyman enrolment serve` running there? The same "
        raise SettingsError(url, None, None, reason + "command can be given again") from None
    finally:
        link.close()
        note(request_file.parent, request_file.stem, link, len(data))
    if reply.status != http.HTTPStatus.OK:
        words = one_line(body[:_MOST_WORDS].decode(errors="replace").strip())
        raise SettingsError(url, None, None, f"refused ({reply.status}): {words}")
    return body

"""A small form on the gateway: an operator says what was true of a time span.

One page over HTTP on loopback, for a panel on the gateway itself or a reverse proxy that knows its
users.  Refuses requests for another host name (DNS rebinding), posts without the page's token
(another site's form), and bodies over a few kilobytes.  Standard library only; the page needs no
script.

The server has a thread of its own; records are read and written on the agent's event loop, to which
their file belongs.
"""

import asyncio
import hmac
import html
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, TypeVar
from urllib.parse import parse_qs

from agent.egress import Egress
from agent.egress.categories import LABELS
from agent.labels.settings import LabelChannel, LabelsTable, listen_address
from agent.labels.store import OPERATOR, KeptLabel, Labels
from agent.labels.words import in_a_line, span_us, value_of
from agent.signals.label_file import LabelRecord
from agent.small_server import ANSWER_S, SmallServer
from wire.database import DiskError

T = TypeVar("T")
logger = logging.getLogger(__name__)

_MAX_BODY_BYTES = 8192
_SHOWN = 30
_USUAL_SPAN = timedelta(minutes=10)
_STYLE = (
    "body{font:18px system-ui;margin:2rem auto;max-width:46rem;padding:0 1rem;color:#1b2733}"
    "label{display:block;margin:.7rem 0}input,select,button{font:inherit;padding:.4rem .6rem}"
    "button{background:#1b5e8c;color:#fff;border:0;border-radius:.4rem}"
    "table{border-collapse:collapse;width:100%;font-size:15px}td{padding:.35rem;border-top:1px "
    "solid #ccd4db}.said{background:#e3f2e6;padding:.6rem}.wrong{background:#fbe3e0;padding:.6rem}"
)


@asynccontextmanager
async def label_form(
    labels: Labels, table: LabelsTable, title: str, egress: Egress
) -> AsyncIterator[str]:
    """Serve the form from here on; gives its address.

    Args:
      labels: what it writes to, on the running event loop.
      table: the settings, with an address to listen on.
      title: whose gateway this is.
      egress: counts what is answered.

    Raises:
      OSError: the address is taken.
    """
    form = _Form(labels, table, title, asyncio.get_running_loop())
    handler = partial(_Handler, form)

    def count(client: str, size: int) -> None:
        egress.count_client("HTTP", client, LABELS, size)

    server = SmallServer(listen_address(table.listen), handler, count)
    host, port = server.server_address[:2]
    form.hosts = {f"{name}:{port}" for name in (str(host), "localhost", "127.0.0.1", "[::1]")}
    thread = threading.Thread(target=server.serve_forever, name="label form", daemon=True)
    thread.start()
    try:
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        yield f"http://{shown}:{port}/"
    finally:
        # It looks twice a second whether to stop; other tasks need the loop to end in order.
        await asyncio.to_thread(server.shutdown)
        server.server_close()


async def serve_labels(labels: Labels, table: LabelsTable, title: str, egress: Egress) -> None:
    """Watch the files of labels, and serve the form if one is wanted, until cancelled.

    An address that is taken is told and leaves the rest working.
    """
    async with AsyncExitStack() as open_form:
        if table.listen:
            try:
                form = label_form(labels, table, title, egress)
                address = await open_form.enter_async_context(form)
                logger.info("labels can be given at %s", address)
            except OSError as error:
                logger.warning("no label form at %s: %s", table.listen, error)
        await labels.watch_files()


class _Form:
    """What the requests share."""

    def __init__(
        self, labels: Labels, table: LabelsTable, title: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._labels, self._loop, self._title = labels, loop, title
        self._channels = {channel.name: channel for channel in table.channel}
        self.token = secrets.token_urlsafe(24)
        self.hosts: set[str] = set()

    def page(self, said: str = "", wrong: str = "") -> str:
        """The whole page."""
        now = datetime.now(UTC).astimezone()
        kept = self._on_the_loop(self._newest)
        return (
            "<!doctype html><html lang=en><meta charset=utf-8>"
            '<meta name=viewport content="width=device-width">'
            f"<title>Labels · {html.escape(self._title)}</title><style>{_STYLE}</style>"
            f"<h1>What was true?</h1><p>{html.escape(self._title)}</p>"
            + (f"<p class=said>{html.escape(said)}</p>" if said else "")
            + (f"<p class=wrong>{html.escape(wrong)}</p>" if wrong else "")
            + "".join(self._fields(channel, now) for channel in self._channels.values())
            + "<h2>Newest labels</h2><table>"
            + "".join(self._row(each) for each in kept)
            + "</table></html>"
        )

    def _fields(self, channel: LabelChannel, now: datetime) -> str:
        name = html.escape(channel.name, quote=True)
        options = "".join(
            f"<option>{html.escape(state, quote=True)}</option>" for state in channel.states
        )
        value = (
            f"<select name=value>{options}<option>none</option></select>"
            if channel.states
            else "<input name=value required maxlength=30>"
        )
        begin, until = (f"{at:%Y-%m-%dT%H:%M:%S}" for at in (now - _USUAL_SPAN, now))
        return (
            f"<form method=post action=/add>{self._hidden('channel', channel.name)}"
            f"<h2>{name}</h2><label>value {value}</label>"
            f"<label>from <input type=datetime-local step=1 name=from value={begin} required>"
            f"</label><label>until <input type=datetime-local step=1 name=until value={until} "
            "required></label><label>note <input name=note maxlength=200></label>"
            "<button>Label it</button></form>"
        )

    def _row(self, kept: KeptLabel) -> str:
        line = in_a_line(self._channels.get(kept.record.channel), kept)
        return (
            f"<tr><td>{html.escape(line)}<td><form method=post action=/remove>"
            f"{self._hidden('number', str(kept.number))}<button>Take back</button></form></tr>"
        )

    def _hidden(self, name: str, value: str) -> str:
        fields = {"token": self.token, name: value}
        return "".join(
            f'<input type=hidden name={key} value="{html.escape(text, quote=True)}">'
            for key, text in fields.items()
        )

    async def _newest(self) -> list[KeptLabel]:
        return self._labels.newest(_SHOWN)

    def add(self, fields: dict[str, str]) -> str:
        """Keep what a person filled in; returns what was kept, in words.

        Raises:
          ValueError: says what is wrong with it.
          DiskError: it was not kept.
        """
        channel = self._channels.get(fields.get("channel", ""))
        if channel is None:
            raise ValueError("no such label")
        now_us = time.time_ns() // 1000
        span = span_us(fields.get("from"), fields.get("until"), None, now_us)
        record = LabelRecord(channel.name, *span, value_of(channel, fields.get("value", "")))

        async def keep() -> int:
            return self._labels.add(record, OPERATOR, fields.get("note", ""))

        return f"Label {self._on_the_loop(keep)} is kept."

    def remove(self, fields: dict[str, str]) -> str:
        """Take a label back; returns what happened, in words.

        Raises:
          ValueError: that is no number.
          DiskError: it is still there.
        """
        number = int(fields.get("number", ""))

        async def take_back() -> bool:
            return self._labels.remove(number)

        was_there = self._on_the_loop(take_back)
        return f"Label {number} is taken back." if was_there else f"There is no label {number}."

    def _on_the_loop(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(ANSWER_S)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    timeout = ANSWER_S
    server_version = "journeyman"
    sys_version = ""

    def __init__(self, form: _Form, *arguments: Any) -> None:  # noqa: ANN401  the server's own
        self._form = form
        super().__init__(*arguments)

    def do_GET(self) -> None:
        if not self._is_for_us():
            return
        if self.path != "/":
            self._answer(HTTPStatus.NOT_FOUND, "there is only /")
            return
        self._answer(HTTPStatus.OK, self._form.page())

    def do_POST(self) -> None:
        if not self._is_for_us():
            return
        actions = {"/add": self._form.add, "/remove": self._form.remove}
        action, fields = actions.get(self.path), self._fields()
        if action is None or fields is None:
            self._answer(HTTPStatus.BAD_REQUEST, "not a form of this page")
            return
        if not hmac.compare_digest(fields.get("token", ""), self._form.token):
            self._answer(HTTPStatus.FORBIDDEN, "load the page again: its token is not this one's")
            return
        try:
            self._answer(HTTPStatus.OK, self._form.page(said=action(fields)))
        except (ValueError, DiskError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, self._form.page(wrong=str(error)))

    def _is_for_us(self) -> bool:
        if self.headers.get("Host", "").lower() in self._form.hosts:
            return True
        self._answer(HTTPStatus.MISDIRECTED_REQUEST, "not the name of this gateway's form")
        return False

    def _fields(self) -> dict[str, str] | None:
        """The form's fields; None for anything else."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not 0 < int(length) <= _MAX_BODY_BYTES:
            return None
        body = self.rfile.read(int(length))
        try:
            found = parse_qs(body.decode(), max_num_fields=20, encoding="utf-8")
        except ValueError:
            return None
        return {name: values[0] for name, values in found.items()}

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, text: str, *values: Any) -> None:  # noqa: ANN401
        logger.debug("label form: " + text, *values)  # noqa: G003  the library's own format

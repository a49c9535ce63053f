"""The page's server behind its socket: any bytes a browser, a proxy or a stranger may send.

The bytes go through uvicorn's protocol and the whole application, as from a connection; only the
socket is missing.  Nobody gets a 500, whatever comes; nobody without the token makes anything
happen; and a `Host` that names no page of ours sees nothing of it.
"""

import asyncio
import json
import logging
import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from coordinator.reader import Reader
from coordinator.web.actions import Actions
from coordinator.web.serve import make_server
from coordinator.web.settings import WebSettings
from tests.coordinator.live_page import TOKEN
from tests.coordinator.seeded_view import NOW, about, seed
from tests.fuzz.mutating import EDGES, STRINGS, changed_tree, json_leaf, scrambled
from tests.fuzz.script import UnfitWordsError, loop, watching
from wire.errors import SettingsError

HOST = "page.example"
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)
_LONGEST_S = 8.0


@dataclass
class Acted:
    """What the page made happen."""

    done: list[object] = field(default_factory=list)

    def order(self, agent: str, order: str) -> None:
        """Take an order, or refuse it as the command line does."""
        if agent != "press-1":
            raise SettingsError("coordinator.toml", None, None, f"no agent {agent!r}")
        self.done.append((agent, order))


@dataclass(frozen=True)
class _Page:
    folder: tempfile.TemporaryDirectory[str]
    server: uvicorn.Server
    acted: Acted


@cache
def _page() -> _Page:
    """One page for all cases of this process, over a file that has seen many versions."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "coordinator.db"
    seed(path)
    acted = Acted()
    actions = Actions(acted.done.append, acted.order, acted.done.append)
    reader = Reader(path, about(), clock=lambda: NOW)
    web = WebSettings(listen="127.0.0.1:0", hosts=(HOST,))
    server = make_server(reader, actions, web, TOKEN, every_s=3600.0)
    server.config.load()
    server.should_exit = True  # so that a stream of events ends after its first
    return _Page(folder, server, acted)


class _Socket(asyncio.Transport):
    """Where the answer goes."""

    def __init__(self) -> None:
        super().__init__()
        self.said = bytearray()
        self.is_closed = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Both ends, and no TLS."""
        addresses = {"peername": ("127.0.0.1", 40_000), "sockname": ("127.0.0.1", 8181)}
        return addresses.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a piece of the answer."""
        self.said += data

    def close(self) -> None:
        """Nothing more comes."""
        self.is_closed = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.is_closed

    def pause_reading(self) -> None:
        """Everything was given already."""

    def resume_reading(self) -> None:
        """As above."""


@contextmanager
def _quiet() -> Iterator[None]:
    """What uvicorn says of requests that are none is not for whoever fuzzes."""
    logger = logging.getLogger("uvicorn.error")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def run(data: bytes) -> None:
    """One connection."""
    page = _page()
    page.acted.done.clear()
    with watching() as watch:
        said = answer_to(data)
    if b"500" in _STATUS.findall(said):
        raise AssertionError(f"500 for {data[:300]!r}")
    if page.acted.done and TOKEN.encode() not in data:
        raise AssertionError(f"{page.acted.done} for {data[:300]!r}, which does not know the token")
    if watch.unfit:
        raise UnfitWordsError(watch.unfit)


def answer_to(data: bytes) -> bytes:
    """What a connection is told that sends these bytes."""
    socket = _Socket()
    with _quiet():
        loop().run_until_complete(asyncio.wait_for(_served(_page(), socket, data), _LONGEST_S))
    return bytes(socket.said)


async def _served(page: _Page, socket: _Socket, data: bytes) -> None:
    state = page.server.server_state
    protocol = H11Protocol(page.server.config, state, {}, asyncio.get_running_loop())
    protocol.connection_made(socket)
    if data:  # none is how a transport says nothing
        protocol.data_received(data)
    while state.tasks and not socket.is_closed and not _is_waiting(protocol):
        await asyncio.wait(set(state.tasks), timeout=0.02)
    # An unfinished request waits for its rest; the end of the connection is what it gets.
    protocol.connection_lost(None)
    if state.tasks:
        await asyncio.wait(set(state.tasks))


def _is_waiting(protocol: H11Protocol) -> bool:
    """Whether the request's body has not come to its end, and the other end is still there."""
    cycle = vars(protocol).get("cycle")  # none before the first request
    return cycle is not None and bool(cycle.more_body) and not cycle.disconnected


def request(
    path: str,
    body: bytes = b"",
    *,
    method: str = "GET",
    host: str = "127.0.0.1",
    token: str = TOKEN,
) -> bytes:
    """A rightly formed request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    if method == "POST":
        lines += ["Content-Type: application/json", f"Authorization: Bearer {token}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def seeds() -> list[bytes]:
    """Every address, every action, and what has no business here."""
    shown = ["/", "/view.json", "/metrics", "/healthz", "/events", "/static/page.js", "/nothing"]
    found = [request(path) for path in shown]
    found += [request("/", host=host) for host in (HOST, "evil.example", "[::1]:8181", "", "[::1")]
    found += [request("/static/%00"), request("/static/..%2f..%2fweb/app.py"), b"", b"\x16\x03\x01"]
    found += [request("/", method=method) for method in ("HEAD", "OPTIONS", "BREW")]
    for path, body in (
        ("training", b'{"training": "open"}'),
        ("agent", b'{"agent": "press-1", "order": "pause"}'),
        ("agent", b'{"agent": "press-9", "order": "resume"}'),
        ("rollback", b'{"version": 25}'),
        ("rollback", b'{"version": "\xff"}'),
    ):
        found.append(request(f"/act/{path}", body, method="POST"))
    wrong = request("/act/training", b'{"training": "open"}', method="POST", token="x" * 32)
    chunked = b"POST /act/rollback HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    chunked += (
        f"Authorization: bearer {TOKEN}\r\n\r\n".encode() + b'd\r\n{"version":1}\r\n0\r\n\r\n'
    )
    return [*found, wrong, chunked, chunked[:-9], request("/healthz") + request("/")]


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Change the request's line, a header or the body; its length is mostly put right."""
    head, separator, body = data.partition(b"\r\n\r\n")
    kind = dice.randrange(10)
    if not separator or kind == 0:
        return scrambled(data, dice)
    if kind <= 4:
        body = _json(body, dice)
    else:
        head = _line_changed(head, dice)
    if dice.random() < 0.9:
        head = re.sub(rb"(?i)content-length: *\d+", b"Content-Length: %d" % len(body), head)
    return head + separator + body


def _json(data: bytes, dice: random.Random) -> bytes:
    try:
        return json.dumps(changed_tree(json.loads(data), dice, json_leaf)).encode()
    except (ValueError, TypeError, RecursionError):
        return scrambled(data, dice)


def _line_changed(head: bytes, dice: random.Random) -> bytes:
    lines = head.split(b"\r\n")
    at = dice.randrange(len(lines))
    name, separator, value = lines[at].partition(b": ")
    words = (dice.choice(STRINGS), str(dice.choice(EDGES)), "[::1", "1.2.3.4:x", "%00%ff/../")
    word = dice.choice(words).encode().replace(b"\0", b"").replace(b"\n", b"")
    kind = dice.randrange(5)
    if kind == 0:
        lines[at] = scrambled(lines[at], dice)
    elif kind == 1 and separator:
        lines[at] = name + separator + word
    elif kind == 2:
        lines.insert(at + 1, lines[at])
    elif kind == 3:
        del lines[at]
    elif separator:
        lines[at] = name + separator + value + word
    else:
        lines[at] = lines[at].replace(b" HTTP", word + b" HTTP")
    return b"\r\n".join(lines)

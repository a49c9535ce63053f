"""The page's real server on a free port, in a thread, and a client that knows no library."""

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from coordinator.reader import Reader
from coordinator.store import Store
from coordinator.web.actions import Actions
from coordinator.web.serve import make_server
from coordinator.web.settings import WebSettings
from tests.coordinator.seeded_view import NOW, about

TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass(frozen=True)
class Live:
    """A page that is served."""

    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def get(self, path: str, *, host: str = "", method: str = "GET") -> Answer:
        headers = {"Host": host} if host else {}
        return self._ask(method, path, b"", headers)

    def post(self, path: str, body: object, token: str | None = TOKEN) -> Answer:
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self._ask("POST", path, data, headers)

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read().decode())

    @contextlib.contextmanager
    def events(self) -> Iterator[Callable[[], tuple[str, Any]]]:
        """A function that waits for the next server-sent event: its name and data."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/events")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")

        def following() -> tuple[str, Any]:
            name = ""
            while True:
                line = answer.readline().decode().rstrip("\r\n")
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                if line.startswith("data: "):
                    return name, msgspec.json.decode(line.removeprefix("data: "))

        with contextlib.closing(connection):
            yield following


def actions_on(database: Path) -> Actions:
    """What the command line does, on the real store."""

    def on_store(act: Callable[[Store], object]) -> None:
        store = Store(database)
        try:
            act(store)
        finally:
            store.close()

    def set_training(training: str) -> None:
        wanted: Literal["open", "closed"] = "open" if training == "open" else "closed"
        on_store(lambda store: store.set_training(wanted))

    return Actions(
        set_training=set_training,
        order=lambda agent, name: on_store(lambda store: store.order(agent, name)),
        roll_back=lambda version: on_store(lambda store: store.request_rollback(version)),
    )


@contextlib.contextmanager
def live_page(
    database: Path,
    *,
    token: str = "",
    k_min: int = 1,
    federation: str = "plant-net",
    port: int = 0,
) -> Iterator[Live]:
    reader = Reader(database, about(k_min, federation), clock=lambda: NOW)
    web = WebSettings(listen=f"127.0.0.1:{port}", hosts=("press.plant.example",))
    server = make_server(reader, actions_on(database), web, token, every_s=0.05)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield Live(int(server.servers[0].sockets[0].getsockname()[1]))
    finally:
        server.should_exit = True
        thread.join()
        reader.close()

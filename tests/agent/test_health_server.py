"""Health over real HTTP: it answers when the event loop does not, and refuses what it should."""

import asyncio
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.egress import Egress
from agent.health import Board, MetricsTable, Progress, serve_health, server
from agent.health.readiness import GRACE_S, Readiness
from agent.health.server import health_server
from agent.sensors.source import SourceReport
from agent.small_server import SmallServer
from agent.status import Status, as_json
from wire.settings import parse_settings

enduring = ExitStack()
"""What is watched in these tests is watched to their end."""
TABLE = MetricsTable(listen="127.0.0.1:0", hosts=("gateway-7.plant",))
Answer = tuple[int, str, str]


def status(state: str = "subscribed", storage: str = "ok") -> Status:
    sources = [SourceReport("opcua plc-1", "reading"), SourceReport("modbus plc-2", state)]
    return Status(agent="gw", site="L", federation="f", pid=1, sources=sources, storage=storage)


def board(now: Status | None = None, *, longest_s: float = 3600.0) -> tuple[Board, Progress]:
    progress = Progress()
    enduring.enter_context(progress.watching("delivery", longest_s))
    progress.look(time.monotonic())
    made, shown = Board(progress, "journeyman-agent 0.1.0", 200), now or status()
    made.post(shown, as_json(shown), time.monotonic())
    return made, progress


def served(made: Board, visit: Callable[[str], None], table: MetricsTable = TABLE) -> None:
    """Run a visitor in a thread beside the event loop."""

    async def run() -> None:
        async with health_server(made, table, Egress()) as address:
            await asyncio.to_thread(visit, address)

    asyncio.run(run())


async def eventually(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110  what is waited for has no event
        await asyncio.sleep(0.005)


def get(address: str, method: str = "GET", **headers: str) -> Answer:
    request = urllib.request.Request(address, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers["Content-Type"]


def test_an_agent_that_works_is_alive_and_ready_and_has_figures() -> None:
    def visit(address: str) -> None:
        assert get(f"{address}/healthz")[:2] == (200, "ok\n")
        assert get(f"{address}/readyz?verbose")[:2] == (200, "ok\n")
        code, text, kind = get(f"{address}/metrics")
        assert code == 200
        assert kind == "text/plain; version=0.0.4; charset=utf-8"
        assert "\njourneyman_agent_alive 1\n" in text
        assert get(f"{address}/healthz", "HEAD")[:2] == (200, "")

    served(board()[0], visit)


def test_a_lost_machine_or_a_bad_disk_makes_it_not_ready_but_alive() -> None:
    def visit(address: str) -> None:
        code, text, _ = get(f"{address}/readyz")
        assert code == 503
        assert text == "modbus plc-2: lost: no route\\nto host; storage: the disk is full\n"
        assert get(f"{address}/healthz")[:2] == (200, "ok\n")

    served(board(status("lost: no route\nto host", "the disk is full"))[0], visit)


def test_a_stuck_task_makes_it_neither_alive_nor_ready() -> None:
    made, progress = board(longest_s=1.0)
    progress.look(time.monotonic() + 2)

    def visit(address: str) -> None:
        for path in ("healthz", "readyz"):
            code, text, _ = get(f"{address}/{path}")
            assert code == 503
            assert text.startswith("stuck: delivery (silent for 2 s)")
        assert "\njourneyman_agent_alive 0\n" in get(f"{address}/metrics")[1]

    served(made, visit)


def test_it_answers_while_the_event_loop_is_blocked_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.health.board._BLOCKED_S", 0.0)

    async def run() -> Answer:
        async with health_server(board()[0], TABLE, Egress()) as address:
            return get(f"{address}/healthz")  # blocks the loop, and is answered all the same

    code, text, _ = asyncio.run(run())
    assert code == 503
    assert text.startswith("the event loop has not run for")


def test_before_the_first_look_it_has_not_started() -> None:
    def visit(address: str) -> None:
        assert get(f"{address}/healthz")[:2] == (503, "has not started yet\n")

    served(Board(Progress(), "x", 0), visit)


def test_only_addresses_and_names_that_were_given_are_answered() -> None:
    def visit(address: str) -> None:
        port = urlsplit(address).port
        for host in (f"localhost:{port}", "LOCALHOST.", "127.0.0.1", "[::1]:80", "gateway-7.plant"):
            assert get(f"{address}/healthz", Host=host)[0] == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example", "[evil]", "x localhost", ""):
            assert get(f"{address}/metrics", Host=host)[0] == 421, host

    served(board()[0], visit)


def test_there_is_nothing_else_and_nothing_can_be_sent() -> None:
    def visit(address: str) -> None:
        assert get(f"{address}/")[0] == 404
        assert get(f"{address}/metrics/../etc/passwd")[0] == 404
        for method in ("POST", "PUT", "DELETE"):
            assert get(f"{address}/metrics", method)[0] == 501

    served(board()[0], visit)


def test_one_that_sends_byte_after_byte_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallServer, "answer_s", 0.2)

    def visit(address: str) -> None:
        place = ("127.0.0.1", urlsplit(address).port or 0)
        with closing(socket.create_connection(place, timeout=0.05)) as slow:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            for _ in range(400):
                try:
                    slow.sendall(b"x")
                    if slow.recv(100) == b"":
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            else:
                pytest.fail("it is still served")
        assert get(f"{address}/healthz")[0] == 200

    served(board()[0], visit)


def test_more_than_a_few_connections_at_a_time_are_refused_and_then_there_is_room_again() -> None:
    def visit(address: str) -> None:
        place = ("127.0.0.1", urlsplit(address).port or 0)
        idle = [socket.create_connection(place, timeout=10) for _ in range(8)]
        with closing(socket.create_connection(place, timeout=10)) as ninth:
            assert ninth.recv(1) == b""
        for each in idle:
            each.close()
        while True:
            try:
                assert get(f"{address}/healthz")[0] == 200
            except OSError:
                continue
            break

    served(board()[0], visit)


def test_an_address_of_version_six_is_served() -> None:
    def visit(address: str) -> None:
        assert address.startswith("http://[::1]:")
        assert get(f"{address}/healthz")[0] == 200

    try:
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    served(board()[0], visit, MetricsTable(listen="[::1]:0"))


def test_an_address_that_is_taken_is_told_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_AGAIN_S", 0.01)
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        table = MetricsTable(listen=f"127.0.0.1:{other.getsockname()[1]}")

        async def run() -> None:
            serving = asyncio.create_task(serve_health(board()[0], table, Egress()))
            await eventually(lambda: caplog.records)
            await asyncio.sleep(0.1)
            other.close()
            await eventually(lambda: "health and figures are at http" in caplog.text)
            assert (await asyncio.to_thread(get, f"http://{table.listen}/healthz"))[0] == 200
            serving.cancel()
            await asyncio.wait((serving,))

        with caplog.at_level(logging.INFO, "agent.health.server"):
            asyncio.run(run())
    assert sum("no health and figures at" in each for each in caplog.messages) == 1


def test_nothing_is_served_unless_somebody_wants_it() -> None:
    asyncio.run(serve_health(board()[0], MetricsTable(), Egress()))  # returns at once
    assert "health" not in {thread.name for thread in threading.enumerate()}


def test_a_source_that_was_well_has_a_grace_and_one_that_never_was_has_none() -> None:
    readiness = Readiness()
    well, lost = SourceReport("plc", "reading"), SourceReport("plc", "lost: reset")
    assert readiness.look([lost], "ok", 0.0) == "plc: lost: reset"
    assert readiness.look([well], "ok", 100.0) == ""
    assert readiness.look([lost], "ok", 100.0 + GRACE_S) == ""
    assert readiness.look([lost], "ok", 101.0 + GRACE_S) == "plc: lost: reset"
    assert readiness.look([well], "full", 200.0) == "storage: full"


def test_the_table_of_the_readme_is_read_with_every_key() -> None:
    readme = Path(server.__file__).with_name("README.md").read_text(encoding="utf-8")
    example = readme.partition("```toml\n[metrics]\n")[2].partition("```")[0]
    table = parse_settings(example, MetricsTable, "README.md")
    assert table.listen == "127.0.0.1:9485"
    assert all(f"\n{key} = " in f"\n{example}" for key in MetricsTable.__struct_fields__)

"""Outages, throttling and cutting, with real sockets but without waiting for a wall clock."""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from shopfloor.links import FlakyLink, Link, Outage, outages, serve_link
from shopfloor.ports import free_port

ROOT = Path(__file__).parents[2]


def outages_until(end_s: float, seed: int, name: str = "L", share: float = 0.3) -> list[Outage]:
    return list(
        itertools.takewhile(
            lambda outage: outage.down_at_s < end_s, outages(seed, name, share, 3.0)
        )
    )


def down_share(schedule: list[Outage], start_s: float, end_s: float) -> float:
    down_s = sum(
        max(0.0, min(outage.up_at_s, end_s) - max(outage.down_at_s, start_s)) for outage in schedule
    )
    return down_s / (end_s - start_s)


def test_outages_are_the_same_for_a_seed_and_a_name_and_differ_for_others() -> None:
    assert outages_until(300, 1) == outages_until(300, 1)
    assert outages_until(300, 1) != outages_until(300, 2)
    assert outages_until(300, 1, "L") != outages_until(300, 1, "M")


@pytest.mark.parametrize("seed", range(20))
def test_the_down_share_is_near_its_target_in_the_long_run_and_in_every_minute(seed: int) -> None:
    schedule = outages_until(3_700, seed)
    assert down_share(schedule, 0, 3_600) == pytest.approx(0.3, abs=0.015)
    for start_s in range(0, 3_600, 7):
        assert 0.15 < down_share(schedule, start_s, start_s + 60) < 0.45


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_a_link_starts_up_and_is_up_between_outages(share: float) -> None:
    schedule = outages_until(2_000, 4, share=share)
    assert schedule[0].down_at_s > 0
    for outage, following in itertools.pairwise(schedule):
        assert outage.down_at_s < outage.up_at_s < following.down_at_s
    assert down_share(schedule, 0, schedule[-1].down_at_s) == pytest.approx(share, rel=0.1)


def test_about_half_of_the_outages_are_black_holes() -> None:
    modes = [outage.mode for outage in outages_until(10_000, 5)]
    assert 0.4 < modes.count("blackhole") / len(modes) < 0.6
    assert set(modes) == {"reset", "blackhole"}


def test_no_share_means_no_outage_and_impossible_shares_are_refused() -> None:
    assert list(outages(1, "L", 0.0, 3.0)) == []
    for share, mean_s in ((1.0, 3.0), (-0.1, 3.0), (0.3, 0.0)):
        with pytest.raises(ValueError, match="no outages of"):
            next(outages(1, "L", share, mean_s))


@pytest.mark.parametrize(
    "text", ["L:1", "L:1:2:3", ":1:2", "L:0:5", "L:70000:5", "L 1:4:5", "L:a:5", ""]
)
def test_a_wrong_link_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not NAME:LISTEN_PORT:TARGET_PORT"):
        Link.parse(text)


def test_a_link_is_parsed() -> None:
    assert Link.parse("site-1:4001:1883") == Link("site-1", 4001, 1883)


class Target:
    """A server that echoes, and remembers what it got."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.arrived = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.got += data
                self.arrived.set()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


def through_a_link(
    rate_bytes_s: float, check: Callable[[FlakyLink, Target, int], Awaitable[None]]
) -> None:
    async def run() -> None:
        target = Target()
        server = await asyncio.start_server(target.serve, "127.0.0.1", 0)
        async with server:
            port = free_port()
            link = Link("L", port, server.sockets[0].getsockname()[1])
            async with FlakyLink(link, rate_bytes_s) as proxy, asyncio.timeout(30):
                await check(proxy, target, port)

    asyncio.run(run())


def test_bytes_cross_unchanged_both_ways_and_are_counted() -> None:
    payload = bytes(range(256)) * 2_000

    async def check(proxy: FlakyLink, target: Target, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(payload)
        assert await reader.readexactly(len(payload)) == payload
        assert target.got == payload
        assert (proxy.up_bytes, proxy.down_bytes) == (len(payload), len(payload))
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()

    through_a_link(0.0, check)


def test_a_reset_aborts_open_connections_and_turns_new_ones_away_until_it_ends() -> None:
    async def check(proxy: FlakyLink, _target: Target, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"before")
        await reader.readexactly(6)
        proxy.cut("reset")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        proxy.restore()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"after")
        assert await reader.readexactly(5) == b"after"
        writer.close()

    through_a_link(0.0, check)


def test_a_black_hole_swallows_bytes_silently_and_aborts_when_it_ends() -> None:
    async def check(proxy: FlakyLink, target: Target, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"before")
        await reader.readexactly(6)
        proxy.cut("blackhole")
        writer.write(b"swallowed")
        await writer.drain()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        proxy.restore()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"after")
        assert await reader.readexactly(5) == b"after"
        assert target.got == b"beforeafter"
        assert proxy.up_bytes == len(b"beforeafter")
        writer.close()

    through_a_link(0.0, check)


def test_a_link_to_nowhere_drops_the_connection() -> None:
    async def run() -> None:
        port = free_port()
        async with FlakyLink(Link("L", port, free_port())), asyncio.timeout(10):
            reader, _ = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(ConnectionResetError):
                await reader.read(1)

    asyncio.run(run())


def test_a_throttled_link_takes_at_least_its_time() -> None:
    rate, payload = 200_000, b"x" * 250_000

    async def check(_proxy: FlakyLink, _target: Target, port: int) -> None:
        clock = asyncio.get_running_loop().time
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        start_s = clock()
        writer.write(payload)
        await reader.readexactly(len(payload))
        # A lower bound only: a busy computer may be slower, and no computer may be faster.
        assert clock() - start_s >= (len(payload) - rate / 4) / rate * 0.95
        writer.close()

    through_a_link(rate, check)


def test_a_link_can_become_slow_and_late_and_fast_again() -> None:
    async def check(proxy: FlakyLink, _target: Target, port: int) -> None:
        clock = asyncio.get_running_loop().time
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        proxy.throttle(20_000, 0.1)
        start_s = clock()
        writer.write(b"x" * 15_000)
        await reader.readexactly(15_000)
        assert clock() - start_s >= 0.1 + 0.1 + (15_000 - 20_000 / 4) / 20_000 * 0.95
        proxy.throttle(0.0, 0.0)
        writer.write(b"x" * 500_000)  # at the rate of before this would take 25 s
        async with asyncio.timeout(15):
            await reader.readexactly(500_000)
        writer.close()

    through_a_link(0.0, check)


class Shouting:
    """A carrier that changes what goes up, adds what is due, and ends the connection at a word."""

    def up(self, data: bytes, _now_s: float) -> bytes:
        if b"end" in data:
            raise ConnectionError
        return data.upper() if data else b"."

    def down(self, data: bytes, _now_s: float) -> bytes:
        return data


def test_a_carrier_says_what_is_sent_also_when_only_time_passes_and_ends_the_connection() -> None:
    async def run() -> None:
        target = Target()
        server = await asyncio.start_server(target.serve, "127.0.0.1", 0)
        async with server, asyncio.timeout(30):
            link = Link("L", free_port(), server.sockets[0].getsockname()[1])
            async with FlakyLink(link, carrier=Shouting):
                reader, writer = await asyncio.open_connection("127.0.0.1", link.listen_port)
                writer.write(b"loud")
                assert (await reader.readuntil(b"LOUD")).strip(b".") == b"LOUD"
                await reader.readuntil(b"...")  # nothing was sent for three turns
                writer.write(b"end")
                with pytest.raises(ConnectionResetError):
                    await reader.readuntil(b"end")

    asyncio.run(run())


def test_a_served_link_records_its_outages_and_its_bytes() -> None:
    events: list[Mapping[str, object]] = []

    async def run() -> None:
        target = Target()
        server = await asyncio.start_server(target.serve, "127.0.0.1", 0)
        async with server, asyncio.timeout(30):
            link = Link("L", free_port(), server.sockets[0].getsockname()[1])
            restored = asyncio.Event()

            def record(event: Mapping[str, object]) -> None:
                events.append(event)
                if event["event"] == "up":
                    restored.set()

            schedule = [Outage(0.01, 0.02, "reset")]
            serving = asyncio.create_task(serve_link(link, schedule, 0.0, record))
            await restored.wait()
            reader, writer = await asyncio.open_connection("127.0.0.1", link.listen_port)
            writer.write(b"four")
            await reader.readexactly(4)
            writer.close()
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving

    asyncio.run(run())
    assert events[0] == {"link": "L", "event": "bytes", "up": 0, "down": 0}
    assert {"link": "L", "event": "down", "mode": "reset"} in events
    assert {"link": "L", "event": "up", "mode": "reset"} in events
    assert events[-1] == {"link": "L", "event": "bytes", "up": 4, "down": 4}


def start_program(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "shopfloor.links", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_says_ready_logs_and_ends_cleanly_when_told(
    number: signal.Signals, tmp_path: Path
) -> None:
    log = tmp_path / "links.jsonl"
    ports = (free_port(), free_port())
    links = [f"--link={name}:{port}:1" for name, port in zip("LM", ports, strict=True)]
    with start_program(*links, "--log", str(log), "--parent-pid", str(os.getpid())) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == f"ready L:{ports[0]} M:{ports[1]}\n"
        program.send_signal(number)
        assert program.wait(20) == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert {event["link"] for event in events} == {"L", "M"}
    assert all(event["t_s"] >= 0 and event["wall"] > 1.7e9 for event in events)
    assert events[-1]["event"] == "bytes"


def test_the_program_ends_when_its_parent_is_another_process(tmp_path: Path) -> None:
    link = f"--link=L:{free_port()}:1"
    log = tmp_path / "links.jsonl"
    with start_program(link, "--log", str(log), "--parent-pid", "1") as program:
        assert program.wait(20) == 0


def test_a_taken_port_is_refused_by_its_number(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        log = str(tmp_path / "links.jsonl")
        with start_program(f"--link=L:{port}:1", "--log", log) as program:
            _, message = program.communicate(timeout=20)
    assert program.returncode == 2
    assert str(port) in message
    assert "Traceback" not in message

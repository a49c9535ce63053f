"""Plant links that fail: a TCP proxy that cuts and throttles one agent's way to the broker.

Responsible for forwarding, for outages by a seed, for counting bytes and for a log of what
happened, which the demo's report shades and judges by.  Refuses to alter bytes itself: it forwards
them, delays them or loses the connection, as real links do.  Who wants more (`shopfloor/chaos`
repeats and reorders MQTT messages) hands it a `Carrier` for each connection.

Invariants: while a link is down no byte crosses it; every outage ends with all connections of
before it aborted, so that nothing written during it arrives later by the same connection.

Outages come in two kinds.  A *reset* aborts connections at once, so both ends know.  A
*blackhole* swallows bytes and says nothing until it ends: senders believe that they sent, which
is what acknowledgements by the application are for.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, Self

from shopfloor.lifetime import add_parent_option, run_until_told_to_stop
from wire.pacing import TokenBucket

Mode = Literal["reset", "blackhole"]
Record = Callable[[Mapping[str, object]], None]

READ_BYTES: Final = 16_384
BYTES_EVENT_INTERVAL_S: Final = 1.0
CARRIER_TURN_S: Final = 0.1
"""A carrier is asked at least this often what is due to go out."""
_PIECE_BYTES: Final = 1_400
"""What a throttled link sends at once: about one Ethernet frame, so that a cut falls anywhere."""
_END_S: Final = 5.0
_MAX_SPREAD: Final = 1 / 3
_EARLIEST: Final = 1 / 4
_LINGER_NONE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: closing sends RST, also when all bytes were read."""


class Outage(NamedTuple):
    """One outage of one link, in seconds since the link started."""

    down_at_s: float
    up_at_s: float
    mode: Mode


@dataclass(frozen=True)
class Link:
    """One link: where the agent connects on 127.0.0.1, and where its bytes go."""

    name: str
    listen_port: int
    target_port: int

    @classmethod
    def parse(cls, text: str) -> "Link":
        """Parse `NAME:LISTEN_PORT:TARGET_PORT`; raises ValueError if it is anything else."""
        match = re.fullmatch(r"([A-Za-z0-9_.-]{1,64}):(\d{1,5}):(\d{1,5})", text)
        if match is None or not all(0 < int(port) < 65_536 for port in match.groups()[1:]):
            raise ValueError(f"{text!r} is not NAME:LISTEN_PORT:TARGET_PORT")
        return cls(match[1], int(match[2]), int(match[3]))


def outages(seed: int, name: str, down_share: float, mean_down_s: float) -> Iterator[Outage]:
    """Yield the outages of the link `name`, without end, in time order.

    Time is cut into cycles of mean_down_s / down_share seconds with one outage in each, of
    uniform length within a third of the mean, placed at random in the last three quarters of
    the room that it leaves.  So the link starts up, is never down twice in a row, and the share
    stays near its target over short times too: at 0.3 and 3 s, 0.15 to 0.45 in any 60 s (0.19
    to 0.43 measured over 100 seeds).  With exponential lengths demos would differ by luck.

    Args:
      seed: any integer.
      name: of the link; links of one seed fail independently.
      down_share: 0 (no outages) to less than 1.
      mean_down_s: more than 0.

    Raises:
      ValueError: on the first `next`, if an argument is out of range.
    """
    if not 0.0 <= down_share < 1.0 or not mean_down_s > 0.0:
        raise ValueError(f"no outages of {mean_down_s} s and a share of {down_share} are possible")
    if down_share == 0.0:
        return
    # A text seed is hashed (SHA-512), so links with similar names are independent.
    rng = random.Random(f"{seed}:{name}")
    cycle_s = mean_down_s / down_share
    spread = min(_MAX_SPREAD, (1.0 - down_share) / down_share)
    cycle = 0
    while True:
        length_s = mean_down_s * rng.uniform(1.0 - spread, 1.0 + spread)
        room_s = cycle_s - length_s
        down_at_s = cycle * cycle_s + room_s * rng.uniform(_EARLIEST, 1.0)
        yield Outage(down_at_s, down_at_s + length_s, rng.choice(("reset", "blackhole")))
        cycle += 1


class Carrier(Protocol):
    """What becomes of the bytes of one connection; both methods raise OSError to end it."""

    def up(self, data: bytes, now_s: float) -> bytes:
        """What to send to the target, now that `data` came (nothing, when only time passed)."""

    def down(self, data: bytes, now_s: float) -> bytes:
        """What to send to whoever connected, now that `data` came."""


@dataclass
class _Direction:
    """Bytes one way through a link: their number and their limit."""

    bucket: TokenBucket
    forwarded_bytes: int = 0


class FlakyLink:
    """A proxy for one link.  Use as an async context manager; it listens inside.

    Args:
      link: the ports.
      rate_bytes_s: limit for each direction, over all connections; 0 means none.
      carrier: makes the carrier of a new connection; None forwards bytes as they are.
    """

    def __init__(
        self,
        link: Link,
        rate_bytes_s: float = 0.0,
        carrier: Callable[[], Carrier] | None = None,
    ) -> None:
        self.link = link
        self._carrier = carrier
        self._delay_s = 0.0
        self._up = _Direction(TokenBucket(0.0, 0.0))
        self._down = _Direction(TokenBucket(0.0, 0.0))
        self.throttle(rate_bytes_s, 0.0)
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._outage: Mode | None = None
        self._server: asyncio.Server | None = None

    @property
    def up_bytes(self) -> int:
        """Bytes forwarded from the agent so far."""
        return self._up.forwarded_bytes

    @property
    def down_bytes(self) -> int:
        """Bytes forwarded to the agent so far."""
        return self._down.forwarded_bytes

    def throttle(self, rate_bytes_s: float, delay_s: float) -> None:
        """From now on forward at most this rate each way, each piece late by `delay_s`."""
        # A quarter of a second of burst keeps small messages prompt, as a link's queue would.
        burst = rate_bytes_s / 4
        self._up.bucket = TokenBucket(rate_bytes_s, burst)
        self._down.bucket = TokenBucket(rate_bytes_s, burst)
        self._delay_s = delay_s

    @property
    def is_down(self) -> bool:
        """Whether the link is cut now."""
        return self._outage is not None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self.link.listen_port, limit=READ_BYTES
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            self._abort_all()
            await self._server.wait_closed()  # Python 3.11 returns at once and leaves the handlers
            if self._handlers:
                await asyncio.wait(self._handlers, timeout=_END_S)

    def cut(self, mode: Mode) -> None:
        """Take the link down."""
        self._outage = mode
        if mode == "reset":
            self._abort_all()

    def restore(self) -> None:
        """Bring the link up; connections of before are aborted."""
        self._abort_all()
        self._outage = None

    def _abort_all(self) -> None:
        for writer in self._writers:
            _abort(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection from the agent until either end closes or the link is cut."""
        task = asyncio.current_task()
        if task is not None:
            self._handlers.add(task)
            task.add_done_callback(self._handlers.discard)
        if self._outage is not None:
            _abort(writer)
            return
        self._writers.add(writer)
        try:
            target_reader, target_writer = await asyncio.open_connection(
                "127.0.0.1", self.link.target_port, limit=READ_BYTES
            )
        except OSError:  # the broker is away: so is this connection
            _abort(writer)
            self._writers.discard(writer)
            return
        self._writers.add(target_writer)
        if writer.is_closing():  # cut while connecting
            _abort(target_writer)
        carrier = self._carrier() if self._carrier else None
        up, down = (carrier.up, carrier.down) if carrier else (None, None)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, target_writer, self._up, up))
                pumps.create_task(self._pump(target_reader, writer, self._down, down))
        except* OSError:  # one end is gone, so is the other
            _abort(writer)
            _abort(target_writer)
        finally:
            for each in (writer, target_writer):
                each.close()
                self._writers.discard(each)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: _Direction,
        carry: Callable[[bytes, float], bytes] | None,
    ) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            data = await _read(reader, CARRIER_TURN_S if carry else None)
            if data == b"":
                break
            out = carry(data or b"", clock()) if carry else data
            if out:
                await self._forward(out, writer, way)
        if not writer.is_closing():
            writer.write_eof()

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter, way: _Direction) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._delay_s)
        at = 0
        while at < len(data):
            size = _PIECE_BYTES if way.bucket.is_limited else len(data)
            piece = data[at : at + size]
            at += size
            await asyncio.sleep(way.bucket.reserve(len(piece), clock()))
            if self._outage is not None or writer.is_closing():
                continue  # swallowed
            writer.write(piece)
            way.forwarded_bytes += len(piece)
            await writer.drain()


async def _read(reader: asyncio.StreamReader, patience_s: float | None) -> bytes | None:
    """Bytes that came, none at the end of the stream, or None when nothing came in time."""
    try:
        async with asyncio.timeout(patience_s):
            return await reader.read(READ_BYTES)
    except TimeoutError:
        return None


def _abort(writer: asyncio.StreamWriter) -> None:
    """Drop a connection at once, with RST, losing what was not yet sent."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # already closed by the other end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    writer.transport.abort()


async def serve_link(
    link: Link,
    schedule: Iterable[Outage],
    rate_bytes_s: float,
    record: Record,
    listening: asyncio.Event | None = None,
) -> None:
    """Proxy `link` through the outages of `schedule` until cancelled.

    Args:
      link: the ports.
      schedule: outages in time order, counted from when the link listens.
      rate_bytes_s: limit for each direction; 0 means none.
      record: called with each event: `link`, `event` ("down", "up" or "bytes"), `t_s` and,
        by kind, `mode`, or cumulative `up` and `down` bytes.
      listening: set once connections are accepted.

    Raises:
      OSError: if the port is taken.
    """
    async with FlakyLink(link, rate_bytes_s) as proxy:
        if listening is not None:
            listening.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_follow(schedule, proxy, record), name="outages")
                tasks.create_task(_report_bytes(proxy, record), name="bytes")
        finally:
            _record_bytes(proxy, record)


async def _follow(schedule: Iterable[Outage], proxy: FlakyLink, record: Record) -> None:
    clock = asyncio.get_running_loop().time
    start_s = clock()
    for outage in schedule:
        await asyncio.sleep(start_s + outage.down_at_s - clock())
        proxy.cut(outage.mode)
        record({"link": proxy.link.name, "event": "down", "mode": outage.mode})
        await asyncio.sleep(start_s + outage.up_at_s - clock())
        proxy.restore()
        record({"link": proxy.link.name, "event": "up", "mode": outage.mode})


async def _report_bytes(proxy: FlakyLink, record: Record) -> None:
    while True:
        _record_bytes(proxy, record)
        await asyncio.sleep(BYTES_EVENT_INTERVAL_S)


def _record_bytes(proxy: FlakyLink, record: Record) -> None:
    event = {"link": proxy.link.name, "event": "bytes"}
    record(event | {"up": proxy.up_bytes, "down": proxy.down_bytes})


async def serve_links(options: argparse.Namespace) -> None:
    """Serve all links of the command line until cancelled, logging to `options.log`."""
    start_s = time.monotonic()
    listening = [asyncio.Event() for _ in options.link]
    with options.log.open("w", encoding="utf-8", buffering=1) as log:

        def record(event: Mapping[str, object]) -> None:
            stamp = {"t_s": round(time.monotonic() - start_s, 3), "wall": round(time.time(), 3)}
            log.write(json.dumps(stamp | dict(event)) + "\n")

        async with asyncio.TaskGroup() as tasks:
            for link, event in zip(options.link, listening, strict=True):
                schedule = outages(options.seed, link.name, options.down_share, options.mean_down_s)
                tasks.create_task(
                    serve_link(link, schedule, options.rate_bytes_s, record, event),
                    name=f"link {link.name}",
                )
            for event in listening:
                await event.wait()
            print(
                "ready", *(f"{link.name}:{link.listen_port}" for link in options.link), flush=True
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shopfloor.links", description=__doc__)
    parser.add_argument(
        "--link",
        type=Link.parse,
        action="append",
        required=True,
        metavar="NAME:LISTEN_PORT:TARGET_PORT",
        help="a link on 127.0.0.1; may be repeated",
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the outages")
    parser.add_argument("--down-share", type=float, default=0.3, help="share of time down")
    parser.add_argument("--mean-down-s", type=float, default=3.0, help="mean length of an outage")
    parser.add_argument(
        "--rate-bytes-s", type=float, default=0.0, help="limit for each direction; 0: none"
    )
    parser.add_argument("--log", type=Path, required=True, help="events, as JSON lines")
    add_parent_option(parser)
    return parser


def main() -> int:
    """Run the program; returns its exit status."""
    parser = _parser()
    options = parser.parse_args()
    if not 0.0 <= options.down_share < 1.0:
        parser.error(f"--down-share must be 0 to less than 1, not {options.down_share}")
    if not 0.0 < options.mean_down_s < float("inf"):
        parser.error(f"--mean-down-s must be more than 0, not {options.mean_down_s}")
    if not 0.0 <= options.rate_bytes_s < float("inf"):
        parser.error(f"--rate-bytes-s must be 0 or more, not {options.rate_bytes_s}")
    names = [link.name for link in options.link]
    if len(set(names)) != len(names):
        parser.error(f"two links have one name: {', '.join(names)}")
    status = 0
    try:
        asyncio.run(run_until_told_to_stop(serve_links(options), options.parent_pid))
    except* OSError as group:  # asyncio's message of a taken port names it
        for error in group.exceptions:
            print(f"{error}; choose another port or file", file=sys.stderr)
        status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())

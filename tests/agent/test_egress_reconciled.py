"""The account of a whole agent against what a proxy captured of it; and what is nowhere in that."""

import asyncio
import contextlib
import csv
import signal
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.config import Identity
from agent.egress import FILE_NAME, Account, read_account
from agent.main import main
from shopfloor.links import FlakyLink
from shopfloor.links import Link as Ports
from shopfloor.ports import free_port
from tests.agent.conftest import Broker
from tests.agent.egress_capture import Capture, kind_of
from tests.agent.federation import (
    AGENT,
    CHANNELS,
    POLICY,
    Federation,
    Publication,
    agent_toml,
    milled,
)
from tests.agent.test_agent_process import DEADLINE_S, Coordinator, Site
from wire.messages import Grant, UpdateHeader
from wire.mqtt import BrokerSettings, connect
from wire.trust import COORDINATOR

GRANTED = msgspec.structs.replace(POLICY, admission="granted")
RAW_CHANNEL = "spindle_7731_vibration"
CUSTOMER, NOTE = "complaint-of-Zirkonia", "the customer Obermeier called"
ROWS = 600
READINGS = 5
"""The first columns: what was measured.  Then the label and the number of products."""
KINDS = {
    "state": ["birth and will"],
    "header": ["update: header", "update: tombstone"],
    "chunk": ["update: content", "update: masked content"],
    "report": [
        f"report: {part}"
        for part in ("envelope", "evaluations", "statistics", "choice", "masked sums")
    ],
    "ask": ["readiness", "readiness: histogram"],
    "renew": ["renewal"],
}


def readings() -> NDArray[np.float64]:
    """Rows of `CHANNELS` and of a raw signal; no two values are alike."""
    rows = milled(ROWS, (np.arange(ROWS) % 5 == 0).astype(float))
    return np.column_stack([rows, np.random.default_rng(8).normal(2.0, 0.3, ROWS)])


def write_rows(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *CHANNELS, RAW_CHANNEL])
        for at, row in enumerate(readings()):
            writer.writerow([1_700_000_000 + at, *(repr(float(value)) for value in row)])


def config_of(federation: Federation, port: int) -> str:
    """An agent that plays a file, and whose operators label."""
    head = agent_toml(federation, broker_port=port).partition("[source.opcua]")[0]
    channels = "".join(
        f'\n[[source.replay.channel]]\nname = "{name}"\ncolumn = "{name}"\n'
        for name in (*CHANNELS, RAW_CHANNEL)
    )
    return (
        head.replace("keepalive_s = 2\n", "keepalive_s = 60\n")
        + '[[source.replay]]\nfile = "rows.csv"\ntime_column = "time"\nspeed = 0.0\n'
        + channels
        + f'\n[[labels.channel]]\nname = "verdict"\nstates = {{ "{CUSTOMER}" = 1, fine = 0 }}\n'
    )


class Plant:
    """An agent behind a proxy, a broker, and a coordinator on the other side."""

    def __init__(self, site: Site, proxy: FlakyLink, capture: Capture, side: Coordinator) -> None:
        self.site, self.proxy, self.capture, self.side = site, proxy, capture, side
        self.granted = 0

    async def update(self, sequence: int) -> UpdateHeader:
        """Grant what the agent asks for next, and wait for its update."""
        ask, before = self.side.federation.topics.ask(AGENT), len(self.side.seen)
        await self.side.first(lambda message: message.topic == ask or None, before)
        self.granted += 1
        await self.side.send(Grant(number=self.granted, base_version=sequence - 1))
        header = await self.side.header(sequence)
        await self.side.content(header)
        return header

    async def is_quiet(self) -> None:
        """Wait until nothing was sent for a while."""
        before = -1
        while self.capture.size != before:
            before = self.capture.size
            await asyncio.sleep(0.7)

    def sent(self, kind: str) -> int:
        """How many messages of a kind were captured."""
        return sum(kind_of(topic) == kind for topic, _ in self.capture.messages())

    async def stop(self) -> Account:
        """End the agent; return its account."""
        process = self.site.running[-1]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, DEADLINE_S) == 0, self.site.log()
        found = read_account(self.site.config.parent / "state" / FILE_NAME)
        assert found is not None
        return found


@pytest.fixture
def play(
    tmp_path: Path, federation: Federation, identity: Identity, broker: Broker
) -> Iterator[Callable[[], contextlib.AbstractAsyncContextManager[Plant]]]:
    """Sets everything up; the agent is not started yet."""
    port = free_port()
    write_rows(tmp_path / "rows.csv")
    config = tmp_path / "agent.toml"
    config.write_text(config_of(federation, port))
    site, capture = Site(config), Capture()

    @contextlib.asynccontextmanager
    async def plant() -> AsyncIterator[Plant]:
        link = Ports("gateway", port, broker.port)
        async with (
            FlakyLink(link, carrier=capture.begin) as proxy,
            connect(BrokerSettings(port=broker.port), COORDINATOR) as away,
        ):
            side = Coordinator(federation, identity, away)
            listening = asyncio.create_task(side.listen())
            await away.subscribe([f"{federation.topics.base}/#"])
            await side.is_online()
            try:
                yield Plant(site, proxy, capture, side)
            finally:
                listening.cancel()

    yield plant
    for process in site.running:
        process.kill()
        process.wait()


def by_kind(account: Account) -> Counter[str]:
    """Payload bytes of the account by kind of topic."""
    sizes: Counter[str] = Counter()
    for line in account.lines:
        kinds = [kind for kind, names in KINDS.items() if line.category in names]
        assert kinds or line.category in ("protocol", "cut short"), line
        sizes.update(dict.fromkeys(kinds, line.bytes))
    return sizes


def total(account: Account) -> int:
    return sum(line.bytes for line in account.lines)


async def undisturbed(plant: Plant, head: Publication) -> None:
    """One update from asking to folding, and a person labels meanwhile."""
    plant.site.start()
    await plant.side.publish(head)
    await plant.side.settle(await plant.update(1), "folded", version=1)
    await plant.side.report()
    words = ["label", "add", str(plant.site.config), "verdict", CUSTOMER]
    assert main([*words, "--last", "9d", "--note", NOTE]) == 0
    await plant.is_quiet()
    account = await plant.stop()
    found = plant.capture.payload_bytes()
    assert found.keys() == {"state", "header", "chunk", "report", "ask"}
    assert by_kind(account) == found
    assert total(account) == plant.capture.size
    assert plant.sent("header") == 1


async def cut_between_packets(plant: Plant, head: Publication) -> None:
    """An update that nobody answers is offered again, on every connection."""
    plant.site.start()
    await plant.side.publish(head)
    await plant.update(2)
    for _ in range(2):
        await plant.is_quiet()
        known = len(plant.side.seen)
        plant.proxy.cut("reset")
        await plant.side.state("offline", known)
        plant.proxy.restore()
        await plant.side.state("online", known)
    await plant.is_quiet()
    account = await plant.stop()
    assert by_kind(account) == plant.capture.payload_bytes()
    assert total(account) == plant.capture.size
    assert plant.sent("header") >= 1 + 3


async def cut_at_any_moment(plant: Plant) -> None:
    """Over a slow link, while birth, report and the update are on their way."""
    plant.proxy.throttle(20_000.0, 0.0)
    plant.site.start()
    for more in (1, 700, 1_400, 2_100):
        await plant.capture.reaches(plant.capture.size + more)
        plant.proxy.cut("reset")
        await asyncio.sleep(0.05)
        plant.proxy.restore()
    account = await plant.stop()
    counted, found = by_kind(account), plant.capture.payload_bytes()
    assert all(counted[kind] >= found[kind] for kind in found)
    assert total(account) >= plant.capture.size


def test_the_account_is_what_was_captured_and_no_value_is_in_it(
    play: Callable[[], contextlib.AbstractAsyncContextManager[Plant]], federation: Federation
) -> None:
    async def scenario() -> Plant:
        async with play() as plant:
            await undisturbed(plant, federation.publish(1, version=0, policy=GRANTED))
            await cut_between_packets(plant, federation.publish(2, version=1, policy=GRANTED))
            await cut_at_any_moment(plant)
            return plant

    plant = asyncio.run(scenario())
    sent = plant.capture.whole
    assert not found_in(sent)
    # The same search finds them in what stays here, and in a message that would hold them.
    state = plant.site.config.parent / "state"
    assert NOTE in found_in((state / "labels.db").read_bytes())
    assert any("<" in each for each in found_in((state / "history.db").read_bytes()))
    for encoded in encodings(readings()[:, :READINGS]):
        assert found_in(sent + encoded)


def found_in(data: bytes) -> list[str]:
    """What of the plant is in these bytes.

    Searched are each measured value as float64 and float32 in either byte order, and as decimal
    text to six digits; names of channels, what a label says and its note in UTF-8, UTF-16 and
    hexadecimal.  A few float32 are anywhere by chance (2**-32 for each value and place).
    """
    found: list[str] = []
    for name in (*CHANNELS, RAW_CHANNEL, CUSTOMER, NOTE):
        forms = (name.encode(), name.encode("utf-16-le"), name.encode().hex().encode())
        found += [name for form in forms if form in data]
    values = np.concatenate([readings()[:, :READINGS].ravel(), readings()[:, -1]])
    for kind, chance in (("<d", 0), (">d", 0), ("<f", 2), (">f", 2), ("text", 0)):
        hits = [value for value in values if _as(kind, float(value)) in data]
        found += [f"{value} as {kind}" for value in hits] if len(hits) > chance else []
    return found


def _as(kind: str, value: float) -> bytes:
    return f"{value:.7g}"[:-1].encode() if kind == "text" else struct.pack(kind, value)


def encodings(rows: NDArray[np.float64]) -> list[bytes]:
    """Rows as a program might send them."""
    return [
        rows[:3].tobytes(),
        rows[:3].astype(">f8").tobytes(),
        rows[:3].astype("<f4").tobytes(),
        rows[:3].astype(">f4").tobytes(),
        msgspec.json.encode(rows[:3].tolist()),
    ]

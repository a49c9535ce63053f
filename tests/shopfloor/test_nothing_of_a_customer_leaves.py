"""Customers, prices and stock lie beside what a site learns from, and nowhere in what leaves it."""

import asyncio
import json
import re
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
import pytest

from agent.egress import FILE_NAME, read_account
from agent.main import main
from agent.status import Status, read_status
from coordinator.app import set_training
from shopfloor.broker import broker_command
from shopfloor.jobs.plant import JobOptions, JobPlant, JobSite, lay_out
from shopfloor.jobs.supply_chain import CANARIES, SUPPLY_CHAIN, late_sites, simulated
from shopfloor.links import FlakyLink, Link
from shopfloor.plant import FEDERATION
from shopfloor.ports import answers_at
from shopfloor.processes import Child, Processes, python, until
from tests.agent.egress_capture import Capture, messages_of
from wire.codec import open_envelope, parse_body
from wire.messages import TERMINAL, Evaluation, Report
from wire.topics import Topics

ORDERS = 240
VERSIONS = 3
DEADLINE_S = 60.0
QUIET_S = 1.0
UPDATE = {"update: header", "update: content"}
REPORT = {"report: envelope", "report: evaluations"}
KINDS = {"state": {"birth and will"}, "up": UPDATE, "report": REPORT}
"""By the first level of a topic: the only lines that an agent of this job may have."""
ZLIB_HEADS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""RFC 1950, section 2.2, with a window of 32 KiB."""
MOST_INFLATED = 1 << 20


class Running:
    """Two sites, each behind a proxy that keeps what it sends."""

    def __init__(self, plant: JobPlant) -> None:
        self.plant, self.processes = plant, Processes(plant.directory)
        self.captures = {site.name: Capture() for site in plant.sites}
        self.agents: dict[str, Child] = {}

    async def start(self) -> None:
        """Start the broker, the coordinator and the agents."""
        port, start = self.plant.broker_port, self.processes.start
        start("broker", broker_command(self.plant.directory, port, "mosquitto"))
        await until(lambda: answers_at(port), "the broker answers", DEADLINE_S)
        start("coordinator", python("coordinator.main", "run", self.plant.coordinator_config))
        for site in self.plant.sites:
            self.agents[site.name] = start(site.agent, python("agent.main", "run", site.config))

    def statuses(self) -> list[Status]:
        found = [read_status(site.state) for site in self.plant.sites]
        return [status for status in found if status is not None]

    def has_learned(self) -> bool:
        """Whether every site trained from a late version."""
        found = self.statuses()
        return len(found) == 2 and all((each.base_version or 0) >= VERSIONS - 1 for each in found)

    def is_settled(self) -> bool:
        """Whether every update that was made has its outcome, and no other will be made."""
        return all(
            each.learning == "training is closed"
            and sum(each.outcomes.get(name, 0) for name in TERMINAL) == each.produced
            for each in self.statuses()
        )

    def has_judged(self) -> bool:
        """Whether every site reported how well a version does."""
        return all(any(reports(capture)) for capture in self.captures.values())

    async def is_quiet(self) -> None:
        """Wait until nothing was sent for a while."""
        before = -1
        while (now := sum(each.size for each in self.captures.values())) != before:
            before = now
            await asyncio.sleep(QUIET_S)

    async def stop(self, site: JobSite) -> None:
        """End an agent, and wait for its last bytes."""
        process = self.agents[site.name].process
        assert process is not None
        process.terminate()
        assert await asyncio.to_thread(process.wait, DEADLINE_S) == 0
        account = read_account(site.state / FILE_NAME)
        assert account is not None
        async with asyncio.timeout(DEADLINE_S):
            await self.captures[site.name].reaches(sum(line.bytes for line in account.lines))


@asynccontextmanager
async def running(plant: JobPlant) -> AsyncIterator[Running]:
    run = Running(plant)
    async with AsyncExitStack() as links:
        for site in plant.sites:
            link = Link(site.name, site.link_port, plant.broker_port)
            await links.enter_async_context(FlakyLink(link, carrier=run.captures[site.name].begin))
        try:
            await run.start()
            yield run
        finally:
            run.processes.stop()


@pytest.fixture(scope="module")
def run(mosquitto_program: str, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A federation of two sites that has learned for some versions and ended."""
    assert mosquitto_program
    rows = late_sites(simulated(seed=0, rows=ORDERS)[:2])
    options = JobOptions(versions=VERSIONS)
    plant = lay_out(tmp_path_factory.mktemp("orders"), SUPPLY_CHAIN, rows, options)

    async def scenario() -> Running:
        async with running(plant) as found:
            await until(found.has_learned, "both sites learn", DEADLINE_S)
            await until(found.has_judged, "both sites judge", DEADLINE_S)
            set_training(plant.coordinator_config, "closed")
            await until(found.is_settled, "every update has its outcome", DEADLINE_S)
            await found.is_quiet()
            for site in plant.sites:
                await found.stop(site)
            return found

    return asyncio.run(scenario())


def test_no_customer_price_or_stock_is_in_anything_that_left(run: Running) -> None:
    for site in run.plant.sites:
        sent = run.captures[site.name].whole
        assert found_in(site, sent) == []
        # The same search finds them in the site's own file, and in messages that would hold them.
        own = (run.plant.directory / "sites" / f"{site.name}-1.npz").read_bytes()
        assert set(found_in(site, own)) == set(CANARIES)
        for hidden in as_a_program_would_send(site):
            assert set(found_in(site, sent + hidden)) == set(CANARIES)


def test_an_agent_is_told_of_no_such_column_and_keeps_none(run: Running) -> None:
    for site in run.plant.sites:
        assert CANARIES.keys() <= site.rows.train.keys()
        config = site.config.read_text()
        assert not [name for name in CANARIES if name in config]
        for file in site.state.rglob("*"):
            assert not file.is_file() or found_in(site, file.read_bytes()) == [], file


def test_the_account_lists_exactly_what_left_and_no_kind_of_it_is_rows(
    run: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    for site in run.plant.sites:
        assert main(["egress", "--json", str(site.config)]) == 0
        lines = json.loads(capsys.readouterr().out)["lines"]
        capture = run.captures[site.name]
        assert sum(line["bytes"] for line in lines) == capture.size
        assert len({line["destination"] for line in lines}) == 1
        left = payloads(capture)
        assert left.keys() == KINDS.keys()
        for kind, names in KINDS.items():
            counted = sum(line["bytes"] for line in lines if line["category"] in names)
            assert counted == left[kind], kind
        told = {line["category"]: line for line in lines}
        assert told.keys() == {"protocol"}.union(*KINDS.values())
        assert all("row" in told[name]["never"] for name in told.keys() - {"protocol"})


def messages(capture: Capture) -> list[tuple[str, bytes]]:
    """First levels of topics, and payloads."""
    base = f"{Topics(FEDERATION).base}/"
    found = []
    for conversation in capture.conversations:
        for topic, payload in messages_of(conversation.sent):
            assert topic.startswith(base)
            found.append((topic.removeprefix(base).partition("/")[0], payload))
    return found


def payloads(capture: Capture) -> Counter[str]:
    """Payload bytes by the first level of the topic."""
    sizes = Counter[str]()
    for kind, payload in messages(capture):
        sizes[kind] += len(payload)
    return sizes


def reports(capture: Capture) -> list[tuple[Evaluation, ...]]:
    """The evaluations of each report."""
    return [
        parse_body(open_envelope(payload, "report"), Report).evaluations
        for kind, payload in messages(capture)
        if kind == "report"
    ]


def found_in(site: JobSite, data: bytes) -> list[str]:
    """Which private columns of a site are in these bytes, or in what can be inflated in them.

    Searched is each of a column's values as float64 and float32 in either byte order, and in
    decimal its seven digits and the point.  One float32 is anywhere by chance once in 2**32 for
    each value and place; a second value of one column is not.
    """
    whole = b"\n".join([data, *inflated(data)])
    found = []
    for name in CANARIES:
        values = np.unique(site.rows.train[name]).tolist()
        for kind, chance in (("<d", 0), (">d", 0), ("<f", 1), (">f", 1), ("text", 0)):
            forms = {_as(kind, value) for value in values}
            hits = re.findall(b"|".join(map(re.escape, forms)), whole)
            if len(hits) > chance:
                found.append(name)
                break
    return found


def _as(kind: str, value: float) -> bytes:
    return f"{int(value)}.".encode() if kind == "text" else struct.pack(kind, value)


def inflated(data: bytes) -> list[bytes]:
    """What can be inflated in these bytes, wherever it begins."""
    found = []
    for at in sorted(hit.start() for head in ZLIB_HEADS for hit in re.finditer(head, data)):
        try:
            content = zlib.decompressobj().decompress(data[at:], MOST_INFLATED)
        except zlib.error:
            continue
        found.append(content)
    return found


def as_a_program_would_send(site: JobSite) -> list[bytes]:
    """The first rows of the private columns, in all ways that the search knows."""
    rows = np.column_stack([site.rows.train[name][:3] for name in CANARIES])
    packed = [rows.astype(kind).tobytes() for kind in ("<f8", ">f8", "<f4", ">f4")]
    texts = [json.dumps(rows.tolist()).encode(), repr(rows.tolist()).encode()]
    return [*packed, *texts, *map(zlib.compress, [*packed, *texts])]

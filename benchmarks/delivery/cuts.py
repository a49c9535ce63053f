"""Twenty megabytes over a link of 5 MB/s that is cut for 0.2 s every 2 s, against the same uncut.

Down: a model of five million float32, from the agent's first byte until it is whole, verified and
durable in its model slots.  Up: an update of ten million 16-bit steps, until the coordinator has
committed it.  The real agent and coordinator programs, `FlakyLink` between agent and broker.

The graph in the bundle is a stub, because gateways cap graphs at 16 MiB, and lies on the agent's
disk beforehand: what is timed ends where a graph would first be read.
"""

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.config import read_agent_settings, read_identity
from agent.models import Models
from agent.outbox import Outbox
from agent.tombstones import seal_update
from benchmarks.delivery.publishers import Observer
from benchmarks.testbed import (
    BenchmarkError,
    Testbed,
    bare_bundle,
    real_disk,
    testbed,
)
from shopfloor.links import FlakyLink, Link
from shopfloor.ports import free_port
from shopfloor.processes import python
from wire.chunks import describe
from wire.codec import Counter
from wire.messages import Head, UpdateHeader

TARGET_RATIO = 1.5
RATE_BYTES_S = 5e6
EVERY_S, CUT_S = 2.0, 0.2
_WITHIN_S = 120.0
_LOOK_S = 0.02
_TABLES = """
[strategy]
goal = 1000
deadline_s = 3600
[policy]
bits = 16
clip_norm = 1e6
"""


@dataclass(frozen=True)
class Cuts:
    """Seconds for the transfer, each a median, and how many cuts there were in all runs."""

    bytes: int
    uncut_s: float
    cut_s: float
    cuts: int

    @property
    def ratio(self) -> float:
        """How much longer it took because of the cuts."""
        return self.cut_s / self.uncut_s


def measure_down(size: int, runs: int) -> Cuts:
    """A model of `size` bytes to agents that never had one."""
    with testbed(real_disk(), bare_bundle(size // 4)) as bed:
        head, port = _begin(bed)
        wanted = head.train.content.digest

        def prepare(state: Path, _agent: str) -> Callable[[], bool]:
            models = Models(state / "models.db")
            models.keep(head.bundle.digest, bed.bundle.read_bytes())
            models.close()
            return lambda: _has(
                state / "models.db", "SELECT 1 FROM whole WHERE digest = ?", (wanted,)
            )

        return _compare(bed, port, size, runs, prepare)


def measure_up(size: int, runs: int) -> Cuts:
    """An update of `size` bytes from agents that have the model."""
    with testbed(real_disk(), bare_bundle(size // 2)) as bed:
        head, port = _begin(bed)
        content = np.random.default_rng(0).integers(-9999, 9999, size // 2).astype("<i2").tobytes()
        whole = _model_bytes(bed, head)

        def prepare(state: Path, agent: str) -> Callable[[], bool]:
            models = Models(state / "models.db")
            models.keep(head.bundle.digest, bed.bundle.read_bytes())
            models.keep(head.train.content.digest, whole)
            models.close()
            _put_update(bed, state, agent, head, content)
            return lambda: _has(bed.store, "SELECT 1 FROM updates WHERE agent = ?", (agent,))

        return _compare(bed, port, size, runs, prepare)


def _begin(bed: Testbed) -> tuple[Head, int]:
    """Start broker and coordinator; return the head and the broker's port."""
    port = free_port()
    bed.start_broker(port)
    bed.write_coordinator(port, _TABLES)
    observer = Observer.connect(port)
    bed.start_coordinator()
    observer.wait_online()
    observer.client.close()
    return observer.heads[-1], port


def _compare(
    bed: Testbed,
    port: int,
    size: int,
    runs: int,
    prepare: Callable[[Path, str], Callable[[], bool]],
) -> Cuts:
    """Run in turns; `prepare` fills an agent's state and returns what says that it is done."""
    taken: dict[bool, list[float]] = {False: [], True: []}
    cuts = 0
    for run in range(runs):
        for is_cut in (False, True):
            agent = f"press-{run}{'cut' if is_cut else ''}"
            link_port = free_port()
            bed.write_agent(agent, link_port)
            state = bed.directory / agent
            state.mkdir()
            is_done = prepare(state, agent)
            transfer = _transfer(bed, agent, Link(agent, link_port, port), is_done, is_cut=is_cut)
            took_s, number = asyncio.run(transfer)
            taken[is_cut].append(took_s)
            cuts += number
    if not cuts:
        raise BenchmarkError("the transfers ended before the first cut")
    return Cuts(size, statistics.median(taken[False]), statistics.median(taken[True]), cuts)


async def _transfer(
    bed: Testbed, agent: str, link: Link, is_done: Callable[[], bool], *, is_cut: bool
) -> tuple[float, int]:
    """Start the agent; return the seconds from its first byte until `is_done`, and the cuts."""
    cuts: list[float] = []
    async with FlakyLink(link, RATE_BYTES_S) as proxy:
        config = bed.directory / f"{agent}.toml"
        child = bed.processes.start(agent, python("agent.main", "run", config))
        try:
            async with asyncio.timeout(_WITHIN_S):
                while not proxy.up_bytes:  # noqa: ASYNC110  the proxy only counts
                    await asyncio.sleep(0.001)
                began_s = time.monotonic()
                cutting = asyncio.create_task(_cut(proxy, cuts)) if is_cut else None
                while not is_done():  # noqa: ASYNC110  another process does it
                    await asyncio.sleep(_LOOK_S)
                took_s = time.monotonic() - began_s
                if cutting is not None:
                    cutting.cancel()
        except TimeoutError:
            reason = f"{agent} was not done within {_WITHIN_S:g} s"
            raise BenchmarkError(f"{reason}:\n{child.last_words()}") from None
        finally:
            if child.process is not None:
                child.process.kill()
                child.process.wait()
            bed.processes.children.remove(child)
    return took_s, len(cuts)


async def _cut(proxy: FlakyLink, cuts: list[float]) -> None:
    while True:
        await asyncio.sleep(EVERY_S - CUT_S)
        cuts.append(time.monotonic())
        proxy.cut("reset")
        await asyncio.sleep(CUT_S)
        proxy.restore()


def _has(path: Path, query: str, values: tuple[object, ...]) -> bool:
    """Whether a program's database has a row; also while the program is making it."""
    with suppress(sqlite3.OperationalError), closing(_reader(path)) as database:
        return database.execute(query, values).fetchone() is not None
    return False


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def _model_bytes(bed: Testbed, head: Head) -> bytes:
    query = "SELECT data FROM contents WHERE digest = ?"
    with closing(_reader(bed.store)) as database:
        return bytes(database.execute(query, (head.train.content.digest,)).fetchone()[0])


def _put_update(bed: Testbed, state: Path, agent: str, head: Head, content: bytes) -> None:
    """Put a signed update into an agent's outbox, as its learner does."""
    config = bed.directory / f"{agent}.toml"
    settings = read_agent_settings(config)
    identity = read_identity(config, settings.trust)
    outbox = Outbox(state / "outbox.db", settings.outbox.quota_bytes)
    counter = Counter(outbox.next_session())

    def build(incarnation: str, sequence: int) -> tuple[bytes, bytes]:
        header = UpdateHeader(
            agent=agent,
            incarnation=incarnation,
            sequence=sequence,
            lineage=head.lineage,
            base_version=head.train.version,
            base_digest=head.train.content.digest,
            examples=100,
            weight=100,
            scale=head.policy.scale,
            bits=16,
            content=describe(content),
        )
        return seal_update(header, identity, counter), content

    outbox.add(head.lineage, head.train.version, build)
    outbox.close()

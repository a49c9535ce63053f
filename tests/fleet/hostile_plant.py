"""A plant with one member who means harm, from the first row to the last outcome.

    machine L ─OPC UA─ gateway-l ─link─┐
    machine M ─OPC UA─ gateway-m ─link─┼─ broker ─ coordinator
    machine H ─OPC UA─ gateway-h ─link─┘     └ mallory

Programs, broker and machines are processes of their own.  The links run here, so that one can be
cut at a chosen moment: what H makes without a link is of a lineage that is abandoned meanwhile.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.status import Status, read_status
from coordinator.app import set_training
from shopfloor.baselines import load_model
from shopfloor.broker import broker_command
from shopfloor.demo import start_production
from shopfloor.links import FlakyLink, Link
from shopfloor.milling import generate, write_csv
from shopfloor.plant import FEDERATION, Options, Plant, Site, lay_out
from shopfloor.processes import ChildError, Processes, python, until
from tests.fleet.mallory import MALLORY, TOPICS, WAIT_S, Mallory
from wire.keys import make_agent
from wire.messages import TERMINAL, Head, Receipt, VersionRef
from wire.mqtt import BrokerSettings, connect

ROWS = 5_000
STREAM_S = 6.0
GOOD = 0.5
"""PR-AUC on rows that nobody saw, of a served version worth protecting; chance is 0.03."""


@dataclass(frozen=True)
class Hostile:
    """What happened.

    Attributes:
      good: what was served when the attack began.
      abandoned: the lineage that was attacked.
      offline: sequence of the update that H made while its link was cut, before the attack.
      quality: PR-AUC on rows that no agent saw of all that was trained or served, by digest.
    """

    plant: Plant
    heads: list[Head]
    receipts: dict[str, list[Receipt]]
    offered: int
    good: VersionRef
    abandoned: int
    offline: int
    quality: dict[bytes, float]

    @property
    def first_of_new(self) -> int:
        """Index of the first head of the lineage after the abandoned one."""
        return next(at for at, head in enumerate(self.heads) if head.lineage > self.abandoned)


def lay_out_hostile(directory: Path) -> Plant:
    """A plant whose gate judges every version, with keys and credential for mallory too."""
    data = directory / "all.csv"
    write_csv(generate(ROWS, seed=1), data)
    plant = lay_out(directory / "run", Options(seed=1, data=data, broker="mosquitto"))
    make_agent(plant.directory / "keys", FEDERATION, MALLORY, "X", serial=9)
    _edit(
        plant.coordinator_config,
        ("every = 3\n", "every = 1\n"),
        ("patience = 6\n", "patience = 2\n"),
        ("tolerance = 0.05\n", "tolerance = 0.1\n"),
        # From few rows the first versions and their figures jump about.
        ("min_rows = 64\n", "min_rows = 150\n"),
        ("deadline_s = 12\n", "deadline_s = 4\n"),
        ("deadline_s = 20\n", "deadline_s = 60\n"),
        ("learning_rate = 0.5\n", "learning_rate = 1.0\n"),
    )
    for site in plant.sites:
        _edit(site.config, ("holdout_share = 0.05", "holdout_share = 0.25"))
    return plant


def _edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{path} does not say {old!r} once"
        text = text.replace(old, new)
    path.write_text(text)


async def attack(plant: Plant) -> Hostile:
    """Run the plant; poison it once it serves something good; see it recover; drain it."""
    processes = Processes(plant.directory)
    links = {site.name: FlakyLink(_link(site, plant.broker_port)) for site in plant.sites}
    try:
        async with _connected(plant, processes, links) as mallory, asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(processes.watch()),
                tasks.create_task(mallory.listen()),
            ]
            hostile = await _play(plant, mallory, links["H"])
            for task in running:
                task.cancel()
    except* (AssertionError, ChildError) as group:
        raise group.exceptions[0] from None
    finally:
        processes.stop()
    return hostile


def _link(site: Site, broker_port: int) -> Link:
    return Link(site.name, site.link_port, broker_port)


@asynccontextmanager
async def _connected(
    plant: Plant, processes: Processes, links: dict[str, FlakyLink]
) -> AsyncIterator[Mallory]:
    """Start everything; mallory is subscribed before the coordinator says its first word."""
    port = plant.broker_port
    processes.start("broker", broker_command(plant.directory, port, "mosquitto"))
    for site in plant.sites:
        processes.start(
            f"machine-{site.name.lower()}",
            python(
                "shopfloor.machine",
                *("--table", plant.directory / "sites" / f"{site.name}.csv"),
                *("--port", site.machine_port, "--name", site.name),
                *("--rows-per-s", len(site.train) / STREAM_S, "--parent-pid", os.getpid()),
            ),
        )
    model, start = load_model(plant.directory)
    await until(lambda: _answers(port), "the broker answers", WAIT_S)
    async with (
        links["L"],
        links["M"],
        links["H"],
        connect(BrokerSettings(port=port), MALLORY) as link,
    ):
        await link.subscribe([f"{TOPICS.base}/#"])
        processes.start("coordinator", python("coordinator.main", "run", plant.coordinator_config))
        for site in plant.sites:
            processes.start(site.agent, python("agent.main", "run", site.config))
        yield Mallory(plant, link, model, start)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def _play(plant: Plant, mallory: Mallory, link: FlakyLink) -> Hostile:
    sites = {site.name: site for site in plant.sites}
    await until(lambda: all(map(_is_subscribed, plant.sites)), "agents on their machines", WAIT_S)
    for site in plant.sites:
        await start_production(site.machine_url)
    await mallory.birth()
    await mallory.until(lambda: _is_good(mallory), "a good version to be served")
    offline = await _made_without_link(mallory, sites["H"], link)
    good, abandoned = mallory.head.serve, mallory.head.lineage
    weights = mallory.weights(good)
    assert weights is not None
    await mallory.poison(weights)
    link.restore()
    await mallory.until(
        lambda: _outcome(mallory, sites["H"], offline), "the outcome of what H made without a link"
    )
    await mallory.until(lambda: _has_recovered(mallory, abandoned), "another promotion")
    set_training(plant.coordinator_config, "closed")
    await mallory.until(lambda: _is_settled(plant, mallory), "every outcome")
    return Hostile(
        plant=plant,
        heads=mallory.heads,
        receipts=mallory.receipts,
        offered=mallory.offered,
        good=good,
        abandoned=abandoned,
        offline=offline,
        quality={
            ref.content.digest: mallory.quality(ref)
            for head in mallory.heads
            for ref in (head.train, head.serve)
        },
    )


def _status(site: Site) -> Status:
    unknown = Status(agent=site.agent, site=site.name, federation=FEDERATION, pid=0)
    return read_status(site.state) or unknown


def _is_subscribed(site: Site) -> bool:
    return _status(site).source == "subscribed"


def _is_good(mallory: Mallory) -> bool:
    """Whether what is served is worth protecting."""
    return bool(mallory.heads) and mallory.quality(mallory.head.serve) >= GOOD


async def _made_without_link(mallory: Mallory, site: Site, link: FlakyLink) -> int:
    """Cut a site's link while it has something to learn; the sequence of what it then made."""

    def offline() -> Status | None:
        status = _status(site)
        return status if status.link == "down" else None

    def ended() -> Status | None:
        status = _status(site)
        is_idle = status.learning.startswith("waiting for a version")
        return status if status.produced > before.produced or is_idle else None

    while True:
        link.cut("reset")
        before = await mallory.until(offline, f"{site.agent} without its link")
        after = await mallory.until(ended, f"what {site.agent} makes without its link")
        if after.produced > before.produced:
            return after.produced
        link.restore()
        base = after.train_version
        await mallory.until(lambda: _status(site).train_version != base, f"{site.agent} back")  # noqa: B023


def _outcome(mallory: Mallory, site: Site, sequence: int) -> Receipt | None:
    for receipt in mallory.receipts.get(site.agent, []):
        if receipt.sequence == sequence and receipt.status in TERMINAL:
            return receipt
    return None


def _has_recovered(mallory: Mallory, abandoned: int) -> bool:
    """Whether a version of a later lineage is served, and two agents' updates were folded there."""
    new = [head for head in mallory.heads if head.lineage > abandoned]
    if not new or new[-1].serve.version <= new[0].train.version:
        return False
    folded = {
        agent
        for agent, receipts in mallory.receipts.items()
        for receipt in receipts
        if receipt.status == "folded" and receipt.version > new[0].train.version
    }
    return len(folded) >= 2


def _is_settled(plant: Plant, mallory: Mallory) -> bool:
    """Whether every update has its outcome and the last candidate was judged."""
    for status in map(_status, plant.sites):
        settled = sum(status.outcomes.get(name, 0) for name in TERMINAL)
        if status.learning != "training is closed" or settled != status.produced:
            return False
    return mallory.head.training == "closed" and mallory.head.candidate is None

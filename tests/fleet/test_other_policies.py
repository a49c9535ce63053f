"""Policies that the demo does not use, with the real programs, machines and broker.

Two runs, shared by the tests here.  In `turns` agents ask, one at a time is granted, and what they
send is calibrated.  In `small` a bundle is standardised by the statistics of all sites, one site
trains the first versions alone, and updates have four bits and a tenth of the parameters.
"""

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from asyncua import Client, ua

from agent.authoring import build_bundle
from agent.feedback import read_residual
from agent.outbox import Entry, Outbox
from agent.status import Status, read_status
from coordinator.app import set_training
from coordinator.config import DATABASE
from coordinator.site_statistics import combine
from coordinator.store import Saved, Store
from shopfloor.broker import broker_command
from shopfloor.ledger import Ledger
from shopfloor.machine import NAMESPACE_URI
from shopfloor.milling import write_csv
from shopfloor.plant import FEDERATION, JOB, Options, Plant, Site, bundle_settings, lay_out
from shopfloor.processes import Processes, python, until
from wire.bundle import Bundle, Level, read_bundle
from wire.keys import AUTHOR_KEY, CHARTER, ROOT_KEY
from wire.messages import TERMINAL
from wire.signing import read_private_key
from wire.sparse import decode_sparse, encode_sparse, kept_count, largest_sparse_bytes
from wire.standards import write_standard
from wire.tensors import flatten, parameter_count, read_params
from wire.trust import read_charter

ROWS, ROWS_PER_S = 800, 40
"""Products of each machine; it makes them until the run is over, so that weights grow under way."""
PATIENCE_S = 90.0
SEED = 5

GATE = """
[gate]
every = 1000
patience = 1000
abandon_below = 100
"""
"""Versions of so few rows are judged by chance, and an abandoned lineage would refuse updates."""
TURNS = """
[strategy]
name = "calibrated"
goal = 2
deadline_s = 1

[selection]
concurrency = 1

[policy]
admission = "granted"
offline_training = false
calibration = 1.0
"""
SMALL = """
[strategy]
name = "fedbuff"
goal = 2
deadline_s = 1

[initial]
source = "site"
site = "M"
versions = 2

[policy]
bits = 4
kept_share = 0.1
"""
TRAINING = """
epochs = 2
optimizer = "adam"
learning_rate = 0.006
min_rows = 64
clip_norm = 3.0
scale = 0.004
"""


@dataclass(frozen=True)
class Finished:
    """What a run left behind, all programs having ended.

    Attributes:
      updates: of every agent, from its own outbox.
      remembered: what agents remember: (agent, name) to bytes.
      statuses: the last one of each agent.
    """

    plant: Plant
    updates: dict[str, list[Entry]]
    remembered: dict[tuple[str, str], bytes]
    statuses: dict[str, Status]
    ledger: Ledger

    @property
    def store(self) -> Store:
        """The coordinator's file, opened; the caller closes it."""
        return Store(self.plant.coordinator_state / DATABASE)

    def saved(self) -> Saved:
        """The state of the coordinator's last decision."""
        store = self.store
        saved = store.load()
        store.close()
        assert saved is not None
        return saved

    def log(self, name: str) -> str:
        """What a program said."""
        return (self.plant.directory / f"{name}.log").read_text()


def lay_out_for(directory: Path, tables: str) -> Plant:
    """A plant as the demo's, with short tables, no flaky links, and this policy."""
    plant = lay_out(directory, Options(seed=SEED))
    for site in plant.sites:
        few = site.train.take(np.arange(ROWS))
        write_csv(few, directory / "sites" / f"{site.name}.csv")
        text = site.config.read_text().replace(
            f"port = {site.link_port}", f"port = {plant.broker_port}"
        )
        text = re.sub(r"(keepalive|ack_timeout)_s = .*\n", "", text)
        text = re.sub(r"pause_s = .*", "pause_s = 0.1", text)
        text = re.sub(r"\[personal\]\n[^[]*", "", text)
        site.config.write_text(text + "\n[personal]\nenabled = false\n")
    before = plant.coordinator_config.read_text()
    kept = before[: before.index("[strategy]")]
    plant.coordinator_config.write_text(kept + GATE + tables + TRAINING)
    return plant


def standardise_by_all_sites(plant: Plant) -> None:
    """Replace the plant's bundle: the same job, but no constants are known of its features."""
    job = bundle_settings(SEED)
    raw = tuple(Level(channel=channel.name) for channel in job.channel)
    settings = msgspec.structs.replace(job, standardise="federated", feature=raw)
    author = read_private_key(plant.directory / "keys" / AUTHOR_KEY)
    plant.bundle.write_bytes(build_bundle(JOB, settings, FEDERATION, author))


def statuses_of(plant: Plant) -> dict[str, Status]:
    return {site.agent: found for site in plant.sites if (found := read_status(site.state))}


def folded(status: Status) -> int:
    return status.outcomes.get("folded", 0)


def is_settled(plant: Plant) -> bool:
    """Whether all agents know that training is closed, and the outcome of all they made."""
    return all(
        status.learning == "training is closed"
        and sum(status.outcomes.get(name, 0) for name in TERMINAL) == status.produced
        for status in statuses_of(plant).values()
    )


def is_witnessed(plant: Plant) -> bool:
    """Whether the witness, which is behind everybody, has written down as many outcomes."""
    made = sum(status.produced for status in statuses_of(plant).values())
    return len(read_ledger(plant).outcomes) == made


def read_ledger(plant: Plant) -> Ledger:
    ledger = Ledger(plant.directory / "witness")
    ledger.read_new()
    return ledger


async def produce(site: Site) -> None:
    """Start a machine's production, once it answers."""
    for attempt in range(100):
        try:
            async with Client(site.machine_url) as client:
                index = await client.get_namespace_index(NAMESPACE_URI)
                machine = client.get_node(f"ns={index};s=Machine")
                await machine.call_method(ua.QualifiedName("StartProduction", index))
        except OSError:
            assert attempt < 99
            await asyncio.sleep(0.1)
        else:
            return


async def run(plant: Plant, is_enough: Callable[[dict[str, Status]], bool]) -> None:
    """Start everything, let it learn until it is enough, then close training and settle."""
    processes, directory = Processes(plant.directory), plant.directory
    port = plant.broker_port
    try:
        processes.start("broker", broker_command(directory, port, "mosquitto"))
        for site in plant.sites:
            table = directory / "sites" / f"{site.name}.csv"
            words = ("--table", table, "--port", site.machine_port, "--rows-per-s", ROWS_PER_S)
            processes.start(
                f"machine-{site.name}", python("shopfloor.machine", *words, "--name", site.name)
            )
        seen = ("--port", port, "--federation", FEDERATION, "--out", directory / "witness")
        processes.start("observer", python("shopfloor.observer", *seen))
        run_it = python("coordinator.main", "run", plant.coordinator_config)
        processes.start("coordinator", run_it)
        for site in plant.sites:
            processes.start(site.agent, python("agent.main", "run", site.config))

        def are_subscribed() -> bool:
            found = statuses_of(plant)
            return len(found) == len(plant.sites) and all(
                status.source == "subscribed" for status in found.values()
            )

        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(processes.watch())
            await until(are_subscribed, "agents subscribed", PATIENCE_S)
            for site in plant.sites:
                await produce(site)
            await until(lambda: is_enough(statuses_of(plant)), "learning", PATIENCE_S)
            set_training(plant.coordinator_config, "closed")
            await until(lambda: is_settled(plant), "all outcomes known", PATIENCE_S)
            await until(lambda: is_witnessed(plant), "all outcomes witnessed", PATIENCE_S)
            watching.cancel()
    finally:
        processes.stop()


def finish(plant: Plant, is_enough: Callable[[dict[str, Status]], bool]) -> Finished:
    """Run a plant and read what it left."""
    asyncio.run(run(plant, is_enough))
    updates, remembered = {}, {}
    for site in plant.sites:
        outbox = Outbox(site.state / "outbox.db", 1 << 40)
        updates[site.agent] = outbox.account()
        for name in ("residual", "calibration"):
            found = outbox.remembered(name)
            if found is not None:
                remembered[site.agent, name] = found
        outbox.close()
    return Finished(plant, updates, remembered, statuses_of(plant), read_ledger(plant))


@pytest.fixture(scope="module")
def turns(mosquitto_program: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    assert mosquitto_program
    plant = lay_out_for(tmp_path_factory.mktemp("turns"), TURNS)
    return finish(plant, lambda found: all(folded(each) >= 3 for each in found.values()))


@pytest.fixture(scope="module")
def small(mosquitto_program: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    assert mosquitto_program
    plant = lay_out_for(tmp_path_factory.mktemp("small"), SMALL)
    standardise_by_all_sites(plant)
    return finish(
        plant,
        lambda found: all(folded(each) >= 2 and each.scored for each in found.values()),
    )


@dataclass(frozen=True)
class Granted:
    """One grant, from the log of the agent that got it, and the update made under it."""

    agent: str
    told_at: float
    number: int
    update: tuple[str, int] | None = None


_TOLD = re.compile(
    r"^(\S+ \S+) INFO agent\.(?:turn: granted to train \((\d+)\)"
    r"|learner: update ([0-9a-f]{16})/(\d+) from version)",
    re.MULTILINE,
)


def grants_of(agent: str, log: str) -> list[Granted]:
    """The grants that an agent was told of, in order; an update without a grant fails."""
    found: list[Granted] = []
    for at, number, incarnation, sequence in _TOLD.findall(log):
        if number:
            told_at = datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
            found.append(Granted(agent, told_at, int(number)))
        else:
            assert found, "an update before the first grant"
            assert found[-1].update is None, "two updates under one grant"
            found[-1] = replace(found[-1], update=(incarnation, int(sequence)))
    return found


def all_grants(finished: Finished) -> list[Granted]:
    """All agents' grants in the order in which the coordinator gave them."""
    logs = {site.agent: finished.log(site.agent) for site in finished.plant.sites}
    found = [each for agent, log in logs.items() for each in grants_of(agent, log)]
    return sorted(found, key=lambda each: each.number)


pytestmark = pytest.mark.timeout(300)  # whichever test comes first pays for the run
BOTH = pytest.mark.parametrize("name", ["turns", "small"])


@BOTH
def test_every_update_was_folded_and_everybody_says_the_same(
    request: pytest.FixtureRequest, name: str
) -> None:
    finished: Finished = request.getfixturevalue(name)
    store = finished.store
    folded = {(agent, inc, seq): version for version, agent, inc, seq, _ in store.memberships()}
    counts = store.counts()
    store.close()
    made = {
        (agent, entry.incarnation, entry.sequence): entry
        for agent, entries in finished.updates.items()
        for entry in entries
    }
    assert len(made) >= 6
    assert {key: entry.version for key, entry in made.items()} == folded
    assert {entry.status for entry in made.values()} == {"folded"}
    assert finished.ledger.outcomes == {key: {("folded", folded[key])} for key in made}
    assert counts == {"folded": len(made), "duplicates": counts["duplicates"]}


def test_every_update_was_made_under_a_grant_of_its_own(turns: Finished) -> None:
    grants = all_grants(turns)
    under = {(each.agent, *each.update) for each in grants if each.update is not None}
    made = {
        (agent, entry.incarnation, entry.sequence)
        for agent, entries in turns.updates.items()
        for entry in entries
    }
    assert under == made
    assert len({each.number for each in grants}) == len(grants)


def test_all_agents_get_turns(turns: Finished) -> None:
    assert {agent: len(entries) >= 3 for agent, entries in turns.updates.items()} == {
        site.agent: True for site in turns.plant.sites
    }


def test_nobody_was_granted_while_somebody_else_was_at_work(turns: Finished) -> None:
    with closing(sqlite3.connect(turns.plant.coordinator_state / DATABASE)) as database:
        rows = database.execute("SELECT agent, incarnation, sequence, received_at FROM updates")
        received_at = {(agent, inc, seq): at for agent, inc, seq, at in rows}
    for earlier, later in pairwise(all_grants(turns)):
        assert earlier.update is not None
        # A log's milliseconds are cut off.
        assert received_at[earlier.agent, *earlier.update] < later.told_at + 0.001


def test_the_coordinators_memory_is_the_sum_of_what_agents_remember(turns: Finished) -> None:
    store = turns.store
    known = store.vector("memory")
    weights = {agent: set[int]() for agent in turns.updates}
    for _, agent, _, _, weight in store.memberships():
        weights[agent].add(weight)
    store.close()
    parts = [
        read_residual(turns.remembered[agent, "calibration"], len(known)) for agent in turns.updates
    ]
    assert max(len(found) for found in weights.values()) > 1
    assert np.abs(known).max() > 1.0
    assert all(np.abs(part.vector).max() > 1.0 for part in parts)
    total = np.sum([part.vector.astype(np.float64) for part in parts], axis=0)
    assert np.allclose(total, known, rtol=0, atol=1e-6 * float(np.abs(known).max()))


def test_the_first_versions_come_from_one_site_and_the_next_from_all(small: Finished) -> None:
    store = small.store
    members: dict[int, set[str]] = {}
    for version, agent, *_ in store.memberships():
        members.setdefault(version, set()).add(agent)
    store.close()
    assert [members[1], members[2]] == [{"gateway-m"}, {"gateway-m"}]
    later = set().union(*(found for version, found in members.items() if version > 2))
    assert later == {site.agent for site in small.plant.sites}
    for agent in ("gateway-l", "gateway-h"):
        assert min(entry.base_version for entry in small.updates[agent]) >= 2
        assert "granted to train" not in small.log(agent)
    assert small.log("gateway-m").count("granted to train") == 2


def test_updates_of_four_bits_had_a_tenth_of_the_parameters_and_left_the_rest_for_later(
    small: Finished,
) -> None:
    count = parameters_of(small)
    most = kept_count(0.1, count)
    for update, fact in small.ledger.updates.items():
        content = small.ledger.content_of(update)
        integers = decode_sparse(content, 4, count, most)
        assert fact.bits == 4
        assert 0 < np.count_nonzero(integers) <= most
        assert len(content) <= largest_sparse_bytes(4, count, most) < count / 5
        assert encode_sparse(integers, 4) == content
    bundle = small.saved().bundle.digest
    for agent in small.updates:
        left = read_residual(small.remembered[agent, "residual"], count)
        assert (left.bundle, left.lineage) == (bundle, 0)
        assert np.count_nonzero(left.vector) > count // 4


def parameters_of(finished: Finished) -> int:
    return parameter_count(opened_bundle(finished).manifest.shared_shapes)


def opened_bundle(finished: Finished) -> Bundle:
    keys = finished.plant.directory / "keys"
    root = read_private_key(keys / ROOT_KEY).public
    return read_bundle(
        finished.plant.bundle.read_bytes(), read_charter((keys / CHARTER).read_bytes(), root)
    )


def test_the_model_moves_by_what_little_is_sent(small: Finished) -> None:
    bundle, saved, store = opened_bundle(small), small.saved(), small.store
    now = flatten(read_params(store.content(saved.train.content.digest), bundle.manifest.shapes))
    store.close()
    moved = now - flatten(bundle.weights)
    assert np.linalg.norm(moved) > 0.05
    assert np.count_nonzero(moved) > kept_count(0.1, len(moved))


def test_inputs_were_standardised_by_the_sums_of_two_sites_before_anybody_trained_or_scored(
    small: Finished,
) -> None:
    saved, store = small.saved(), small.store
    assert saved.statistics is not None
    written = store.content(saved.statistics.digest)
    told = store.record.statistics(saved.bundle.digest)
    store.close()
    reports = {agent: statistics for (agent, _), statistics in told.items()}
    assert len(reports) == 2
    combined = combine(reports, saved.bundle.digest, 5)
    assert write_standard(combined) == written
    # Kelvin, Kelvin, revolutions a minute, newton metres, minutes
    assert np.allclose(combined.mean[:4], [300, 310, 1539, 40], rtol=0.1)
    assert all(status.scored > 0 for status in small.statuses.values())
    said = small.log("coordinator")
    assert said.index("inputs are standardised by 2 agents' rows") < said.index("version 1 from")

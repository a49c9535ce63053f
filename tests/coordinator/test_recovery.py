"""A coordinator restored from a backup stops, and goes on only by the root's word."""

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from coordinator.past import Past, RestoredError
from coordinator.store import Store
from tests.coordinator.conftest import Broker, Plant
from tests.coordinator.delivering_agent import DeliveringAgent
from tests.coordinator.small_federation import Site, enrol, open_federation, trust
from wire.keys import read_federation, replace_charter

GOAL_2 = "[strategy]\ngoal = 2\n"
FIRST_OF_RECOVERY = 1 << 16


def recover(plant: Plant) -> None:
    """What `journeyman keys charter --recover` does."""
    before = read_federation(plant.keys)[2].charter
    after = msgspec.structs.replace(before, epoch=before.epoch + 1, recovery=before.recovery + 1)
    replace_charter(plant.keys, after)


def boots(state: Path) -> int:
    """How often a coordinator ran on a state directory, so far as that knows."""
    store = Store(state / "coordinator.db")
    boot = store.next_boot()
    store.give_boot_back(boot)
    store.close()
    return boot


async def until_it_ends(plant: Plant) -> int:
    process = plant.running[-1]
    async with asyncio.timeout(30):
        while process.poll() is None:  # noqa: ASYNC110  a process sets no event
            await asyncio.sleep(0.05)
    return int(process.returncode)


def test_a_restored_coordinator_stops_and_by_the_roots_word_every_update_has_one_outcome(
    plant: Plant, broker: Broker
) -> None:
    plant.configure(GOAL_2)
    state, backup = plant.directory / "state", plant.directory / "backup"

    async def story() -> None:
        process = plant.start()
        async with (
            DeliveringAgent(plant, "press-1") as one,
            DeliveringAgent(plant, "press-2") as two,
        ):
            agents, made = (one, two), []
            for agent in agents:
                await agent.until(lambda agent=agent: agent.adoption.head is not None, "a head")  # type: ignore[misc]
                made.append((agent, agent.make()))
            for agent, update in made:
                await agent.settled(update, "folded")
            assert plant.stop(process) == 0
            shutil.copytree(state, backup)

            process = plant.start()
            await one.until(lambda: one.head.train.version == 1, "version 1")
            await two.until(lambda: two.head.train.version == 1, "version 1")
            lost = [(agent, agent.make()) for agent in agents]  # folded after the backup
            for agent, update in lost:
                await agent.settled(update, "folded")
            await one.until(lambda: one.head.train.version == 2, "version 2")
            committed = one.make()  # in the buffer when the machine is lost
            await one.settled(committed, "committed")
            assert one.head.sequence == 3
            process.kill()
            process.wait()

            shutil.rmtree(state)
            shutil.copytree(backup, state)
            plant.start()
            assert await until_it_ends(plant) == 2
            assert "the broker holds head 3 of recovery 0" in plant.log
            assert "journeyman keys charter --recover" in plant.log
            assert (one.head.sequence, one.outcome(committed)) == (3, "committed")
            assert boots(state) == boots(backup)  # however often it is tried

            recover(plant)
            process = plant.start()
            for agent in agents:
                await agent.until(lambda agent=agent: agent.head.recovery == 1, "the new head")  # type: ignore[misc]
            await one.settled(committed, "refused")
            assert one.head.sequence <= 3  # lower, and newer by the root's word
            assert (one.head.lineage, one.head.train.version) == (FIRST_OF_RECOVERY, 2)
            made = [(agent, agent.make()) for agent in agents]
            for agent, update in made:
                await agent.settled(update, "folded")
            for agent in agents:
                assert not agent.outbox.open_updates()
            assert [one.outcome(update) for update in (lost[0][1], committed)] == [
                "folded",
                "refused",
            ]
            assert plant.stop(process) == 0

    asyncio.run(story())
    store = Store(state / "coordinator.db")
    assert store.next_boot() > FIRST_OF_RECOVERY
    assert store.counts()["folded"] == 4
    store.close()


def test_an_agent_that_was_away_follows_the_recovered_coordinator_and_none_before(
    plant: Plant, broker: Broker
) -> None:
    plant.configure(GOAL_2)
    state = plant.directory / "state"

    async def story() -> None:
        process = plant.start()
        async with DeliveringAgent(plant, "press-1") as agent:
            await agent.until(lambda: agent.adoption.head is not None, "a head")
            before = agent.head
        assert plant.stop(process) == 0
        # All is lost, also what the broker retained; the store begins anew.
        shutil.rmtree(state)
        broker.kill()
        broker.start()
        recover(plant)
        process = plant.start()
        # The gateway's own charter file is the old one; the new charter comes over the broker.
        async with DeliveringAgent(plant, "press-1", charter="charter-1.jm") as agent:
            assert agent.identity.trust.charter.recovery == 0
            await agent.until(lambda: agent.head.recovery == 1, "the new head")
            assert agent.head.lineage == FIRST_OF_RECOVERY > before.lineage
        async with DeliveringAgent(plant, "press-1", charter="charter-1.jm") as agent:
            assert agent.identity.trust.charter.recovery == 1  # kept, beside an older file
        assert plant.stop(process) == 0

    asyncio.run(story())


def test_updates_from_what_the_store_does_not_know_stop_it_when_most_sites_say_so() -> None:
    store = Store(":memory:")
    federation = open_federation(store)
    for agent, site in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "z")):
        enrol(store, agent, site)
    saved, sites = federation.saved, {"x", "y", "z"}
    past = Past(trust(), 1)
    known = Site("a").update(federation.head.train).header
    ahead = msgspec.structs.replace(known, base_version=7)
    past.on_update("x", known, saved, sites)
    past.on_update("x", ahead, saved, sites)
    past.on_update("x", ahead, saved, sites)  # one site alone may lie, with many agents
    with pytest.raises(RestoredError, match="2 of 3 sites trained from lineage 0, version 7"):
        past.on_update("y", ahead, saved, sites)


def test_the_store_that_recovers_begins_a_lineage_of_its_own_range_once() -> None:
    store = Store(":memory:")
    federation = open_federation(store, GOAL_2)
    enrol(store, "press-1", "site-a")
    waiting = Site("press-1").update(federation.head.train)
    assert federation.commit([waiting], 0.0).receipts[0][1].status == "committed"
    sequence = federation.head.sequence
    recovered = open_federation(store, GOAL_2, recovery=3)
    assert recovered.head.recovery == 3
    assert recovered.head.lineage == 3 << 16
    assert recovered.head.sequence > sequence
    refused = recovered.status_of(waiting.header)
    assert refused is not None
    assert refused.status == "refused"
    assert "recovery 3" in refused.reason
    again = open_federation(store, GOAL_2, recovery=3)
    assert again.head == recovered.head
    assert store.next_boot(3) == (3 << 16) + 1
    assert store.next_boot(3) == (3 << 16) + 2

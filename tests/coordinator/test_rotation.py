"""Keys are replaced, and sites listed, by a newer charter; programs go on under it."""

import asyncio
import shutil
import subprocess
from typing import Any

import msgspec
import pytest

from coordinator.config import read_coordinator_settings, read_identity
from coordinator.reader import read_about
from coordinator.store import Store
from tests.coordinator.conftest import Broker, Plant
from tests.coordinator.delivering_agent import DeliveringAgent
from tests.coordinator.scripted_agent import TOPICS, floor
from tests.coordinator.small_federation import FEDERATION, enrol, open_federation
from tests.coordinator.small_federation import Site as ScriptedSite
from wire.codec import seal
from wire.errors import SettingsError
from wire.keys import make_agent, read_federation, replace_charter
from wire.messages import CoordinatorState, Credential
from wire.signing import PrivateKey, read_private_key, write_private_key
from wire.trust import COORDINATOR, ENROLMENT

GOAL_2 = "[strategy]\ngoal = 2\n"
GOAL_10 = "[strategy]\ngoal = 10\n[gate]\nquorum = 2\n"
NEW = PrivateKey(bytes([90] * 32))


def next_charter(plant: Plant, **changes: Any) -> bytes:
    """Sign and install the next charter on the root's machine; return its envelope."""
    before = read_federation(plant.keys)[2].charter
    after = msgspec.structs.replace(before, epoch=before.epoch + 1, **changes)
    return replace_charter(plant.keys, after).read_bytes()


async def ended(process: subprocess.Popen[bytes]) -> int:
    async with asyncio.timeout(30):
        while process.poll() is None:  # noqa: ASYNC110  a process sets no event
            await asyncio.sleep(0.05)
    return int(process.returncode)


def credential(plant: Plant, agent: str, site: str, serial: int = 1) -> None:
    """What an enrolment authority that colludes signs, whatever the charter lists."""
    key = PrivateKey.generate()
    write_private_key(plant.keys / f"{agent}.key", key)
    made = Credential(agent=agent, site=site, public_key=key.public.raw, serial=serial)
    enrolment = read_private_key(plant.keys / "enrolment.key")
    (plant.keys / f"{agent}.credential").write_bytes(
        seal(made, federation=FEDERATION, signer=ENROLMENT, counter=serial, key=enrolment)
    )


def test_after_rotation_the_old_coordinator_stops_and_nobody_hears_its_key_any_more(
    plant: Plant, broker: Broker
) -> None:
    plant.configure(GOAL_2)
    old = read_private_key(plant.keys / "coordinator.key")

    async def story() -> None:
        process = plant.start()
        async with (
            floor(plant.port, plant.keys) as watched,
            DeliveringAgent(plant, "press-1") as agent,
        ):
            await agent.until(lambda: agent.adoption.head is not None, "a head")
            first = agent.make()
            await agent.settled(first, "committed")
            charter = next_charter(plant, coordinator_key=NEW.public.raw)
            await watched.link.publish(TOPICS.charter, charter, retain=True)
            assert await ended(process) == 2
            assert "this is not the coordinator key of charter 2" in plant.log
            await agent.until(
                lambda: agent.connection.identity.trust.charter.epoch == 2, "charter 2"
            )
            forged = msgspec.structs.replace(agent.head, sequence=99)
            said = seal(forged, federation=FEDERATION, signer=COORDINATOR, counter=99, key=old)
            await watched.link.publish(TOPICS.head, said, retain=True)
            await agent.until(lambda: "does not verify" in agent.status.refused, "a refusal")
            assert agent.head.sequence == 1

            # The old machine with its old charter file does not begin again either.
            (plant.keys / "charter.jm").write_bytes((plant.keys / "charter-1.jm").read_bytes())
            assert await ended(plant.start()) == 2
            (plant.keys / "charter.jm").write_bytes(charter)
            (plant.keys / "coordinator.key").unlink()
            write_private_key(plant.keys / "coordinator.key", NEW)
            process = plant.start()
            await agent.until(lambda: agent.head.sequence == 2, "a head of the new key")
            async with DeliveringAgent(plant, "press-2") as other:
                await other.until(lambda: other.adoption.head is not None, "a head")
                second = other.make()
                await other.settled(second, "folded")
            await agent.settled(first, "folded")  # what was committed before is not lost
        assert plant.stop(process) == 0

    asyncio.run(story())


def test_what_a_new_coordinator_says_before_its_charter_is_heard_counts_afterwards(
    plant: Plant, broker: Broker
) -> None:
    plant.configure(GOAL_2)
    process = plant.start()

    async def story() -> None:
        async with (
            floor(plant.port, plant.keys) as watched,
            DeliveringAgent(plant, "press-1") as agent,
        ):
            await agent.until(lambda: agent.status.coordinator == "online", "the coordinator")
            assert plant.stop(process) == 0
            charter = next_charter(plant, coordinator_key=NEW.public.raw)
            head = msgspec.structs.replace(agent.head, sequence=2)
            state = CoordinatorState(status="online", session=9)
            for counter, (topic, said) in enumerate(
                ((TOPICS.head, head), (TOPICS.coordinator_state, state))
            ):
                envelope = seal(
                    said, federation=FEDERATION, signer=COORDINATOR, counter=counter, key=NEW
                )
                await watched.link.publish(topic, envelope)
            await agent.until(lambda: "does not verify" in agent.status.refused, "a refusal")
            assert agent.head.sequence == 1
            await watched.link.publish(TOPICS.charter, charter)
            await agent.until(lambda: agent.head.sequence == 2, "the head that came before")
            await agent.until(lambda: agent.status.coordinator == "online", "its coordinator")

    asyncio.run(story())


def test_a_running_coordinator_goes_on_under_a_charter_that_lists_sites(
    plant: Plant, broker: Broker
) -> None:
    plant.configure(GOAL_2)
    process = plant.start()

    async def story() -> None:
        async with floor(plant.port, plant.keys) as watched:
            head = await watched.head()
            mill, press = await watched.birth("mill-1"), await watched.birth("press-1")
            charter = next_charter(plant, sites=("site-a", "site-b"))
            await watched.link.publish(TOPICS.charter, charter)
            await watched.until(
                lambda: len({state.session for state in watched.coordinator_states()}) == 2,
                "the coordinator under the new charter",
            )
            assert process.poll() is None
            await watched.offer(mill.update(head.train))
            refused = await watched.receipt("mill-1", "refused", 1)
            assert refused.reason.startswith("site site-c is not one of the 2 that charter 2 lists")
            await watched.report("mill-1", head)
            await watched.birth("mill-1", session=2, is_answered=False)
            await watched.until(
                lambda: plant.log.count("site site-c is not one of the 2") >= 3, "both refusals"
            )
            await watched.offer(press.update(head.train))
            await watched.receipt("press-1", "committed", 1)

    asyncio.run(story())
    assert plant.stop(process) == 0


def test_no_sum_of_fewer_sites_comes_of_ten_agents_that_an_authority_made_up(
    plant: Plant, broker: Broker
) -> None:
    next_charter(plant, k_min=2, sites=("site-a", "site-b"))
    plant.configure(GOAL_10)
    for number in range(10):
        credential(plant, f"fake-{number}", "nowhere")
        credential(plant, f"clone-{number}", "site-a")
    process = plant.start()

    async def story() -> None:
        async with floor(plant.port, plant.keys) as watched:
            head = await watched.head()
            for number in range(10):
                await watched.birth(f"fake-{number}", is_answered=False)
                clone = await watched.birth(f"clone-{number}")
                await watched.offer(clone.update(head.train))
                await watched.receipt(f"clone-{number}", "committed", 1)
            await watched.until(
                lambda: plant.log.count("site nowhere is not one of the 2") == 10, "ten refusals"
            )
            genuine = await watched.birth("press-2")
            assert (await watched.head()).train.version == 0
            await watched.offer(genuine.update(head.train))
            assert (await watched.head(version=1)).sequence == 2

    asyncio.run(story())
    assert plant.stop(process) == 0


def test_a_new_enrolment_key_counts_whom_the_coordinator_knew_and_no_forgery_of_the_old_one(
    plant: Plant, broker: Broker
) -> None:
    plant.configure(GOAL_2)
    process = plant.start()

    async def story() -> None:
        async with floor(plant.port, plant.keys) as watched:
            head = await watched.head()
            await watched.birth("press-1")
            charter = next_charter(plant, enrolment_key=NEW.public.raw)
            credential(plant, "forged", "site-b")  # with the stolen old key
            await watched.link.publish(TOPICS.charter, charter)
            await watched.until(
                lambda: len({state.session for state in watched.coordinator_states()}) == 2,
                "the coordinator under the new charter",
            )
            known = await watched.birth("press-1", session=2)
            await watched.offer(known.update(head.train))
            await watched.receipt("press-1", "committed", 1)
            await watched.birth("forged", is_answered=False)
            await watched.birth("press-2", is_answered=False)  # not seen before: renew it first
            await watched.until(
                lambda: plant.log.count("credential from enrolment: the signature") >= 2,
                "both refusals",
            )

    asyncio.run(story())
    assert plant.stop(process) == 0


def test_updates_of_a_site_that_is_listed_no_more_end_void_when_no_sum_has_them_yet() -> None:
    store = Store(":memory:")
    federation = open_federation(store, GOAL_2)
    enrol(store, "press-1", "site-a")
    waiting = ScriptedSite("press-1").update(federation.head.train)
    federation.commit([waiting], 0.0)
    again = open_federation(store, GOAL_2, epoch=2, sites=("site-b",))
    outcome = again.status_of(waiting.header)
    assert outcome is not None
    assert (outcome.status, outcome.reason) == (
        "void",
        "site site-a is not one of the 1 that charter 2 lists",
    )


def test_the_bundle_of_a_removed_author_goes_on_where_it_is_published_and_begins_nowhere(
    plant: Plant, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    plant.configure(GOAL_2)
    process = plant.start()

    async def until_there_is_a_head() -> None:
        async with floor(plant.port, plant.keys) as watched:
            await watched.head()

    asyncio.run(until_there_is_a_head())
    assert plant.stop(process) == 0
    next_charter(plant, author_keys=(NEW.public.raw,))
    settings = read_coordinator_settings(plant.config)
    assert read_identity(plant.config, settings).trust.charter.epoch == 2
    assert "agents that do not have this bundle yet will refuse it" in caplog.text
    assert read_about(plant.config, settings).bundle == "spindle"
    shutil.rmtree(plant.directory / "state")
    with pytest.raises(SettingsError, match="none of the charter's 1 author keys signed it"):
        read_identity(plant.config, settings)


def test_an_agent_for_a_site_that_is_not_listed_is_not_made(plant: Plant) -> None:
    next_charter(plant, sites=("site-a",))
    make_agent(plant.keys, FEDERATION, "press-8", "site-a")
    with pytest.raises(SettingsError, match="site site-z is not one of the 1"):
        make_agent(plant.keys, FEDERATION, "press-9", "site-z")
    assert not (plant.keys / "press-9.key").exists()

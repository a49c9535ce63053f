"""The coordinator process against a real mosquitto, with an agent by hand."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from coordinator.store import Store
from tests.coordinator.conftest import Broker, Plant
from tests.coordinator.scripted_agent import TOPICS, Floor, floor
from tests.coordinator.small_federation import PARAMS, P, Site
from wire.bundle import read_bundle
from wire.chunks import from_bitmap, split
from wire.codec import seal, unseal
from wire.keys import make_agent
from wire.messages import Command, CoordinatorState
from wire.signing import PrivateKey, read_private_key
from wire.tensors import flatten, read_params
from wire.trust import COORDINATOR, read_charter

GOAL_2 = "[strategy]\ngoal = 2\n"
DIE_BEFORE_RECEIPTS = """
import os, signal
from coordinator.connection import Connection
after = Connection._after
def die(self, result):
    if result.receipts:
        os.kill(os.getpid(), signal.SIGKILL)
    after(self, result)
Connection._after = die
"""


def on_floor(plant: Plant, test: Callable[[Floor], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with floor(plant.port, plant.keys) as watched:
            await test(watched)

    asyncio.run(inside())


def command(plant: Plant, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coordinator.main", name, str(plant.config), *words],
        cwd=plant.repository,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def status_of(plant: Plant) -> dict[str, Any]:
    answered = command(plant, "status", "--json")
    assert answered.returncode == 0, answered.stderr
    return dict(json.loads(answered.stdout))


def agents_of(plant: Plant) -> dict[str, str]:
    store = Store(plant.directory / "state" / "coordinator.db")
    known = {agent: state for agent, _, state in store.agents()}
    store.close()
    return known


def test_an_update_travels_from_its_header_to_the_next_version(
    plant: Plant, broker: Broker
) -> None:
    plant.configure(GOAL_2)
    process = plant.start()

    async def story(watched: Floor) -> None:
        head = await watched.head()
        one, two = await watched.birth("press-1"), await watched.birth("press-2")
        await watched.offer(one.update(head.train))
        await watched.receipt("press-1", "committed", 1)
        await watched.offer(two.update(head.train))
        for agent in ("press-1", "press-2"):
            assert (await watched.receipt(agent, "folded", 1)).version == 1
        assert (await watched.head(version=1)).sequence == 2

    on_floor(plant, story)
    assert plant.stop(process) == 0
    assert status_of(plant)["updates"] == {"folded": 2, "duplicates": 0}


def test_what_is_forged_is_refused_with_a_clear_line_and_no_effect(
    plant: Plant, broker: Broker
) -> None:
    plant.configure(GOAL_2)
    plant.start()

    async def story(watched: Floor) -> None:
        head = await watched.head()
        site = await watched.birth("press-1")
        update = site.update(head.train)
        genuine = watched.header(update)
        await watched.publish_part(update, "h", genuine.replace(b"press-1", b"press-2"))
        await watched.publish_part(update, "h", genuine[:-1] + bytes([genuine[-1] ^ 1]))
        await watched.publish_part(update, "h", b"\xc1 no message at all")
        await watched.publish_part(update, "h", bytes(300_000))
        elsewhere = msgspec.structs.replace(update.header, sequence=99)
        await watched.publish_part(type(update)(elsewhere, b""), "h", genuine)
        stranger = Site("mill-1").update(head.train)
        foreign = seal(
            stranger.header,
            federation="plant-net",
            signer="mill-1",
            counter=1,
            key=PrivateKey(bytes(32)),
        )
        await watched.publish_part(stranger, "h", foreign)
        await watched.link.publish(f"{TOPICS.base}/up/99/press-1/x", genuine)
        await watched.link.publish(TOPICS.state("press-2"), genuine, retain=False)
        await watched.link.publish(TOPICS.report("press-1"), genuine)
        await watched.offer(update, chunks=())
        await watched.publish_part(update, 0, b"not what the header announced")
        reasons = [
            "update of 'press-2' was published as press-1",
            "update from press-1: the signature does not verify",
            "malformed envelope",
            "exceeds its cap",
            "update header of press-1 0123456789abcdef/1 was published under another id",
            "update from mill-1, whose birth has not been seen",
            "not an update topic",
            "expected a agent-state message, got kind 'update'",
            "expected a report message, got kind 'update'",
            "does not have the announced SHA-256",
        ]
        await watched.until(
            lambda: all(reason in plant.log for reason in reasons) or None, "a line for each"
        )
        assert {receipt.status for receipt in watched.receipts("press-1")} <= {"wanted"}
        await watched.offer(update)
        await watched.receipt("press-1", "committed", 1)

    on_floor(plant, story)
    assert plant.log.count("WARNING") == 10
    assert status_of(plant)["updates"] == {"committed": 1, "duplicates": 0}


def test_a_chunk_that_got_lost_is_asked_for(plant: Plant, broker: Broker) -> None:
    plant.configure(GOAL_2, policy="bits = 16\n")
    plant.start()

    async def story(watched: Floor) -> None:
        head = await watched.head()
        site = await watched.birth("press-1")
        update = site.update(head.train, np.arange(P, dtype=np.int16))
        chunks = split(update.content, 256)
        assert len(chunks) == 5
        await watched.publish_part(update, 4, chunks[4])  # before its header: it does not count
        await watched.offer(update, chunks=(3, 0))
        wanted = await watched.receipt("press-1", "wanted", 1)
        assert from_bitmap(wanted.wanted) == [1, 2, 4]
        for index in (4, 1, 2):
            await watched.publish_part(update, index, chunks[index])
        await watched.receipt("press-1", "committed", 1)

    on_floor(plant, story)


def test_a_header_that_can_not_count_is_refused_before_its_chunks_come(
    plant: Plant, broker: Broker
) -> None:
    plant.start()

    async def story(watched: Floor) -> None:
        head = await watched.head()
        site = await watched.birth("press-1")
        await watched.offer(site.update(head.train, base_digest=bytes(32)), chunks=())
        refused = await watched.receipt("press-1", "refused", 1)
        assert refused.reason == "base version 0 is not one of ours"

    on_floor(plant, story)


def test_a_fresh_subscriber_verifies_everything_that_the_head_names(
    plant: Plant, broker: Broker
) -> None:
    plant.configure("[strategy]\ngoal = 1\n[gate]\nevery = 100\n")
    plant.start()

    async def learn(watched: Floor) -> None:
        site = await watched.birth("press-1")
        for version in range(1, 6):
            head = await watched.head(version=version - 1)
            await watched.offer(site.update(head.train))
            await watched.receipt("press-1", "folded", version)
        head = await watched.head(version=5)
        named = {head.train.content.digest.hex(), head.serve.content.digest.hex()}
        await watched.until(
            lambda: {t.split("/")[-2] for t in watched.model_topics()} == named or None,
            "old models to be cleared",
        )

    async def verify(watched: Floor) -> None:
        head = await watched.head()
        assert head.train.version == 5
        trust = read_charter((plant.keys / "charter.jm").read_bytes(), plant.root)
        bundle = read_bundle(watched.content("bundle", head.bundle), trust)
        served = read_params(watched.content("model", head.serve.content), bundle.manifest.shapes)
        assert flatten(served).tobytes() == flatten(PARAMS).tobytes()
        trained = watched.content("model", head.train.content)
        assert read_params(trained, bundle.manifest.shapes).keys() == PARAMS.keys()
        assert all(item.retained for item in watched.messages)
        assert {topic.split("/")[-2] for topic in watched.model_topics()} == {
            head.train.content.digest.hex(),
            head.serve.content.digest.hex(),
        }

    on_floor(plant, learn)
    on_floor(plant, verify)


def test_a_birth_is_answered_with_what_is_known_and_a_new_incarnation_raises_an_alarm(
    plant: Plant, broker: Broker
) -> None:
    plant.start()

    async def story(watched: Floor) -> None:
        head = await watched.head()
        site = await watched.birth("press-1")
        assert await watched.watermark("press-1") == (site.incarnation, 0)
        for sequence in (1, 2):
            await watched.offer(site.update(head.train))
            await watched.receipt("press-1", "committed", sequence)
        await watched.birth("press-1", session=2, produced=2)
        assert await watched.watermark("press-1", after=1) == (site.incarnation, 2)
        assert status_of(plant)["alarms"] == []
        await watched.birth("press-1", session=1, produced=1)  # from a backup of its card
        assert await watched.watermark("press-1", after=2) == (site.incarnation, 2)
        assert status_of(plant)["alarms"] == []  # what the agent makes of it is one
        old, site.incarnation = site.incarnation, "f" * 16
        await watched.birth("press-1", session=4)
        assert await watched.watermark("press-1", after=3) == ("f" * 16, 0)
        site.incarnation = old
        await watched.birth("press-1", session=4, status="offline")  # a late will: no news
        site.incarnation = "f" * 16
        await watched.offer(site.update(head.train))
        await watched.receipt("press-1", "committed", 3)

    on_floor(plant, story)
    (alarm,) = status_of(plant)["alarms"]
    assert (alarm["agent"], alarm["kind"], alarm["number"]) == ("press-1", "new incarnation", 1)
    assert "ffff after 0123" in alarm["detail"]


def test_a_broker_that_takes_small_packets_gets_small_chunks(plant: Plant, broker: Broker) -> None:
    broker.kill()
    broker.start("max_packet_size 2500\n")
    plant.configure("[strategy]\ngoal = 1\n", broker='protocol = "5"\n', chunk_bytes=120_000)
    plant.start()

    async def story(watched: Floor) -> None:
        head = await watched.head(at_least=2)
        assert {head.bundle.chunk_bytes, head.train.content.chunk_bytes} == {2000}
        site = await watched.birth("press-1")
        await watched.offer(site.update(head.train))
        moved = await watched.head(version=1)
        assert watched.content("model", moved.train.content)
        assert moved.train.content.chunk_bytes == 2000

    on_floor(plant, story)


def test_kill_9_between_commit_and_receipt_is_made_good_at_the_next_offer(
    plant: Plant, broker: Broker
) -> None:
    plant.configure(GOAL_2)
    process = plant.start(code=DIE_BEFORE_RECEIPTS)

    async def story(watched: Floor) -> None:
        head = await watched.head()
        site = await watched.birth("press-1")
        update = site.update(head.train)
        await watched.offer(update)
        await asyncio.to_thread(process.wait, 20)
        assert process.returncode == -signal.SIGKILL
        assert watched.receipts("press-1") == []
        began_s = time.monotonic()
        plant.start()
        await watched.until(
            lambda: [s.session for s in watched.coordinator_states() if s.status == "online"][1:],
            "the second birth",
        )
        assert time.monotonic() - began_s < 5  # most of it is starting Python
        await watched.offer(update, chunks=())
        await watched.receipt("press-1", "committed", 1)
        await watched.offer(site.update(head.train))
        await watched.receipt("press-1", "folded", 1)
        await watched.receipt("press-1", "folded", 2)
        sessions = [state.session for state in watched.coordinator_states()]
        assert sessions == [1, 1, 2]  # birth, will, birth

    on_floor(plant, story)
    assert status_of(plant)["updates"] == {"folded": 2, "duplicates": 1}


def test_a_broker_that_forgot_everything_is_told_again(plant: Plant, broker: Broker) -> None:
    plant.configure("[strategy]\ngoal = 1\n")
    plant.start()

    async def learn(watched: Floor) -> None:
        site = await watched.birth("press-1")
        await watched.offer(site.update((await watched.head()).train))
        await watched.head(version=1)

    async def verify(watched: Floor) -> None:
        head = await watched.head(version=1)
        await watched.until(
            lambda: [s for s in watched.coordinator_states() if s.status == "online"], "its birth"
        )
        for kind, content in (("bundle", head.bundle), ("model", head.train.content)):
            assert watched.content(kind, content)

    on_floor(plant, learn)
    broker.kill()
    broker.start()
    on_floor(plant, verify)


def test_a_stopped_coordinator_is_announced_as_offline(plant: Plant, broker: Broker) -> None:
    process = plant.start()

    async def story(watched: Floor) -> None:
        await watched.until(watched.coordinator_states, "its birth")
        assert await asyncio.to_thread(plant.stop, process) == 0
        await watched.until(
            lambda: watched.coordinator_states()[-1].status == "offline" or None, "its will"
        )

    on_floor(plant, story)


def test_a_late_will_of_the_coordinator_is_answered_with_a_new_birth(
    plant: Plant, broker: Broker
) -> None:
    """Agents that connect afterwards would read the will, and deliver nothing."""
    plant.start()

    async def first(watched: Floor) -> None:
        await watched.until(watched.coordinator_states, "its birth")

    async def story(watched: Floor) -> None:
        def newest() -> CoordinatorState | None:
            return watched.coordinator_states()[-1] if watched.coordinator_states() else None

        before = await watched.until(newest, "its birth")
        will = watched.sign(CoordinatorState(status="offline", session=1, connection=1))
        await watched.link.publish(TOPICS.coordinator_state, will, retain=True)
        after = await watched.until(
            lambda: newest() if len(watched.coordinator_states()) == 3 else None, "its new birth"
        )
        assert before == after == CoordinatorState(status="online", session=1, connection=2)

    on_floor(plant, first)
    broker.kill()
    broker.start()
    on_floor(plant, story)


def test_a_will_marks_its_agent_offline_and_one_of_an_earlier_connection_does_not(
    plant: Plant, broker: Broker
) -> None:
    plant.start()

    def status() -> str:
        return agents_of(plant).get("press-1", "")

    async def story(watched: Floor) -> None:
        await watched.head()
        await watched.birth("press-1", session=5)
        await watched.until(lambda: status() == "online" or None, "online")
        await watched.birth("press-1", session=5, status="offline")
        await watched.until(lambda: status() == "offline" or None, "offline")
        await watched.birth("press-1", session=6)
        await watched.until(lambda: status() == "online" or None, "online again")
        await watched.birth("press-1", session=5, status="offline")
        await watched.link.publish(TOPICS.report("press-1"), b"the mark behind it")
        await watched.until(lambda: "report/press-1" in plant.log or None, "the mark")
        assert status() == "online"

    on_floor(plant, story)


def test_a_newer_credential_replaces_the_older_one_for_good(plant: Plant, broker: Broker) -> None:
    plant.configure(GOAL_2)
    plant.start()

    async def with_old(watched: Floor) -> None:
        await watched.head()
        await watched.birth("press-1", session=9)

    async def with_new(watched: Floor) -> None:
        site = await watched.birth("press-1", session=1)
        await watched.offer(site.update((await watched.head()).train))
        await watched.receipt("press-1", "committed", 1)

    on_floor(plant, with_old)
    key, credential = plant.keys / "press-1.key", plant.keys / "press-1.credential"
    old = key.read_bytes(), credential.read_bytes()
    key.unlink()
    make_agent(plant.keys, "plant-net", "press-1", "site-a", serial=50)
    on_floor(plant, with_new)
    key.write_bytes(old[0])
    credential.write_bytes(old[1])

    async def with_old_again(watched: Floor) -> None:
        await watched.birth("press-1", session=20, is_answered=False)
        reason = "credential 1 of press-1 was replaced by 50"
        await watched.until(lambda: reason in plant.log or None, "the refusal")

    on_floor(plant, with_old_again)


def test_close_open_status_and_check_say_what_they_do(plant: Plant, broker: Broker) -> None:
    before = command(plant, "status")
    assert before.returncode == 2
    assert "no state in" in before.stderr
    checked = command(plant, "check")
    assert checked.returncode == 0
    assert "federation plant-net, bundle spindle revision 1, strategy fedbuff" in checked.stdout
    plant.start()

    async def story(watched: Floor) -> None:
        assert (await watched.head()).training == "open"
        await watched.birth("press-1")
        await watched.until(lambda: agents_of(plant) == {"press-1": "online"} or None, "press-1")
        assert (await asyncio.to_thread(command, plant, "close")).returncode == 0
        assert (await watched.head(at_least=2)).training == "closed"
        assert (await asyncio.to_thread(command, plant, "open")).returncode == 0
        assert (await watched.head(at_least=3)).training == "open"

    on_floor(plant, story)
    said = status_of(plant)
    assert said["agents"] == [{"agent": "press-1", "site": "site-a", "status": "online"}]
    assert (said["training"], said["version"], said["head"]) == ("open", 0, 3)


def test_an_order_reaches_the_agent_now_and_again_with_its_next_birth(
    plant: Plant, broker: Broker
) -> None:
    plant.start()

    async def story(watched: Floor) -> None:
        await watched.head()
        await watched.birth("press-1")
        await watched.until(lambda: agents_of(plant) == {"press-1": "online"} or None, "press-1")
        unknown = await asyncio.to_thread(command, plant, "pause", "press-9")
        assert unknown.returncode == 2
        assert "no agent 'press-9' has been seen; known: press-1" in unknown.stderr
        assert (await asyncio.to_thread(command, plant, "pause", "press-1")).returncode == 0
        await watched.until(lambda: orders(watched) == ["pause"] or None, "the order")
        await watched.birth("press-1", session=2)
        await watched.until(lambda: orders(watched) == ["pause"] * 2 or None, "the order again")

    on_floor(plant, story)


def orders(watched: Floor) -> list[str]:
    """Names of the commands in the inbox of press-1, each verified."""
    key = read_private_key(watched.keys / "coordinator.key").public
    topic = TOPICS.to("press-1")
    payloads = [item.payload for item in watched.messages if item.topic == topic]
    return [
        unseal(data, Command, federation=TOPICS.federation, signer=COORDINATOR, key=key)[0].name
        for data in payloads
        if b"command" in data[:24]  # others answer births
    ]


def test_a_second_coordinator_on_the_same_state_is_refused(plant: Plant, broker: Broker) -> None:
    plant.start()

    async def story(watched: Floor) -> None:
        await watched.head()

    on_floor(plant, story)
    second = command(plant, "run")
    assert second.returncode == 2
    assert "coordinator.toml:2: coordinator.state_dir: can not use" in second.stderr
    assert "another coordinator runs on it" in second.stderr


def test_a_password_file_that_is_missing_ends_the_run_as_a_configuration_error(
    plant: Plant, broker: Broker
) -> None:
    text = plant.config.read_text().replace(
        "keepalive_s = 5", 'username = "x"\npassword_file = "secret"'
    )
    plant.config.write_text(text)
    ended = command(plant, "run")
    assert ended.returncode == 2
    assert f"{plant.directory / 'secret'}: broker.password_file: can not read" in ended.stderr


def test_a_report_that_is_replayed_is_refused(plant: Plant, broker: Broker) -> None:
    plant.start()

    async def story(watched: Floor) -> None:
        head = await watched.head()
        await watched.birth("press-1")
        await watched.report("press-1", head)
        topic = TOPICS.report("press-1")
        first = await watched.until(
            lambda: [item.payload for item in watched.messages if item.topic == topic], "the report"
        )
        await watched.report("press-1", head)
        await watched.link.publish(topic, first[0])
        await watched.until(
            lambda: "report from press-1: counter 4294967298 is not above" in plant.log or None,
            "the refusal",
        )

    on_floor(plant, story)
    assert plant.log.count("WARNING") == 1


@pytest.mark.parametrize("restart", [False, True])
def test_fedavg_prints_each_round_once_when_all_sites_reported(
    plant: Plant, broker: Broker, restart: bool
) -> None:
    plant.configure("[strategy]\nclients = 2\n")
    plant.start(strategy="fedavg")

    async def story(watched: Floor) -> None:
        sites = {agent: await watched.birth(agent) for agent in ("press-1", "press-2")}
        for version in range(3):
            head = await watched.head(version=version)
            for agent in sites:
                await watched.report(agent, head)
            await watched.report("press-1", head)  # again, and still one line
            if version == 1 and restart:
                await watched.until(lambda: "round 1:" in plant.said or None, "the line")
                await asyncio.to_thread(plant.stop, plant.running[-1], signal.SIGKILL)
                plant.start(strategy="fedavg")
                await watched.until(
                    lambda: watched.coordinator_states()[-1].session == 2 or None, "its birth"
                )
            for agent, site in sites.items():
                await watched.offer(site.update(head.train))
                await watched.receipt(agent, "committed", version + 1)
        await watched.report("press-1", await watched.head(version=3))
        lines = "".join(f"round {number}: PR-AUC" for number in range(3))
        await watched.until(lambda: plant.said.count("round") == 3 or None, lines)

    on_floor(plant, story)
    lines = plant.said.splitlines()
    assert [line.split(":")[0] for line in lines] == ["round 0", "round 1", "round 2"]
    assert all("PR-AUC 0." in line and line.endswith("of 2 sites") for line in lines)

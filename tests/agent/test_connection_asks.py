"""Asking and being granted: by the learner alone, and by the whole program over a real broker."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from agent.config import Identity
from tests.agent.federation import AGENT, FEDERATION, POLICY, Federation, feed
from tests.agent.test_agent_process import (
    Coordinator,
    RunScenario,
    Site,
    beside,
    machine,
    site,
)
from tests.agent.test_learner import Site as Learning
from tests.agent.test_learner import failing_rows, learning
from wire.codec import seal
from wire.messages import Command, Grant, Readiness, Receipt
from wire.mqtt import Received
from wire.trust import COORDINATOR

__all__ = ["beside", "machine", "site"]

GRANTED = msgspec.structs.replace(POLICY, admission="granted")
LATER_S = 1000.0


def now_s() -> float:
    return asyncio.get_running_loop().time()


def test_a_learner_trains_once_for_each_grant(
    federation: Federation, identity: Identity, tmp_path: Path
) -> None:
    async def scenario(site: Learning) -> None:
        turn = site.learner.turn
        site.history.append(failing_rows(100))
        feed(site.adoption, federation.publish(1, version=3, policy=GRANTED))
        await site.until(lambda: site.status.learning.startswith("waiting for the link"))
        turn.on_link(is_up=True, now_s=now_s())
        await site.until(lambda: site.status.learning == "asking to train")
        assert turn.is_due(now_s())
        assert site.outbox.produced == 0
        turn.on_grant(Grant(number=5, base_version=3))
        await site.until(lambda: site.outbox.produced == 1)
        await site.until(lambda: site.status.learning == "waiting for a version after 3")
        feed(site.adoption, federation.publish(2, version=4, policy=GRANTED))
        turn.on_grant(Grant(number=5, base_version=3))  # said again: it is no new leave
        await site.until(lambda: site.status.learning == "asking to train")
        assert site.outbox.produced == 1
        turn.on_grant(Grant(number=6, base_version=4))
        await site.until(lambda: site.outbox.produced == 2)

    learning(federation, identity, tmp_path, scenario)


@pytest.mark.parametrize("why", ["paused by command", "training is closed"])
def test_who_may_not_train_asks_no_more_and_holds_nobodys_slot(
    federation: Federation, identity: Identity, tmp_path: Path, why: str
) -> None:
    async def scenario(site: Learning) -> None:
        turn = site.learner.turn
        turn.on_link(is_up=True, now_s=now_s())
        site.history.append(failing_rows(100))
        feed(site.adoption, federation.publish(1, policy=GRANTED))
        await site.until(lambda: turn.is_due(now_s() + LATER_S))
        if why == "training is closed":
            feed(site.adoption, federation.publish(2, policy=GRANTED, training="closed"))
        else:
            site.learner.operator.paused = True
        await site.until(lambda: site.status.learning == why)
        assert not turn.is_due(now_s() + LATER_S)
        if why == "paused by command":
            site.learner.operator.paused = False
            await site.until(lambda: turn.is_due(now_s() + LATER_S))

    learning(federation, identity, tmp_path, scenario)


def test_under_calibration_an_agent_waits_for_the_outcome_of_each_update(
    federation: Federation, identity: Identity, tmp_path: Path
) -> None:
    policy = msgspec.structs.replace(POLICY, calibration=1.0, updates_per_version=5)

    async def scenario(site: Learning) -> None:
        site.history.append(failing_rows(100))
        feed(site.adoption, federation.publish(1, policy=policy))
        await site.until(lambda: site.status.learning.startswith("waiting for the outcome of"))
        assert site.outbox.produced == 1
        (made,) = site.outbox.open_updates()
        dropped = Receipt(incarnation=made.incarnation, sequence=made.sequence, status="dropped")
        site.outbox.settle((dropped,), 1)
        await site.until(lambda: site.outbox.produced == 2)
        (other,) = site.outbox.open_updates()
        await site.until(
            lambda: site.status.learning == f"waiting for the outcome of update {other}"
        )

    learning(federation, identity, tmp_path, scenario)


def test_the_program_asks_is_granted_trains_and_takes_grants_from_nobody_else(
    site: Site, beside: RunScenario, federation: Federation, identity: Identity
) -> None:
    topics = federation.topics

    async def asks(coordinator: Coordinator, base_version: int) -> Readiness:
        def accept(message: Received) -> Readiness | None:
            if message.topic != topics.ask(AGENT):
                return None
            readiness = coordinator.verified(message.payload, Readiness)
            return readiness if readiness.base_version == base_version else None

        return await coordinator.first(accept)

    async def scenario(coordinator: Coordinator) -> None:
        site.start()
        await coordinator.publish(federation.publish(1, version=3, policy=GRANTED))
        await site.until(lambda at: at.learning.startswith("waiting for the link"))
        await coordinator.is_online()
        asked = await asks(coordinator, 3)
        assert asked.examples >= POLICY.min_rows
        assert asked.loss is None  # of a training that has not been
        forged = seal(
            Grant(number=90, base_version=3),
            federation=FEDERATION,
            signer=COORDINATOR,
            counter=1 << 40,
            key=identity.key,
        )
        await coordinator.link.publish(topics.to(AGENT), forged)
        status = await site.until(lambda at: "signature" in at.refused)
        assert (status.produced, coordinator.headers_seen()) == (0, set())
        await coordinator.send(Grant(number=7, base_version=3))
        header = await coordinator.header(1)
        assert header.base_version == 3
        await coordinator.settle(header, "folded", version=4)
        await coordinator.publish(federation.publish(2, version=4, policy=GRANTED))
        assert (await asks(coordinator, 4)).loss is not None
        await coordinator.send(Command(name="pause"))
        await site.until(lambda at: at.learning == "paused by command")
        await coordinator.send(Grant(number=8, base_version=4))
        await coordinator.send(Command(name="resume"))
        assert (await coordinator.header(2)).base_version == 4

    beside(scenario)

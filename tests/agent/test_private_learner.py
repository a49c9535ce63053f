"""A whole agent under a private policy: what it waits for, what it sends, when it stops."""

import asyncio
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.asking import Decision
from agent.conditions import Conditions
from agent.config import Identity
from agent.making import Trained, make_update
from agent.outbox import Outbox
from agent.own_privacy import open_privacy
from agent.privacy import FILE_NAME, Ledger, Privacy, PrivacyTable, read_account
from agent.privacy.cost import cost_of
from agent.turn import Turn
from tests.agent.federation import AGENT, POLICY, Federation, feed
from tests.agent.test_agent_process import (
    Coordinator,
    RunScenario,
    Site,
    beside,
    machine,
    site,
)
from tests.agent.test_learner import Site as Learning
from tests.agent.test_learner import adopted, failing_rows, header_of, learning
from wire.codec import Counter
from wire.messages import Policy, Receipts, Spent
from wire.tensors import flatten, read_integers

__all__ = ["beside", "machine", "site"]

BUDGET = PrivacyTable(epsilon=3.0, delta=1e-6)
UPDATE = msgspec.structs.replace(
    POLICY,
    privacy="update",
    noise_multiplier=4.0,
    clip_norm=0.1,
    bits=16,
    scale=1e-3,
    updates_per_version=100,
)
RECORD = msgspec.structs.replace(POLICY, privacy="record", noise_multiplier=1.5, batch_size=20)


@pytest.mark.parametrize("policy", [UPDATE, RECORD])
def test_a_learner_waits_for_its_mark_charges_each_update_and_stops_at_the_budget(
    federation: Federation, identity: Identity, tmp_path: Path, policy: Policy
) -> None:
    policy = msgspec.structs.replace(policy, updates_per_version=100)

    async def scenario(site: Learning) -> None:
        privacy = site.learner.privacy = Privacy(BUDGET, Ledger(tmp_path))
        site.history.append(failing_rows(200))
        feed(site.adoption, federation.publish(1, policy=policy))
        await site.until(lambda: "waiting for the coordinator's word" in site.status.learning)
        assert site.outbox.produced == 0
        privacy.on_mark(Spent())
        await site.until(lambda: site.status.learning.startswith("privacy budget spent"))
        assert privacy.report().releases == site.outbox.produced > 1
        assert privacy.report().epsilon <= 3.0
        assert privacy.report().releases_left == 0
        marks = [header_of(site.outbox, at, identity) for at in (1, 2)]
        cost = cost_of(policy, marks[0].examples, 1)
        assert [header.spent and header.spent.releases for header in marks] == [1, 2]
        assert marks[0].spent == cost
        assert bool(cost.sampled) is (policy.privacy == "record")

    learning(federation, identity, tmp_path, scenario)


def test_an_agent_that_asks_under_privacy_tells_neither_its_loss_nor_how_its_rows_differ(
    tmp_path: Path,
) -> None:
    turn = Turn(tmp_path, 5000, asyncio.Event())
    turn.on_link(is_up=True, now_s=0.0)
    turn.made(Decision("train"), ("0" * 16, 1), 0.25, 0.0)
    rows = np.random.default_rng(0).standard_normal((5000, 3)).astype(np.float32)
    told = []
    for at, is_private in enumerate((False, True, True)):
        turn.wish(1, 5000, bytes(32), lambda: rows, is_private=is_private)
        turn.on_link(is_up=False, now_s=1000.0 * at)
        turn.on_link(is_up=True, now_s=1000.0 * at)
        asked = turn.next_ask(Conditions(), 1000.0 * at)
        assert asked is not None
        told.append((asked.loss, len(asked.novelty), asked.examples))
    assert told == [(0.25, 64, 5000), (None, 0, 5000), (None, 0, 5000)]


def test_an_update_that_was_not_charged_can_not_be_made(
    federation: Federation, identity: Identity
) -> None:
    base = adopted(federation, policy=UPDATE)
    outbox = Outbox(":memory:", 1 << 30)
    with pytest.raises(ValueError, match="charged before"):
        make_update(base, Trained(base.train, 100), identity, outbox, Counter(1))
    assert outbox.produced == 0


def test_what_is_sent_is_the_clipped_delta_and_noise(
    federation: Federation, identity: Identity
) -> None:
    base = adopted(federation, policy=UPDATE)
    far = {name: value + 1.0 for name, value in base.train.items()}
    outbox = Outbox(":memory:", 1 << 30)
    parameters = len(flatten(base.train))
    found = []
    for _ in range(60):
        made = make_update(base, Trained(far, 100), identity, outbox, Counter(1), spent=Spent())
        offer = outbox.offer(made)
        assert offer is not None
        assert offer.content is not None
        found.append(read_integers(offer.content, 16, parameters) * UPDATE.scale)
    noise = np.array(found) - 0.1 / np.sqrt(parameters)
    # Rounding adds at most a quarter of a step's square, which here is nothing.
    assert abs(noise.std() / 0.4 - 1) < 6 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 6 * 0.4 / np.sqrt(noise.size)
    assert len({tuple(row) for row in found}) == 60


def test_marks_of_updates_that_still_wait_are_found_in_the_outbox(
    federation: Federation, identity: Identity, tmp_path: Path
) -> None:
    base = adopted(federation, policy=UPDATE)
    outbox = Outbox(tmp_path / "outbox.db", 1 << 30)
    spent = Spent()
    first = open_privacy(BUDGET, outbox, tmp_path)
    first.on_mark(Spent())
    for _ in range(2):
        charged = first.charge(UPDATE, 100)
        assert charged is not None
        make_update(base, Trained(base.train, 100), identity, outbox, Counter(1), spent=charged)
        spent = charged
    (tmp_path / FILE_NAME).unlink()
    again = open_privacy(BUDGET, outbox, tmp_path)
    again.on_mark(Spent())
    account = read_account(tmp_path / FILE_NAME)
    outbox.close()
    assert account is not None
    assert account.spent == spent


def test_the_program_makes_no_private_update_before_its_birth_was_answered(
    site: Site, beside: RunScenario, federation: Federation
) -> None:
    site.config.write_text(site.config.read_text() + "\n[privacy]\nepsilon = 3\n")
    ledger = site.config.parent / "state" / FILE_NAME

    def mark(spent: Spent, incarnation: str) -> Receipts:
        return Receipts(incarnation=incarnation, highest=0, spent=spent)

    async def scenario(coordinator: Coordinator) -> None:
        await coordinator.is_online()
        await coordinator.publish(federation.publish(1, policy=UPDATE))
        process = site.start()
        birth = await coordinator.state("online")
        status = await site.until(lambda status: "coordinator's word" in status.learning)
        assert status.privacy is not None
        assert status.privacy.unit == "update"
        assert status.privacy.refused == status.learning
        assert coordinator.headers_seen() == set()
        five = Spent(gaussian=5 / 16, releases=5)  # an earlier life of this agent spent that
        await coordinator.send(mark(five, birth.incarnation))
        header = await coordinator.header(1)
        assert header.spent == Spent(gaussian=6 / 16, releases=6)
        status = await site.until(lambda status: "budget spent" in status.learning)
        assert coordinator.headers_seen() == {1}
        process.terminate()
        process.wait()
        ledger.unlink()  # the next life has forgotten all but its outbox
        site.start()
        after = await coordinator.state("online", above_session=birth.session)
        await site.until(lambda status: "coordinator's word" in status.learning)
        await coordinator.send(mark(five, after.incarnation))
        await site.until(lambda status: "budget spent" in status.learning)
        assert coordinator.headers_seen() == {1}

    beside(scenario)
    account = read_account(ledger)
    assert account is not None
    assert account.spent.releases == 6
    said = subprocess.run(
        [sys.executable, "-m", "agent.main", "privacy", site.config],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert "budget: epsilon 3 at delta 1e-06" in said
    assert "on 6 updates" in said
    assert "left: 0 updates" in said
    assert AGENT not in said

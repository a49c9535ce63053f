"""When an agent trains, and what one training puts into the outbox."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent.learner
from agent.adoption import Adopted, Adoption
from agent.config import Identity
from agent.history import History
from agent.learner import (
    Learner,
    PolicyError,
    plan_for,
    reason_to_wait,
)
from agent.learning.checkpoint import Checkpoint
from agent.learning.losses import Loss
from agent.learning.train import train
from agent.learning.worker import TrainingProcess
from agent.making import Trained, make_update
from agent.models import Models
from agent.orders import Operator
from agent.outbox import Outbox, UpdateId
from agent.signals.rows import Rows, joined, rows_of
from agent.status import Status
from agent.turn import Turn
from agent.unfinished import Unfinished
from tests.agent.federation import (
    AGENT,
    CHANNELS,
    FEDERATION,
    POLICY,
    SITE,
    Federation,
    agent_toml,
    feed,
)
from wire.chunks import Assembly, split
from wire.codec import Counter, unseal
from wire.messages import Policy, UpdateHeader
from wire.tensors import Params, flatten, read_integers, unflatten


def adopted(federation: Federation, **more: object) -> Adopted:
    adoption = Adoption(Models(":memory:"), federation.trust, CHANNELS)
    feed(adoption, federation.publish(1, **more))  # type: ignore[arg-type]
    assert adoption.current is not None
    return adoption.current


def policy(**changes: object) -> Policy:
    return msgspec.structs.replace(POLICY, **changes)


def header_of(outbox: Outbox, sequence: int, identity: Identity) -> UpdateHeader:
    offer = outbox.offer(UpdateId(outbox.incarnation, sequence))
    assert offer is not None
    header, _ = unseal(
        offer.header, UpdateHeader, federation=FEDERATION, signer=AGENT, key=identity.key.public
    )
    return header


def test_training_starts_when_nothing_speaks_against_it(federation: Federation) -> None:
    assert reason_to_wait(adopted(federation), 64, 0, Operator()) == ""


def test_each_reason_to_wait_is_said(federation: Federation) -> None:
    usual = adopted(federation, version=3)
    closed = adopted(federation, training="closed")
    twice = adopted(federation, policy=policy(updates_per_version=2))
    assert reason_to_wait(None, 1000, 0, Operator()) == "waiting for a model"
    assert reason_to_wait(closed, 1000, 0, Operator()) == "training is closed"
    assert reason_to_wait(usual, 1000, 0, Operator(paused=True)) == "paused by command"
    assert reason_to_wait(usual, 63, 0, Operator()) == "waiting for rows (63 of 64)"
    assert reason_to_wait(usual, 64, 1, Operator()) == "waiting for a version after 3"
    assert reason_to_wait(twice, 64, 1, Operator()) == ""
    assert reason_to_wait(twice, 64, 2, Operator()) == "waiting for a version after 0"


def test_the_seed_differs_by_agent_and_version_and_nothing_else() -> None:
    seeds = {
        plan_for(POLICY, name, version, Loss.BINARY_CROSS_ENTROPY).seed
        for name in ("gw-1", "gw-2")
        for version in range(20)
    }
    assert len(seeds) == 40
    assert plan_for(POLICY, "gw-1", 7, Loss.BINARY_CROSS_ENTROPY) == plan_for(
        POLICY, "gw-1", 7, Loss.BINARY_CROSS_ENTROPY
    )


def test_the_plan_is_the_heads_policy() -> None:
    plan = plan_for(
        policy(epochs=3, proximal=0.5, average_tail=0.25, optimizer="sgd"),
        "gw",
        1,
        Loss.BINARY_CROSS_ENTROPY,
    )
    assert (plan.epochs, plan.proximal, plan.average_tail, plan.optimizer) == (3, 0.5, 0.25, "sgd")
    assert plan.batch_size == POLICY.batch_size
    assert plan.learning_rate == POLICY.learning_rate


def test_how_images_may_lie_is_the_bundles_to_say() -> None:
    found = [
        plan_for(POLICY, "gw", 1, Loss.CROSS_ENTROPY, symmetry).symmetry
        for symmetry in ("none", "mirror", "square")
    ]
    assert found == ["none", "mirror", "square"]
    assert plan_for(POLICY, "gw", 1, Loss.CROSS_ENTROPY).symmetry == "none"


def test_a_policy_that_nobody_can_follow_is_named() -> None:
    with pytest.raises(PolicyError, match="learning_rate"):
        plan_for(policy(learning_rate=0.0), "gw", 1, Loss.BINARY_CROSS_ENTROPY)


@given(st.floats(1e-6, 3.0), st.integers(0, 2**32 - 1))
def test_an_update_is_trained_minus_base_within_one_step_of_the_scale(
    federation: Federation, identity: Identity, size: float, seed: int
) -> None:
    base = adopted(federation, version=4)
    shapes = base.model.manifest.shapes
    start = flatten(base.train)
    direction = np.random.default_rng(seed).standard_normal(len(start))
    delta = direction * (size / np.linalg.norm(direction))
    trained = Trained(unflatten(start + delta, shapes), 500)
    outbox = Outbox(":memory:", 1 << 30)
    made = make_update(base, trained, identity, outbox, Counter(1))
    offer = outbox.offer(made)
    assert offer is not None
    assert offer.content is not None
    header = header_of(outbox, made.sequence, identity)
    steps = read_integers(offer.content, 8, len(start))
    inside = np.abs(delta) < 126 * POLICY.scale
    error = np.abs(steps * header.scale - delta)[inside]
    assert np.all(error < POLICY.scale * 1.01)
    assert header.saturated <= np.count_nonzero(~inside)
    outbox.close()


def test_the_header_names_base_content_and_a_capped_weight(
    federation: Federation, identity: Identity
) -> None:
    base = adopted(federation, version=4, policy=policy(weight_cap=300))
    outbox = Outbox(":memory:", 1 << 30)
    made = make_update(base, Trained(base.train, 500), identity, outbox, Counter(1))
    header = header_of(outbox, made.sequence, identity)
    offer = outbox.offer(made)
    assert offer is not None
    assert offer.content is not None
    assembly = Assembly(header.content)
    for at, chunk in enumerate(split(offer.content)):
        assembly.add(at, chunk)
    assert assembly.join() == offer.content
    assert (header.incarnation, header.sequence) == (outbox.incarnation, 1)
    assert (header.base_version, header.base_digest) == (4, base.head.train.content.digest)
    assert (header.examples, header.weight, header.dropped) == (500, 300, "")


def test_a_long_delta_is_clipped_to_the_policys_norm(
    federation: Federation, identity: Identity
) -> None:
    base = adopted(federation, policy=policy(clip_norm=0.5, scale=0.001, bits=16))
    start = flatten(base.train)
    far = unflatten(start + 10.0, base.model.manifest.shapes)
    outbox = Outbox(":memory:", 1 << 30)
    offer = outbox.offer(make_update(base, Trained(far, 100), identity, outbox, Counter(1)))
    assert offer is not None
    assert offer.content is not None
    delta = read_integers(offer.content, 16, len(start)) * 0.001
    assert abs(float(np.linalg.norm(delta)) - 0.5) < 0.001 * len(start) ** 0.5
    assert np.all(delta >= 0.0)


@dataclass
class Site:
    """A learner with a real training process and rows to learn from."""

    learner: Learner
    adoption: Adoption
    history: History
    outbox: Outbox
    status: Status

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(1500):
            if holds():
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"never so: {self.status}")


def failing_rows(number: int, start: int = 0) -> Rows:
    """Products whose failure depends on torque."""
    rng = np.random.default_rng(start)
    values = []
    for at in range(start, start + number):
        torque = float(rng.normal(40, 10))
        values.append((300.0, 310.0, 1500.0, torque, 100.0, float(torque > 50), float(at)))
    return rows_of(values, range(start, start + number))


def learning(
    federation: Federation,
    identity: Identity,
    directory: Path,
    scenario: Callable[[Site], Awaitable[None]],
    quota_bytes: int = 1 << 30,
    cancels: int = 1,
    checkpoint_s: float = 0.05,
) -> None:
    """Run a scenario beside a learner's task, which is cancelled at its end, once or harder."""

    async def run() -> None:
        history = History(directory / "history.db", CHANNELS, 500, 0.1)
        outbox = Outbox(directory / "outbox.db", quota_bytes)
        adoption = Adoption(Models(directory / "models.db"), federation.trust, CHANNELS)
        status = Status(agent=AGENT, site=SITE, federation=FEDERATION, pid=1)
        async with TrainingProcess(idle_s=60.0) as process:
            learner = Learner(
                adoption,
                history,
                outbox,
                process,
                identity,
                Counter(outbox.next_session()),
                Operator(),
                status,
                0.0,
                asyncio.Event(),
                Unfinished(directory),
                Turn(directory, 0, adoption.changed),
                checkpoint_s=checkpoint_s,
            )
            task = asyncio.create_task(learner.run())
            try:
                await scenario(Site(learner, adoption, history, outbox, status))
                assert not task.done(), "the learner's task ended"
            finally:
                for _ in range(cancels):
                    task.cancel()
                    await asyncio.sleep(0)
                await asyncio.wait([task])
        history.close()
        outbox.close()

    asyncio.run(run())


def test_one_update_is_made_from_each_version_and_says_what_it_saw(
    federation: Federation, identity: Identity, tmp_path: Path
) -> None:
    async def scenario(site: Site) -> None:
        await site.until(lambda: site.status.learning == "waiting for a model")
        feed(site.adoption, federation.publish(1))
        await site.until(lambda: site.status.learning == "waiting for rows (0 of 64)")
        site.history.append(failing_rows(400))
        await site.until(lambda: site.status.learning == "waiting for a version after 0")
        assert site.outbox.produced == 1
        header = header_of(site.outbox, 1, identity)
        assert header.examples == site.history.training_rows() < 400
        feed(site.adoption, federation.publish(2, version=1, train=federation.moved(0.01)))
        await site.until(lambda: site.outbox.produced == 2)
        assert header_of(site.outbox, 2, identity).base_version == 1

    learning(federation, identity, tmp_path, scenario)


def test_a_failed_training_is_shown_and_does_not_end_the_task(
    federation: Federation, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.learner, "_AFTER_FAILURE_S", 0.2)

    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(200))
        diverging = policy(learning_rate=1e12, optimizer="sgd", epochs=5)
        feed(site.adoption, federation.publish(1, policy=diverging))
        await site.until(lambda: site.status.learning.startswith("training failed: Training"))
        feed(site.adoption, federation.publish(2, policy=policy(learning_rate=0.0)))
        await site.until(lambda: "learning_rate" in site.status.learning)
        assert site.outbox.produced == 0
        feed(site.adoption, federation.publish(3))
        await site.until(lambda: site.outbox.produced == 1)

    learning(federation, identity, tmp_path, scenario)


def test_an_update_over_the_quota_ends_as_a_tombstone_of_the_same_content(
    federation: Federation, identity: Identity, tmp_path: Path
) -> None:
    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(100))
        feed(site.adoption, federation.publish(1, policy=policy(updates_per_version=3)))
        await site.until(lambda: site.status.learning == "waiting for a version after 0")
        offers = [site.outbox.offer(at) for at in site.outbox.open_updates()]
        headers = [header_of(site.outbox, at, identity) for at in (1, 2, 3)]
        assert [header.dropped for header in headers] == ["quota", "quota", ""]
        assert [offer is not None and offer.content is not None for offer in offers] == [
            False,
            False,
            True,
        ]
        assert headers[0].content.size == headers[2].content.size
        assert [header.sequence for header in headers] == [1, 2, 3]

    learning(federation, identity, tmp_path, scenario, quota_bytes=700)


ROOT = Path(__file__).resolve().parents[2]
LONG = policy(epochs=1000, average_tail=0.5)
CHECKPOINT, ROWS = "training.checkpoint", "training.rows"


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[Trained]:
    """What trainings gave before it was quantized, which is random."""
    found: list[Trained] = []

    def noted(base: Adopted, trained: Trained, *rest: Any) -> UpdateId:
        found.append(trained)
        return make_update(base, trained, *rest)

    monkeypatch.setattr(agent.learner, "make_update", noted)
    return found


def expected_params(federation: Federation, directory: Path) -> Params:
    """Train in this process, without a stop, on what the history holds now."""
    base = adopted(federation, policy=LONG)
    history = History(directory / "history.db", CHANNELS, 500, 0.1)
    examples = base.examples(history.read(held_out=False))
    history.close()
    labels = examples.labels.astype(np.float32).reshape(-1, 1)
    plan = plan_for(LONG, AGENT, 0, Loss.BINARY_CROSS_ENTROPY)
    return train(base.model.backend, base.train, examples.inputs, labels, plan).params


def begin(
    federation: Federation, identity: Identity, directory: Path, cancels: int
) -> dict[str, bytes]:
    """Cut a training short after its first checkpoint; return the files it leaves."""

    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(400, start=1000))
        feed(site.adoption, federation.publish(1, policy=LONG))
        await site.until((directory / CHECKPOINT).exists)

    learning(federation, identity, directory, scenario, cancels=cancels)
    return {name: (directory / name).read_bytes() for name in (CHECKPOINT, ROWS)}


def steps_in(directory: Path) -> int:
    return Checkpoint.load(directory / CHECKPOINT).progress.optimizer.steps


async def ends(site: Site) -> None:
    await site.until(lambda: site.outbox.produced == 1)
    await site.until(lambda: site.status.learning == "waiting for a version after 0")


@pytest.mark.parametrize("cancels", [1, 2])
def test_a_training_cut_short_by_a_stop_or_a_kill_ends_as_one_that_was_not(
    federation: Federation,
    identity: Identity,
    tmp_path: Path,
    learned: list[Trained],
    caplog: pytest.LogCaptureFixture,
    cancels: int,
) -> None:
    caplog.set_level("INFO")
    begin(federation, identity, tmp_path, cancels)
    expected = expected_params(federation, tmp_path)
    assert not learned

    async def scenario(site: Site) -> None:
        # New rows, late rows between the old ones, and a full ring that forgot the oldest.
        site.history.append(joined([failing_rows(300, start=5000), failing_rows(100, start=900)]))
        await ends(site)

    learning(federation, identity, tmp_path, scenario)
    assert "going on with the training from version 0" in caplog.text
    (trained,) = learned
    assert np.array_equal(flatten(trained.params), flatten(expected))
    assert trained.examples < 400
    assert not (tmp_path / CHECKPOINT).exists()
    assert not (tmp_path / ROWS).exists()


@pytest.mark.parametrize(("cancels", "kept"), [(1, True), (2, False)])
def test_a_graceful_stop_asks_for_a_checkpoint_and_a_hard_one_does_not(
    federation: Federation, identity: Identity, tmp_path: Path, cancels: int, kept: bool
) -> None:
    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(400, start=1000))
        feed(site.adoption, federation.publish(1, policy=LONG))
        for _ in range(2):  # the second has just come, so the next is not on its way
            await site.until((tmp_path / CHECKPOINT).exists)
            (tmp_path / CHECKPOINT).unlink()

    learning(federation, identity, tmp_path, scenario, cancels=cancels, checkpoint_s=0.2)
    assert (tmp_path / CHECKPOINT).exists() is kept


def test_a_second_start_goes_on_from_the_last_step_without_writing_the_rows_again(
    federation: Federation, identity: Identity, tmp_path: Path
) -> None:
    begin(federation, identity, tmp_path, 1)
    first = steps_in(tmp_path)
    assert first > 0
    rows = (tmp_path / ROWS).stat()

    async def scenario(site: Site) -> None:
        await site.until(lambda: steps_in(tmp_path) > first)

    learning(federation, identity, tmp_path, scenario)
    assert (tmp_path / ROWS).stat().st_ino == rows.st_ino, "the rows were written again"


LEARNER = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace
from tests.agent.federation import read_back
from tests.agent.test_learner import learning
_, identity = read_back(Path(sys.argv[1]))
forever = lambda site: asyncio.Event().wait()
learning(SimpleNamespace(trust=identity.trust), identity, Path(sys.argv[2]), forever)
"""


def test_after_kill_9_of_the_whole_process_training_goes_on_from_the_last_checkpoint(
    federation: Federation,
    identity: Identity,
    tmp_path: Path,
    learned: list[Trained],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    config, state = tmp_path / "agent.toml", tmp_path / "state"
    config.write_text(agent_toml(federation))
    state.mkdir()
    history, models = History(state / "history.db", CHANNELS, 500, 0.1), Models(state / "models.db")
    history.append(failing_rows(400, start=1000))
    feed(Adoption(models, federation.trust, CHANNELS), federation.publish(1, policy=LONG))
    models.close()
    history.close()
    command = [sys.executable, "-c", LEARNER, str(config), str(state)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        while not (state / CHECKPOINT).exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    expected = expected_params(federation, state)

    learning(federation, identity, state, ends)
    assert "going on with the training from version 0" in caplog.text
    (trained,) = learned
    assert np.array_equal(flatten(trained.params), flatten(expected))


def test_a_killed_child_goes_on_from_the_last_checkpoint(
    federation: Federation,
    identity: Identity,
    tmp_path: Path,
    learned: list[Trained],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent.learner, "_AFTER_FAILURE_S", 0.01)

    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(400, start=1000))
        feed(site.adoption, federation.publish(1, policy=LONG))
        await site.until((tmp_path / CHECKPOINT).exists)
        pid = site.learner.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await ends(site)
        assert site.learner.process.pid != pid

    learning(federation, identity, tmp_path, scenario)
    (trained,) = learned
    expected = expected_params(federation, tmp_path)
    assert np.array_equal(flatten(trained.params), flatten(expected))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("another version", "from version 0 is discarded: another one is due"),
        ("another policy", "from version 0 is discarded: another one is due"),
        ("other rows", "CheckpointMismatch"),
        ("cut checkpoint", "CheckpointError"),
        ("cut rows", "an unfinished training is discarded: Input data was truncated"),
        ("no rows", ""),
    ],
)
def test_an_unfinished_training_of_another_job_is_discarded_and_training_begins_anew(
    federation: Federation,
    identity: Identity,
    tmp_path: Path,
    learned: list[Trained],
    caplog: pytest.LogCaptureFixture,
    change: str,
    said: str,
) -> None:
    caplog.set_level("INFO")
    files = begin(federation, identity, tmp_path, 2)
    if change == "other rows":
        x_last = files[ROWS].rindex(np.float32(1).tobytes())
        changed = bytearray(files[ROWS])
        changed[x_last : x_last + 4] = np.float32(0).tobytes()
        (tmp_path / ROWS).write_bytes(changed)
    elif change.startswith("cut"):
        name = change.removeprefix("cut ")
        (tmp_path / f"training.{name}").write_bytes(files[f"training.{name}"][:-5])
    elif change == "no rows":
        (tmp_path / ROWS).unlink()

    async def scenario(site: Site) -> None:
        short = policy(epochs=2)
        if change == "another version":
            moved = federation.moved(0.01)
            feed(site.adoption, federation.publish(2, version=1, train=moved, policy=short))
        elif change == "another policy":
            feed(site.adoption, federation.publish(2, policy=short))
        await site.until(lambda: site.outbox.produced == 1)
        await site.until(lambda: site.status.learning.startswith("waiting for a version"))

    learning(federation, identity, tmp_path, scenario)
    assert said in caplog.text
    assert len(learned) == 1
    assert not (tmp_path / CHECKPOINT).exists()
    assert not (tmp_path / ROWS).exists()


def test_a_checkpoint_that_cannot_be_kept_is_logged_and_training_goes_on(
    federation: Federation,
    identity: Identity,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / ".training.rows.new").mkdir()  # the name that a new file would take

    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(400))
        feed(site.adoption, federation.publish(1, policy=LONG))
        await ends(site)

    learning(federation, identity, tmp_path, scenario)
    assert "a checkpoint was not kept" in caplog.text


def test_a_checkpoint_that_the_disk_did_not_take_still_serves_a_killed_child(
    federation: Federation,
    identity: Identity,
    tmp_path: Path,
    learned: list[Trained],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent.learner, "_AFTER_FAILURE_S", 0.01)
    caplog.set_level("INFO")
    (tmp_path / ".training.rows.new").mkdir()  # the name that a new file would take

    async def scenario(site: Site) -> None:
        site.history.append(failing_rows(400, start=1000))
        feed(site.adoption, federation.publish(1, policy=LONG))
        await site.until(lambda: "a checkpoint was not kept" in caplog.text)
        pid = site.learner.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await ends(site)

    learning(federation, identity, tmp_path, scenario)
    assert "going on with the training from version 0" in caplog.text
    assert caplog.text.count("a checkpoint was not kept") == 1
    (trained,) = learned
    expected = expected_params(federation, tmp_path)
    assert np.array_equal(flatten(trained.params), flatten(expected))


def test_the_heads_positive_weight_is_the_weight_of_label_one() -> None:
    assert plan_for(
        policy(positive_weight=3.0), "gw", 1, Loss.BINARY_CROSS_ENTROPY
    ).class_weights == (1.0, 3.0)
    assert (
        plan_for(policy(positive_weight=1.0), "gw", 1, Loss.BINARY_CROSS_ENTROPY).class_weights
        == ()
    )
    with pytest.raises(PolicyError, match="class_weights"):
        plan_for(policy(positive_weight=0.0), "gw", 1, Loss.BINARY_CROSS_ENTROPY)

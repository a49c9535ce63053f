"""What the coordinator does about privacy: policies it refuses, marks it keeps, noise it allows."""

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.privacy.noising import noised
from coordinator.aggregation import Diverged, Rules, advance, begin, norm_bound, take
from coordinator.config import read_coordinator_settings, read_identity
from coordinator.robust import RobustSettings
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.store import Store
from coordinator.strategies.choice import StrategySettings, make_strategy
from coordinator.strategies.strategy import Offer, Rejected
from tests.coordinator.conftest import Broker, Plant
from tests.coordinator.scripted_agent import TOPICS, WAIT_S, floor
from tests.coordinator.small_federation import FEDERATION
from wire.codec import unseal
from wire.errors import SettingsError
from wire.messages import Policy, Receipts, Spent
from wire.safeguards import own_deviation
from wire.signing import read_private_key
from wire.spent import highest
from wire.tensors import clip, round_to_steps
from wire.trust import COORDINATOR

NOISY = Policy(privacy="update", noise_multiplier=2.0, clip_norm=0.5, scale=1e-3, bits=16)
P = 4000
FIVE = Spent(gaussian=0.5, sampled=(1.0,) * 32, releases=5)


def rules(policy: Policy = NOISY, robust: RobustSettings = RobustSettings()) -> Rules:  # noqa: B008
    return Rules(
        make_strategy(StrategySettings(goal=4), policy),
        robust,
        make_server_optimizer(ServerOptimizerSettings(name="sgd", learning_rate=1.0)),
        policy.clip_norm,
        noise=own_deviation(policy),
    )


def sent(seed: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """An update of an honest agent under the policy, whose delta needs all the room that it has."""
    rng = np.random.default_rng(seed)
    delta = clip(rng.standard_normal(P) * 9, NOISY.clip_norm)
    return round_to_steps(noised(delta, NOISY), NOISY.scale, 16, rng)[0]


def offer(agent: str) -> Offer:
    return Offer(agent, agent, 10, 0)


# Noise that is allowed


def test_honest_noise_is_taken_and_what_is_longer_is_not() -> None:
    model = begin(rules(), np.zeros(P, np.float32))
    for seed in range(50):
        taken = take(rules(), model, offer("press-1"), sent(seed), NOISY.scale)
        assert not isinstance(taken, Rejected)
    refused = take(rules(), model, offer("press-1"), (1.2 * sent(1)).astype(np.int16), NOISY.scale)
    assert isinstance(refused, Rejected)
    assert "the policy's clip_norm, noise and rounding" in refused.reason
    quiet = replace(rules(), noise=0.0)
    assert isinstance(take(quiet, model, offer("press-1"), sent(1), NOISY.scale), Rejected)


def test_without_noise_the_bound_is_clip_and_rounding_alone() -> None:
    quiet = replace(rules(), noise=0.0)
    assert norm_bound(quiet.reach(P), 1e-3, P) == 0.5 + 1e-3 * np.sqrt(P)


def test_a_version_of_noised_updates_has_not_diverged_and_counts_them_all_when_clipped() -> None:
    for robust in (RobustSettings(), RobustSettings(clip="norm")):
        made = rules(robust=robust)
        model = begin(made, np.zeros(P, np.float32))
        updates = [sent(seed) for seed in range(4)]
        for at, update in enumerate(updates):
            taken = take(made, model, offer(f"press-{at}"), update, NOISY.scale)
            assert not isinstance(taken, Rejected)
            model = taken
        assert all(member.coefficient > 0 for member in model.buffer.members)
        after = advance(made, model, NOISY.scale)
        mean = np.mean(updates, axis=0) * NOISY.scale
        away = np.linalg.norm(after.params - mean)
        assert after.version == 1
        if robust.clip == "none":
            assert np.linalg.norm(mean) > 50 * NOISY.clip_norm
            assert away < 1e-3


def test_a_step_beyond_all_noise_has_diverged() -> None:
    wild = make_server_optimizer(ServerOptimizerSettings(name="sgd", learning_rate=10.0))
    made = rules()
    model = begin(made, np.zeros(P, np.float32))
    update = sent(0)
    for at in range(4):
        taken = take(made, model, offer(f"press-{at}"), update, NOISY.scale)
        assert not isinstance(taken, Rejected)
        model = taken
    assert advance(replace(made, optimizer=wild), model, NOISY.scale).version == 1
    quieter = replace(made, optimizer=wild, noise=made.noise / 20)
    with pytest.raises(Diverged, match="what an honest update reaches"):
        advance(quieter, model, NOISY.scale)


# Policies that are refused


def said_of(plant: Plant, policy: str, toml: str = "") -> str:
    plant.configure(toml, policy=policy)
    text = plant.config.read_text()
    for key in ("scale = 0.01", "weight_cap = 1000", "clip_norm = 100.0"):
        if key.split()[0] in policy:
            text = text.replace(f"{key}\n", "", 1)
    plant.config.write_text(text)
    try:
        read_identity(plant.config, read_coordinator_settings(plant.config))
    except SettingsError as error:
        return str(error).removeprefix(f"{plant.directory}/")
    return ""


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ('privacy = "record"\n', "policy.noise_multiplier: "),
        ("noise_multiplier = 1.0\n", "policy.noise_multiplier: adds no noise"),
        ('privacy = "update"\nnoise_multiplier = 1.0\n', "policy.scale: "),
        ('privacy = "record"\nnoise_multiplier = 1.0\nkept_share = 0.5\n', "policy.kept_share: "),
        (
            'privacy = "update"\nnoise_multiplier = 1.0\nbits = 16\nnoise_sites = 2\n',
            "policy.noise_sites: ",
        ),
    ],
)
def test_a_policy_that_breaks_its_own_promise_is_refused(
    plant: Plant, policy: str, expected: str
) -> None:
    assert expected in said_of(plant, policy)


def test_a_private_policy_that_holds_is_taken(plant: Plant) -> None:
    private = 'privacy = "update"\nnoise_multiplier = 1.0\nbits = 16\nclip_norm = 1.0\n'
    assert said_of(plant, private) == ""
    assert said_of(plant, 'privacy = "record"\nnoise_multiplier = 1.0\n') == ""


# Marks


def test_a_mark_is_the_highest_that_was_said_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    store = Store(path)
    assert store.spent("press-1") == Spent()
    store.note_spent("press-1", FIVE)
    store.note_spent("press-1", None)
    store.note_spent("press-1", Spent(gaussian=0.7, releases=2))
    store.note_spent("press-2", Spent(releases=1))
    store.close()
    store = Store(path)
    assert store.spent("press-1") == highest(FIVE, Spent(gaussian=0.7))
    assert store.spent("press-2") == Spent(releases=1)
    store.close()


def test_every_birth_is_answered_with_what_any_header_of_the_agent_said(
    plant: Plant, broker: Broker
) -> None:
    plant.configure("[strategy]\ngoal = 4\n")
    plant.start()
    coordinator = read_private_key(plant.keys / "coordinator.key").public

    async def story() -> None:
        async with floor(plant.port, plant.keys) as watched:

            def answers() -> list[Receipts]:
                read = [
                    unseal(
                        item.payload,
                        Receipts,
                        federation=FEDERATION,
                        signer=COORDINATOR,
                        key=coordinator,
                    )[0]
                    for item in watched.messages
                    if item.topic == TOPICS.to("press-1")
                ]
                return [receipts for receipts in read if receipts.incarnation]

            head = await watched.head()
            site = await watched.birth("press-1")
            assert answers()[-1].spent == Spent()
            await watched.offer(site.update(head.train, spent=FIVE))
            await watched.receipt("press-1", "committed", 1)
            # A header alone counts: what was sent may have been seen.
            lone = site.update(head.train, spent=Spent(gaussian=0.75, releases=6))
            await watched.offer(lone, chunks=())
            await watched.receipt("press-1", "wanted", 2)
            site.incarnation = "f" * 16  # its card was wiped
            await watched.birth("press-1", session=7)
            expected = msgspec.structs.replace(FIVE, gaussian=0.75, releases=6)
            assert answers()[-1].spent == expected
            receipts = [each for each in answers() if each.items]
            assert not receipts

    async def within() -> None:
        async with asyncio.timeout(2 * WAIT_S):
            await story()

    asyncio.run(within())

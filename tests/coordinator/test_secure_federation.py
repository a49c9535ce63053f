"""Masked updates from commit to version, through three helpers that may come and go."""

import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.secure.rules import levelled
from coordinator.server_optimizer import (
    ServerOptimizerSettings,
    make_server_optimizer,
)
from tests.coordinator.secure_world import HELPERS, POLICY, SCALE, World
from tests.coordinator.small_federation import P, evaluation, start_params
from wire.messages import Statistics
from wire.standards import read_standard
from wire.tensors import flatten, read_params

GOAL_5 = "[strategy]\ngoal = 5\n"


def _weights(world: World) -> NDArray[np.float32]:
    data = world.store.content(world.base.content.digest)
    return flatten(read_params(data, [("w", (50, 12)), ("b", (12,))]))


def test_a_version_is_the_exact_weighted_mean_of_masked_updates(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    agents = world.sites(5)
    updates = [world.update(agent, weight=10 + at) for at, agent in enumerate(agents)]
    assert world.commit(updates) == ["committed"] * 5
    world.online(*HELPERS)
    world.settle()
    assert world.outcomes() == {"folded": 5}
    assert world.shares(1) == {f"press-{at}": 10 + at for at in range(5)}
    total, weight = world.refolded(1), sum(range(10, 15))
    expected = (start_params().astype(np.float64) + total * SCALE / weight).astype(np.float32)
    assert np.array_equal(_weights(world), expected)


def test_nothing_the_coordinator_stores_before_release_tells_of_an_update(tmp_path: Path) -> None:
    """Two updates that differ in every number give contents that no statistic tells apart."""
    world = World(tmp_path, GOAL_5)
    agents = world.sites(3)
    plain = np.full(P, 100)
    updates = [world.update(agent, plain) for agent in agents]
    contents = [np.frombuffer(update.content, np.uint8) for update in updates]
    for content in contents:
        counts = np.bincount(content, minlength=256)
        chi_square = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        assert chi_square < 400  # 255 degrees of freedom; p < 1e-7 beyond
    for one, other in itertools.pairwise(contents):
        assert np.mean(one == other) < 0.03


@pytest.mark.parametrize("down", HELPERS)
def test_any_one_helper_may_be_down_all_the_time(tmp_path: Path, down: str) -> None:
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online(*(name for name in HELPERS if name != down))
    world.settle()
    assert world.outcomes() == {"folded": 5}


def test_what_a_helper_said_before_does_not_keep_it_away_when_it_comes_again(
    tmp_path: Path,
) -> None:
    """A broker repeats and reorders: nobody would ever ask a helper that is taken to be gone."""
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online("union")
    world.says("notary", "online", session=8, place=3)
    world.says("notary", "offline", session=7)  # the will of the connection before
    world.says("notary", "offline", session=8, place=2)  # to itself, before its birth
    world.settle()
    assert world.outcomes() == {"folded": 5}


def test_a_birth_that_comes_again_asks_nothing_again(tmp_path: Path) -> None:
    """A helper publishes it before each of its promises."""
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.says("notary", "online", session=8, place=3)
    assert len(world.exchange.due(100.0)) == 1
    world.says("notary", "online", session=8, place=4)
    assert world.exchange.due(100.1) == []
    world.says("notary", "online", session=9, place=3)  # what was on its way is lost
    assert len(world.exchange.due(100.2)) == 1


def test_a_will_is_the_last_word_of_its_connection(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online("union")
    world.says("notary", "online", session=8, place=3)
    world.says("notary", "offline", session=8)
    world.says("notary", "online", session=8, place=4)
    world.turn(5)
    assert world.outcomes() == {"committed": 5}
    world.says("notary", "online", session=9, place=3)
    world.settle()
    assert world.outcomes() == {"folded": 5}


def test_a_sum_that_was_decided_under_an_older_charter_is_decided_anew(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online(*HELPERS)
    # The manifest reaches one helper, and then the charter changes.
    world.turn(3, lambda name, message: not isinstance(message, bytes) or name == "union")
    (digest,) = (digest for digest, _ in world.store.secure.undecided())
    assert len(world.store.secure.endorsements(digest)) == 1
    world.charter = msgspec.structs.replace(world.charter, epoch=2)
    for name in HELPERS:
        world.offices[name].store.close()
        world.offices[name] = world.open_helper(name)
    world.restart()
    world.online(*HELPERS)
    world.settle()
    assert world.outcomes() == {"folded": 5}


def test_a_site_that_the_charter_drops_stands_in_nobodys_way(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(6)])
    sites = tuple(f"site-{at}" for at in range(1, 6))
    world.charter = msgspec.structs.replace(world.charter, epoch=2, sites=sites)
    for name in HELPERS:
        world.offices[name].store.close()
        world.offices[name] = world.open_helper(name)
    world.restart()
    world.online(*HELPERS)
    world.settle()
    assert world.outcomes() == {"folded": 5, "refused": 1}


def test_where_all_three_have_to_agree_one_that_is_away_is_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5, endorsements=3)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online("notary", "union")
    world.turn(5)
    assert world.outcomes() == {"committed": 5}
    world.online(*HELPERS)
    world.settle()
    assert world.outcomes() == {"folded": 5}


def test_a_report_whose_boxes_are_in_another_order_gets_its_outcome(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    agents = world.sites(6)
    updates = [world.update(agent) for agent in agents[:5]]
    turned = world.update(agents[5], charter_order=(1, 2, 0))
    world.commit([*updates, turned])
    world.online(*HELPERS)
    world.settle()
    assert world.outcomes() == {"folded": 5, "refused": 1}


def test_with_two_helpers_down_updates_wait_and_nothing_is_lost(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online("union")
    world.turn(5)
    assert world.outcomes() == {"committed": 5}
    world.online("union", "insurer")
    world.settle()
    assert world.outcomes() == {"folded": 5}


def test_a_helper_that_goes_between_endorsing_and_releasing_is_replaced(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online("notary", "union")
    world.turn(8, lambda _, message: type(message).__name__ not in {"Release", "Masks"})
    (digest,) = (digest for digest, _ in world.store.secure.undecided())
    assert len(world.store.secure.endorsements(digest)) == 2
    world.online("union", "insurer")  # the notary is gone for good
    world.settle()
    assert world.outcomes() == {"folded": 5}
    assert len(world.store.secure.endorsements(digest)) == 3


@pytest.mark.parametrize("after", range(9))
def test_a_coordinator_killed_at_any_turn_goes_on(tmp_path: Path, after: int) -> None:
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online(*HELPERS)
    world.turn(after, lambda name, message: (len(name) + len(repr(message)) + after) % 3 > 0)
    world.restart()
    world.online(*HELPERS)
    world.settle()
    assert world.outcomes() == {"folded": 5}
    assert np.array_equal(
        world.refolded(1), sum(agent.integers[1] * 10 for agent in world.agents.values())
    )


def test_lost_messages_and_chunks_are_asked_for_again(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online(*HELPERS)
    rng = np.random.default_rng(4)
    world.turn(60, lambda *_: bool(rng.random() < 0.5))
    assert world.outcomes() == {"folded": 5}


def test_too_few_sites_wait_however_many_updates_there_are(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    for name in ("press-a", "press-b", "press-c", "press-d", "press-e"):
        world.agent(name, "north" if name < "press-d" else "south")
    world.commit([world.update(agent) for agent in world.agents.values()])
    world.online(*HELPERS)
    world.turn(5)
    assert world.outcomes() == {"committed": 5}
    east = world.agent("press-f", "east")
    world.commit([world.update(east)])
    world.settle()
    # Three updates of north weigh more than one of east: still as even as 3 sites need not be.
    assert world.outcomes()["committed"] == 6
    world.commit([world.update(world.agent(f"press-{at}", f"s-{at}")) for at in range(3)])
    world.settle()
    assert world.outcomes() == {"folded": 9}


def test_sites_take_turns_where_the_ring_holds_few_reports(tmp_path: Path) -> None:
    """Eight at most in a sum, and the first eight are of three sites: they may not go alone."""
    policy = POLICY.replace("weight_cap = 1000", "weight_cap = 32") + "ring = 16\n"
    world = World(tmp_path, "[strategy]\ngoal = 8\n", policy, k_min=5)
    agents = world.sites(10)
    world.commit([world.update(agents[at % 3]) for at in range(8)])
    world.online(*HELPERS)
    world.turn(4)
    assert world.outcomes() == {"committed": 8}
    world.commit([world.update(agent) for agent in agents[3:]])
    world.turn(4)
    assert len(world.shares(1)) == 8  # of eight sites
    assert world.outcomes() == {"folded": 8, "committed": 7}


def test_a_site_that_would_drown_the_others_is_levelled(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    agents = world.sites(5)
    world.commit(
        [world.update(agent, weight=1000 if at == 0 else 2) for at, agent in enumerate(agents)]
    )
    world.online(*HELPERS)
    world.settle()
    shares = world.shares(1)
    assert list(shares.values()) == levelled([1000, 2, 2, 2, 2], list("abcde"), 3)
    assert shares["press-0"] < 10


def test_a_report_that_two_helpers_refuse_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    agents = world.sites(6)
    updates = [world.update(agent) for agent in agents]
    bad = world.update(agents[0])
    masked = bad.header.masked
    assert masked is not None
    broken = world.update(
        agents[5], masked=msgspec.structs.replace(masked, ephemeral=bytes(range(32)))
    )
    assert world.commit([*updates[:5], broken]) == ["committed"] * 6
    world.online(*HELPERS)
    world.settle()
    assert world.outcomes() == {"folded": 5, "refused": 1}
    reasons = [receipt.reason for _, receipt in world.results if receipt.status == "refused"]
    assert any("box" in reason for reason in reasons)


def test_plain_and_wrongly_masked_updates_are_refused_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5)
    (agent,) = world.sites(1)
    assert world.commit([world.update(agent, masked=None)]) == ["refused"]
    update = world.update(agent)
    assert update.header.masked is not None
    other = msgspec.structs.replace(update.header.masked, ring=16)
    assert world.commit([world.update(agent, masked=other)]) == ["refused"]


def test_stale_updates_weigh_less_and_every_version_is_exact(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5, POLICY + "staleness_cap = 1\n")
    agents = world.sites(6)
    first = world.base
    world.online(*HELPERS)
    for _ in range(3):
        world.commit([world.update(agent) for agent in agents[:5]])
        world.settle()
    late = world.update(agents[5], base=first)
    world.commit([late, *(world.update(agent) for agent in agents[:4])])
    world.settle()
    assert world.outcomes() == {"folded": 20}
    assert world.shares(4)["press-5"] == 3  # 10 x 1 div 3
    assert world.shares(4)["press-0"] == 10


def test_buckets_are_summed_apart_and_a_hostile_one_is_outvoted(tmp_path: Path) -> None:
    robust = '[robust]\ncombine = "median"\nbuckets = 3\n[strategy]\ngoal = 9\n'
    world = World(tmp_path, robust)
    agents = world.sites(9)
    updates = [world.update(agent, np.full(P, 10)) for agent in agents]
    updates[4] = world.update(agents[4], np.full(P, -127))
    world.commit(updates)
    world.online(*HELPERS)
    world.settle()
    assert world.outcomes() == {"folded": 9}
    moved = flatten(
        read_params(world.store.content(world.base.content.digest), [("w", (50, 12)), ("b", (12,))])
    )
    assert np.allclose(moved - start_params(), 10 * SCALE, atol=1e-6)


def test_evaluations_are_known_as_sums_and_the_gate_decides_by_them(tmp_path: Path) -> None:
    world = World(tmp_path, GOAL_5 + "[gate]\nevery = 1\nquorum = 3\n")
    agents = world.sites(5)
    world.online(*HELPERS)
    world.commit([world.update(agent) for agent in agents])
    world.settle()
    head = world.federation.head
    assert head.candidate is not None
    for agent in agents:
        world.report(
            agent,
            [
                evaluation(head.serve.content.digest, 1.0),
                evaluation(head.candidate.content.digest, 1.5),
            ],
        )
    kept = world.store.evaluations(head.candidate.content.digest)
    assert kept == {}  # nobody's own counts are known
    candidate = head.candidate.content.digest
    world.turn(6)
    assert world.federation.head.serve.content.digest == candidate
    assert any("5 sites" in reason for *_, reason in world.store.record.decisions())


def test_statistics_of_all_sites_come_from_a_sum_that_nobody_is_seen_in(tmp_path: Path) -> None:
    world = World(tmp_path, "[gate]\nquorum = 4\n", standardise="federated")
    agents = world.sites(5)
    world.online(*HELPERS)
    rng = np.random.default_rng(9)
    rows = [rng.normal(40 + at, 3, 50) for at in range(5)]
    for agent, values in zip(agents, rows, strict=True):
        said = Statistics(
            bundle=world.federation.head.bundle.digest,
            count=len(values),
            sums=(float(values.sum()),),
            squares=(float(np.square(values).sum()),),
        )
        world.tell_statistics(agent, said)
    world.turn(6)
    content = world.federation.head.statistics
    assert content is not None
    standard = read_standard(world.store.content(content.digest), 1)
    assert standard.mean == pytest.approx([np.concatenate(rows).mean()], rel=1e-6)
    assert standard.deviation == pytest.approx([np.concatenate(rows).std()], rel=1e-6)
    assert world.store.record.statistics(world.federation.head.bundle.digest) == {}


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "yogi"])
def test_server_optimizers_step_by_opened_sums_as_by_plain_ones(
    tmp_path: Path, optimizer: Any
) -> None:
    world = World(tmp_path, GOAL_5 + f'[server_optimizer]\nname = "{optimizer}"\n')
    agents = world.sites(5)
    world.online(*HELPERS)
    for _ in range(3):
        world.commit([world.update(agent) for agent in agents])
        world.settle()
    rule = make_server_optimizer(ServerOptimizerSettings(name=optimizer))
    state, params = rule.init(P), start_params()
    for version in (1, 2, 3):
        weight = sum(world.shares(version).values())
        mean = np.multiply(world.refolded(version), SCALE / weight, dtype=np.float64)
        state, params = rule.apply(mean, state, params)
    assert np.array_equal(_weights(world), params)


def test_calibrated_aggregation_adds_to_what_is_remembered_from_sums(tmp_path: Path) -> None:
    strategy = '[strategy]\nname = "calibrated"\ngoal = 4\n'
    policy = POLICY.replace("weight_cap = 1000", "weight_cap = 1")
    policy += "calibration = 0.5\noffline_training = false\n"
    world = World(tmp_path, strategy, policy)
    agents = world.sites(4)
    world.online(*HELPERS)
    params, remembered = start_params().astype(np.float64), np.zeros(P)
    for version in (1, 2):
        world.commit([world.update(agent, weight=1) for agent in agents])
        world.settle()
        total = world.refolded(version) * SCALE
        params = (params + remembered / 4 + total / 4).astype(np.float32).astype(np.float64)
        remembered += 0.5 * total
    assert np.allclose(_weights(world), params, atol=1e-6)


def test_a_synchronous_round_takes_one_of_each_and_refuses_what_is_late(tmp_path: Path) -> None:
    world = World(tmp_path, '[strategy]\nname = "fedavg"\nclients = 4\n')
    agents = world.sites(5)
    first = world.base
    world.online(*HELPERS)
    assert world.commit([world.update(agents[0]), world.update(agents[0])]) == [
        "committed",
        "refused",
    ]
    world.commit([world.update(agent) for agent in agents[1:4]])
    world.turn(1)
    world.commit([world.update(agents[4])])  # while the sum of the others is being opened
    world.settle()
    assert world.base.version == 1
    assert world.commit([world.update(agents[2], base=first)]) == ["refused"]
    assert world.outcomes() == {"folded": 4, "refused": 3}


def test_once_training_is_closed_updates_of_too_few_sites_end_void(tmp_path: Path) -> None:
    world = World(tmp_path, "[strategy]\ngoal = 5\ndeadline_s = 20\n")
    world.commit([world.update(agent) for agent in world.sites(2)])
    world.online(*HELPERS)
    world.turn(10)
    assert world.outcomes() == {"committed": 2}
    world.store.set_training("closed")
    world.turn(10)
    assert world.outcomes() == {"void": 2}

"""Helpers with an old store, or a wrong clock, in the midst of a sum."""

from pathlib import Path

from tests.coordinator.secure_world import World

GOAL_5 = "[strategy]\ngoal = 5\n"


def test_a_helper_that_endorsed_and_then_was_restored_does_not_hold_up_the_others(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online("notary", "union")
    world.turn(8, lambda _, message: type(message).__name__ not in {"Release", "Masks"})
    (digest,) = (digest for digest, _ in world.store.secure.undecided())
    assert len(world.store.secure.endorsements(digest)) == 2
    world.offices["union"].store.mark_restored("the broker has seen more of it", 7)
    world.online("notary", "union", "insurer")
    world.settle(6)
    assert world.outcomes() == {"folded": 5}
    assert len(world.store.secure.endorsements(digest)) == 3


def test_with_nobody_to_replace_it_a_sum_waits_and_goes_on_when_the_third_comes(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online("notary", "union")
    world.turn(8, lambda _, message: type(message).__name__ not in {"Release", "Masks"})
    world.offices["union"].store.mark_restored("the broker has seen more of it", 7)
    world.turn(4)
    assert world.outcomes() == {"committed": 5}
    world.online("notary", "union", "insurer")
    world.settle(6)
    assert world.outcomes() == {"folded": 5}


def test_a_clock_that_jumps_years_ahead_forgets_no_seeds_that_may_be_asked_for(
    tmp_path: Path,
) -> None:
    """Masks were given and did not arrive; both clocks jump before they are asked for again."""
    world = World(tmp_path, GOAL_5)
    world.commit([world.update(agent) for agent in world.sites(5)])
    world.online("notary", "union")
    world.turn(8, lambda _, message: type(message).__name__ != "Masks")
    (digest,) = (digest for digest, _ in world.store.secure.undecided())
    stores = [world.offices[name].store for name in ("notary", "union")]
    for store in stores:
        store.given(digest, now_s=1.0)
        assert store.forget_seeds(1e12, newest_kept=8) == 0
    world.settle()
    assert world.outcomes() == {"folded": 5}
    assert [store.forget_seeds(1e12, newest_kept=0) for store in stores] == [5, 5]

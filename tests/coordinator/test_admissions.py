"""Admissions: asks in, grants out, and what is left of them when somebody is gone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.admissions import ASK_EXPIRES_S, MAX_BOOTS, Admissions, Durations
from coordinator.selection import SelectionSettings
from coordinator.strategies.choice import StrategySettings
from wire.messages import Grant, Readiness

FEDAVG = StrategySettings(name="fedavg", clients=4, over_selection=0.3)
READY = Readiness(base_version=0, examples=1000)
UNIFORM = (1 / 8,) * 64
ODD = (1.0, *(0.0,) * 7) * 8


def admissions(
    concurrency: int = 2,
    strategy: StrategySettings | None = None,
    boot: int = 1,
    selection: SelectionSettings | None = None,
    k_min: int = 1,
) -> Admissions:
    chosen = selection or SelectionSettings(concurrency=concurrency)
    rng = np.random.default_rng(0)
    return Admissions(chosen, strategy or StrategySettings(), boot, rng, k_min)


def asked(
    state: Admissions, *agents: str, now_s: float = 0.0, readiness: Readiness = READY
) -> None:
    for agent in agents:
        state.on_ask(agent, f"site of {agent}", readiness, now_s)


def granted(state: Admissions, now_s: float = 0.0, version: int = 0) -> set[str]:
    return {agent for agent, _ in state.grants(now_s, version)}


def only(state: Admissions, now_s: float = 0.0, version: int = 0) -> Grant:
    [(_, grant)] = state.grants(now_s, version)
    return grant


def test_no_more_train_than_there_are_slots_and_the_next_when_one_is_free() -> None:
    state = admissions(concurrency=2)
    asked(state, "a", "b", "c")
    first = granted(state)
    assert len(first) == 2
    assert (state.leases, state.waiting) == (2, 1)
    assert granted(state) == set()
    state.on_update(min(first), 30.0)
    assert granted(state, 30.0) == {"a", "b", "c"} - first


def test_a_grant_is_said_once_and_again_when_the_agent_asks_again() -> None:
    state = admissions()
    asked(state, "a")
    grant = only(state, version=7)
    assert grant.base_version == 7
    assert state.grants(1.0, 8) == []
    asked(state, "a", now_s=10.0)
    assert state.grants(10.0, 8) == [("a", grant)]
    assert state.grants(11.0, 8) == []
    assert state.leases == 1


def test_an_ask_during_a_lease_is_no_ask_for_the_next_one() -> None:
    state = admissions()
    asked(state, "a")
    only(state)
    asked(state, "a", now_s=10.0)
    only(state, 10.0)
    state.on_update("a", 20.0)
    assert state.grants(20.0, 0) == []
    asked(state, "a", now_s=21.0)
    assert only(state, 21.0).number == (1 << 32) + 2


def test_numbers_grow_within_a_boot_and_over_the_next() -> None:
    numbers = []
    for boot in (3, 4):
        state = admissions(concurrency=9, boot=boot)
        asked(state, *"abc")
        numbers += [grant.number for _, grant in state.grants(0.0, 0)]
    assert sorted(numbers) == [(boot << 32) + at for boot in (3, 4) for at in (1, 2, 3)]
    assert max(numbers[:3]) < min(numbers[3:])
    assert (MAX_BOOTS << 32) <= 1 << 53
    with pytest.raises(ValueError, match="boot 2097152 is outside"):
        admissions(boot=MAX_BOOTS)


def test_who_was_not_heard_of_for_a_minute_gets_nothing() -> None:
    state = admissions()
    asked(state, "a")
    asked(state, "b", now_s=30.0)
    assert granted(state, ASK_EXPIRES_S) == {"b"}
    assert state.waiting == 0


def test_who_is_gone_gets_nothing_until_it_asks_again() -> None:
    state = admissions()
    asked(state, "a")
    state.on_gone("a")
    state.on_gone("never seen")
    assert granted(state, 1.0) == set()
    asked(state, "a", now_s=2.0)
    assert granted(state, 2.0) == {"a"}


def test_a_lease_outlives_the_link_of_its_agent() -> None:
    state = admissions(concurrency=1)
    asked(state, "a")
    grant = only(state)
    state.on_gone("a")
    asked(state, "b", now_s=5.0)
    assert state.grants(5.0, 0) == []
    asked(state, "a", now_s=100.0)
    assert state.grants(100.0, 0) == [("a", grant)]


@pytest.mark.parametrize("is_dropped", [False, True])
def test_an_update_or_its_tombstone_frees_the_slot(is_dropped: bool) -> None:
    state = admissions(concurrency=1)
    asked(state, "a")
    only(state)
    asked(state, "b", now_s=5.0)
    state.on_update("stranger", 5.0, is_dropped=is_dropped)
    assert state.grants(5.0, 0) == []
    state.on_update("a", 6.0, is_dropped=is_dropped)
    assert granted(state, 6.0) == {"b"}


def test_a_lease_without_an_update_runs_out() -> None:
    state = admissions(selection=SelectionSettings(concurrency=1, lease_s=600))
    asked(state, "a")
    only(state)
    asked(state, "b", now_s=599.0)
    assert state.grants(599.0, 0) == []
    assert granted(state, 600.0) == {"b"}


def test_leases_learn_from_the_times_that_were_seen_how_long_to_run() -> None:
    state = admissions(concurrency=1)
    now_s = 0.0
    for _ in range(30):
        asked(state, "a", now_s=now_s)
        only(state, now_s)
        now_s += 100.0
        state.on_update("a", now_s)
    asked(state, "new", now_s=now_s)
    only(state, now_s)
    asked(state, "b", now_s=now_s + 99.0)
    assert state.grants(now_s + 99.0, 0) == []  # 100 s and a deviation that went to zero
    assert granted(state, now_s + 101.0) == {"b"}


def test_a_lease_is_never_shorter_than_a_minute() -> None:
    state = admissions(concurrency=1)
    for at in range(30):
        asked(state, "a", now_s=float(at))
        only(state, float(at))
        state.on_update("a", at + 0.5)
    asked(state, "a", "b", now_s=40.0)
    first = granted(state, 40.0)
    asked(state, "a", "b", now_s=99.0)
    assert granted(state, 99.0) == first
    assert granted(state, 100.0) == {"a", "b"} - first


def test_durations_follow_the_published_rule() -> None:
    durations = Durations()
    assert durations.timeout_s is None
    durations.observe(8.0)
    assert durations == Durations(smoothed_s=8.0, deviation_s=4.0)
    durations.observe(16.0)  # deviation 3/4 x 4 + 1/4 x |8 - 16|, then smoothed 7/8 x 8 + 1/8 x 16
    assert durations == Durations(smoothed_s=9.0, deviation_s=5.0)
    assert durations.timeout_s == 29.0


def test_after_a_restart_agents_ask_again_and_old_leases_do_no_harm() -> None:
    before, after = admissions(boot=1), admissions(boot=2)
    asked(before, "a", "b")
    old = dict(before.grants(0.0, 5))
    after.on_update("a", 1.0)
    asked(after, "a", "b", now_s=1.0)
    new = dict(after.grants(1.0, 5))
    assert all(new[agent].number > old[agent].number for agent in ("a", "b"))


def test_a_round_of_fedavg_is_granted_to_more_than_it_needs_and_to_no_more() -> None:
    state = admissions(strategy=FEDAVG)
    agents = [f"agent-{at}" for at in range(20)]
    asked(state, *agents)
    first = granted(state)
    assert len(first) == 6  # 4 x 1.3, rounded up
    for agent in sorted(first)[:3]:
        state.on_update(agent, 10.0)
    assert granted(state, 10.0) == set()  # what came in keeps its place until the round is over
    state.on_update(sorted(first)[3], 11.0)
    asked(state, *agents, now_s=12.0, readiness=Readiness(base_version=1, examples=1000))
    assert len(granted(state, 12.0, version=1)) == 6


def test_in_a_round_a_lost_agent_is_replaced() -> None:
    state = admissions(strategy=FEDAVG)
    asked(state, *(f"agent-{at}" for at in range(20)))
    first = granted(state)
    state.on_update(min(first), 10.0, is_dropped=True)
    second = granted(state, 10.0)
    assert len(second) == 1
    assert not second & first


def test_a_round_is_not_granted_to_who_would_come_late() -> None:
    state = admissions(strategy=FEDAVG)
    asked(state, "late", readiness=Readiness(base_version=4, examples=1000))
    asked(state, "ready", readiness=Readiness(base_version=5, examples=1000))
    assert granted(state, 0.0, version=5) == {"ready"}
    open_to_all = admissions()
    asked(open_to_all, "late", readiness=Readiness(base_version=4, examples=1000))
    assert granted(open_to_all, 0.0, version=5) == {"late"}


def test_an_agent_rests_after_its_share_of_a_window_and_comes_back_with_it() -> None:
    state = admissions(selection=SelectionSettings(concurrency=1, per_agent_cap=2, window=3))
    for version in (0, 1):
        asked(state, "a")
        assert granted(state, 0.0, version) == {"a"}
        state.on_update("a", 0.0)
    asked(state, "a", "b")
    assert granted(state, 0.0, 2) == {"b"}
    assert granted(state, 0.0, 2) == set()
    state.on_update("b", 0.0)
    asked(state, "a", "b")
    assert granted(state, 0.0, 2) == {"b"}
    state.on_update("b", 0.0)
    asked(state, "a")
    assert granted(state, 0.0, 3) == {"a"}


def test_updates_that_nobody_granted_count_too() -> None:
    state = admissions(selection=SelectionSettings(concurrency=2, per_agent_cap=2))
    for _ in range(2):
        state.on_update("offline", 0.0)
    asked(state, "offline", "b")
    assert granted(state) == {"b"}


def test_when_all_are_at_their_cap_and_nobody_works_the_window_is_emptied() -> None:
    state = admissions(selection=SelectionSettings(concurrency=2, per_agent_cap=1))
    for agent in ("a", "b"):
        state.on_update(agent, 0.0)
    asked(state, "a", "b")
    assert granted(state) == {"a", "b"}


def test_while_somebody_works_a_cap_holds() -> None:
    state = admissions(selection=SelectionSettings(concurrency=2, per_agent_cap=1))
    asked(state, "slow")
    assert granted(state) == {"slow"}
    state.on_update("fast", 0.0)
    asked(state, "fast")
    assert granted(state) == set()


def test_a_site_unlike_those_that_were_learned_from_goes_first() -> None:
    state = admissions(
        selection=SelectionSettings(
            concurrency=1, random_share=0, samples=0, loss=0, link=0, energy=0
        )
    )
    asked(state, "usual", readiness=Readiness(base_version=0, examples=9000, novelty=UNIFORM))
    assert granted(state) == {"usual"}
    state.on_update("usual", 1.0)
    asked(state, "odd", now_s=2.0, readiness=Readiness(base_version=0, examples=9000, novelty=ODD))
    asked(state, "usual", now_s=2.0, readiness=Readiness(base_version=0, examples=9000))
    assert granted(state, 2.0) == {"odd"}


def test_few_rows_do_not_look_novel_by_their_noise() -> None:
    state = admissions(
        selection=SelectionSettings(
            concurrency=1, random_share=0, samples=1, loss=0, novelty=1, link=0, energy=0
        )
    )
    asked(state, "usual", readiness=Readiness(base_version=0, examples=9000, novelty=UNIFORM))
    granted(state)
    state.on_update("usual", 1.0)
    asked(state, "tiny", now_s=2.0, readiness=Readiness(base_version=0, examples=60, novelty=ODD))
    asked(state, "usual", now_s=2.0)
    assert granted(state, 2.0) == {"usual"}


def test_at_first_agents_of_distinct_sites_are_chosen() -> None:
    state = admissions(concurrency=2, k_min=2)
    rich = Readiness(base_version=0, examples=9000)
    for at in range(8):
        state.on_ask(f"rich-{at}", "rich", rich, 0.0)
    state.on_ask("poor", "poor", READY, 0.0)
    assert "poor" in granted(state)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "update", "dropped", "gone", "version"]),
        st.integers(0, 7),
        st.floats(0, 100),
    ),
    max_size=80,
)


@given(EVENTS, st.sampled_from(["fedbuff", "fedavg"]), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=40)
def test_whatever_happens_slots_hold_and_numbers_grow(
    events: list[tuple[str, int, float]], name: str, cap: int, concurrency: int
) -> None:
    strategy = StrategySettings(name="fedavg" if name == "fedavg" else "fedbuff", clients=2)
    selection = SelectionSettings(concurrency=concurrency, per_agent_cap=cap, window=2, lease_s=120)
    state = admissions(strategy=strategy, selection=selection)
    slots = 3 if name == "fedavg" else concurrency
    now_s, version, known = 0.0, 0, set[int]()
    for kind, at, after_s in events:
        now_s += after_s
        agent = f"agent-{at}"
        if kind == "ask":
            asked(state, agent, now_s=now_s, readiness=Readiness(base_version=version, examples=at))
        elif kind == "gone":
            state.on_gone(agent)
        elif kind == "version":
            version += 1
        else:
            state.on_update(agent, now_s, is_dropped=kind == "dropped")
        said = state.grants(now_s, version)
        assert state.leases <= slots
        assert len({agent for agent, _ in said}) == len(said)
        known.update(grant.number for _, grant in said)
        assert sorted(known) == list(range((1 << 32) + 1, (1 << 32) + 1 + len(known)))


@given(st.integers(0, 1 << 30), st.integers(1, 3))
@settings(max_examples=6)
def test_somebody_may_always_train(seed: int, cap: int) -> None:
    """A federation in which everybody delivers never stops, whatever the cap."""
    state = admissions(
        boot=seed % MAX_BOOTS,
        selection=SelectionSettings(concurrency=3, per_agent_cap=cap, window=5),
    )
    rng = np.random.default_rng(seed)
    working: list[str] = []
    served = Counter[str]()
    for step in range(300):
        asked(
            state, *(f"agent-{at}" for at in range(4) if f"agent-{at}" not in working), now_s=step
        )
        working += [agent for agent, _ in state.grants(float(step), step // 10)]
        assert working
        agent = working.pop(int(rng.integers(len(working))))
        state.on_update(agent, float(step))
        served[agent] += 1
    assert len(served) == 4

"""The federation's state machine on a real SQLite file: outcomes, versions, heads, the gate."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from coordinator.federation import Federation
from coordinator.ingest import Update
from coordinator.store import Store
from tests.coordinator.small_federation import (
    COORDINATOR_KEY,
    FEDERATION,
    MANIFEST,
    SCALE,
    P,
    Site,
    buffer_in,
    enrol,
    evaluation,
    memory_of,
    open_federation,
    start_params,
)
from wire.chunks import check_content, describe, sha256
from wire.codec import unseal
from wire.deltas import decode
from wire.errors import SettingsError
from wire.messages import CONFLICT, MAX_DELTAS, Head, Receipt, Report
from wire.tensors import flatten, read_params
from wire.trust import COORDINATOR

GOAL_2 = "[strategy]\ngoal = 2\n"
GATED = GOAL_2 + "[gate]\nevery = 2\nquorum = 2\ndeadline_s = 50\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


def statuses(receipts: list[tuple[str, Receipt]]) -> list[str]:
    return [item.status for _, item in receipts]


def only(receipts: list[tuple[str, Receipt]]) -> Receipt:
    ((_, receipt),) = receipts
    return receipt


def test_a_new_federation_begins_with_the_bundles_weights(store: Store) -> None:
    federation = open_federation(store)
    assert (federation.head.sequence, federation.saved.version) == (1, 0)
    named = {item.kind: item for item in federation.contents()}
    weights = read_params(named["model"].data, MANIFEST.shapes)
    assert flatten(weights).tobytes() == start_params().tobytes()
    assert sha256(named["bundle"].data) == federation.head.bundle.digest


def test_the_head_is_signed_by_the_coordinator_and_counted_by_its_sequence(store: Store) -> None:
    federation = open_federation(store)
    head, counter = unseal(
        federation.head_envelope,
        Head,
        federation=FEDERATION,
        signer=COORDINATOR,
        key=COORDINATOR_KEY.public,
    )
    assert head == federation.head
    assert counter == head.sequence


def test_an_update_is_committed_first_and_folded_when_the_version_is_made(store: Store) -> None:
    federation, site = open_federation(store, GOAL_2), Site()
    first = federation.commit([site.update(federation.head.train)], 1.0)
    assert statuses(first.receipts) == ["committed"]
    assert not first.head_moved
    second = federation.commit([site.update(federation.head.train)], 2.0)
    assert statuses(second.receipts) == ["committed", "folded", "folded"]
    assert [item.version for _, item in second.receipts] == [0, 1, 1]
    assert second.head_moved
    assert (federation.head.train.version, federation.head.sequence) == (1, 2)
    assert store.counts() == {"folded": 2, "duplicates": 0}


def test_the_same_update_three_times_is_folded_once(store: Store) -> None:
    federation, site = open_federation(store, "[strategy]\ngoal = 1\n"), Site()
    update = site.update(federation.head.train)
    assert statuses(federation.commit([update, update], 1.0).receipts) == [
        "committed",
        "folded",
        "folded",
    ]
    again = only(federation.commit([update], 2.0).receipts)
    assert (again.status, again.version) == ("folded", 1)
    assert federation.saved.version == 1
    assert store.counts() == {"folded": 1, "duplicates": 2}


def test_the_same_id_with_another_hash_is_refused_with_an_alarm(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    federation, site = open_federation(store), Site()
    update = site.update(federation.head.train)
    federation.commit([update], 1.0)
    before = memory_of(federation)
    header = msgspec.structs.replace(update.header, content=describe(b"x" * 16, 256))
    answer = only(federation.commit([Update(header, b"x" * 16)], 2.0).receipts)
    assert answer.status == "refused"
    assert answer.reason.startswith(CONFLICT)
    assert answer.digest == header.content.digest  # it is not said of the first one
    assert [alarm[:2] for alarm in store.alarms()] == [("press-1", "two contents")]
    assert [item.levelname for item in caplog.records if "ALARM" in item.message] == ["ERROR"]
    assert memory_of(federation)["total"] == before["total"]
    assert store.counts() == {"committed": 1, "duplicates": 0}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lineage": 1}, "lineage 1 was abandoned"),
        ({"base_version": 7}, "base version 7 is not one of ours"),
        ({"base_digest": bytes(32)}, "base version 0 is not one of ours"),
        ({"scale": 0.5}, "scale 0.5 x 8 bits is not the policy's"),
        ({"bits": 16}, "scale 0.01 x 16 bits is not the policy's"),
        ({"content": describe(b"x" * 15, 256)}, f"15 bytes do not fit {P} parameters"),
        ({"weight": 11, "examples": 10}, "weight 11 exceeds examples or the policy's cap"),
        ({"weight": 1001, "examples": 5000}, "weight 1001 exceeds examples or the policy's cap"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_with_its_reason(
    store: Store, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], reason: str
) -> None:
    federation, site = open_federation(store), Site()
    before = memory_of(federation)
    update = site.update(federation.head.train, **changes)
    answer = only(federation.commit([update], 1.0).receipts)
    assert (answer.status, answer.reason) == ("refused", reason)
    assert reason in caplog.text
    assert memory_of(federation) == before
    assert store.counts() == {"refused": 1, "duplicates": 0}
    assert only(federation.commit([update], 1.0).receipts).status == "refused"


def test_content_that_did_not_arrive_is_refused_instead_of_folded(store: Store) -> None:
    federation, site = open_federation(store), Site()
    header = site.update(federation.head.train).header
    answer = only(federation.commit([Update(header, b"")], 1.0).receipts)
    assert (answer.status, answer.reason) == ("refused", f"0 bytes came of {P}")


def test_a_tombstone_ends_its_update_as_dropped(store: Store) -> None:
    federation, site = open_federation(store), Site()
    header = site.update(federation.head.train, dropped="quota").header
    answer = only(federation.commit([Update(header, b"")], 1.0).receipts)
    assert (answer.status, answer.reason) == ("dropped", "quota")
    assert store.counts() == {"dropped": 1, "duplicates": 0}


def test_a_stale_update_is_folded_with_a_smaller_weight(store: Store) -> None:
    policy = f"[policy]\nscale = {SCALE}\nclip_norm = 100.0\nstaleness_cap = 1\n"
    federation, site = open_federation(store, "[strategy]\ngoal = 1\n", policy=policy), Site()
    base = federation.head.train
    for _ in range(5):
        federation.commit([site.update(base, weight=100)], 1.0)
    assert [coefficient for *_, coefficient in store.memberships()] == [100, 100, 50, 33, 25]


def test_a_version_is_made_at_the_deadline_with_fewer_updates(store: Store) -> None:
    federation, site = open_federation(store, "[strategy]\ngoal = 9\ndeadline_s = 30\n"), Site()
    federation.commit([site.update(federation.head.train)], 100.0)
    assert not federation.tick(129.9).head_moved
    ended = federation.tick(130.0)
    assert statuses(ended.receipts) == ["folded"]
    assert federation.saved.version == 1
    assert not federation.tick(500.0).head_moved  # an empty buffer has no deadline


def test_fedavg_ends_its_round_when_every_client_has_sent_one(store: Store) -> None:
    federation = open_federation(store, '[strategy]\nname = "fedavg"\nclients = 2\n')
    fast, slow, base = Site("fast"), Site("slow"), federation.head.train
    assert statuses(federation.commit([fast.update(base)], 1.0).receipts) == ["committed"]
    second = only(federation.commit([fast.update(base)], 1.0).receipts)
    assert second.reason == "second update of fast in round 0"
    ended = federation.commit([slow.update(base)], 1.0)
    assert statuses(ended.receipts) == ["committed", "folded", "folded"]
    late = only(federation.commit([slow.update(base)], 1.0).receipts)
    assert late.reason == "late: round 0 is closed, now in round 1"


def test_a_buffer_that_would_make_the_model_diverge_ends_void_and_training_goes_on(
    store: Store,
) -> None:
    wild = '[strategy]\ngoal = 2\n[server_optimizer]\nname = "adam"\nlearning_rate = 10.0\n'
    policy = f"[policy]\nscale = {SCALE}\nweight_cap = 1000\nclip_norm = 1.0\n"
    federation, site = open_federation(store, wild + "epsilon = 1e-12\n", policy=policy), Site()
    before = federation.head
    small = np.ones(P, np.int8)
    federation.commit([site.update(before.train, small)], 1.0)
    result = federation.commit([site.update(before.train, small)], 2.0)
    assert statuses(result.receipts) == ["committed", "void", "void"]
    assert "would have diverged: a step of length" in result.receipts[-1][1].reason
    assert (federation.head, federation.saved.version) == (before, 0)
    assert buffer_in(federation).members == ()
    assert [(kind, number) for _, kind, _, number in store.alarms()] == [("diverged", 1)]
    assert memory_of(open_federation(store, wild + "epsilon = 1e-12\n", policy=policy)) == (
        memory_of(federation)
    )


# K_min


def test_no_version_has_fewer_sites_than_the_charter_asks_for(store: Store) -> None:
    federation = open_federation(store, "[strategy]\ngoal = 2\ndeadline_s = 5\n", k_min=2)
    for agent, site in (("a-1", "site-a"), ("a-2", "site-a"), ("b-1", "site-b")):
        enrol(store, agent, site)
    base = federation.head.train
    federation.commit([Site("a-1").update(base), Site("a-2").update(base)], 1.0)
    assert not federation.tick(100.0).head_moved  # two agents, one site, and past the deadline
    assert federation.commit([Site("b-1").update(base)], 101.0).head_moved
    assert store.counts() == {"folded": 3, "duplicates": 0}


# Settings that change


def test_another_policy_is_published_in_a_new_head(store: Store) -> None:
    before = open_federation(store).head
    same = open_federation(store).head
    assert same == before
    changed = open_federation(store, policy=f"[policy]\nscale = {SCALE}\nepochs = 9\n").head
    assert changed.sequence == before.sequence + 1
    assert changed.policy.epochs == 9


def test_updates_of_the_old_scale_become_a_version_before_the_scale_changes(store: Store) -> None:
    federation, site = open_federation(store, GOAL_2), Site()
    delta = (np.arange(P) % 17 - 8).astype(np.int8)
    federation.commit([site.update(federation.head.train, delta)], 1.0)
    changed = open_federation(store, GOAL_2, policy="[policy]\nscale = 0.5\n")
    assert store.counts() == {"folded": 1, "duplicates": 0}
    assert changed.head.policy.scale == 0.5
    expected = (start_params().astype(np.float64) + delta * SCALE).astype(np.float32)
    assert memory_of(changed)["params"] == expected.tobytes()


def test_the_scale_may_not_change_while_too_few_sites_wait_in_the_buffer(store: Store) -> None:
    enrol(store, "press-1", "site-a")
    federation = open_federation(store, GOAL_2, k_min=2)
    federation.commit([Site().update(federation.head.train)], 1.0)
    with pytest.raises(SettingsError, match=r"policy\.scale: the buffer holds 1 updates"):
        open_federation(store, GOAL_2, policy="[policy]\nscale = 0.5\n", k_min=2)


def test_another_server_optimizer_starts_without_the_memory_of_the_old_one(store: Store) -> None:
    goal_1, site = "[strategy]\ngoal = 1\n", Site()
    federation = open_federation(store, goal_1)
    federation.commit([site.update(federation.head.train)], 1.0)
    adam = open_federation(store, goal_1 + '[server_optimizer]\nname = "adam"\n')
    assert memory_of(adam)["optimizer"] == bytes(8 * 2 * P)
    adam.commit([site.update(adam.head.train)], 1.0)
    assert adam.saved.version == 2
    assert memory_of(adam)["optimizer"] != bytes(8 * 2 * P)


def test_the_state_of_another_bundle_is_refused(store: Store) -> None:
    federation = open_federation(store)
    with store.transaction():
        other = msgspec.structs.replace(federation.saved, bundle=describe(b"another", 256))
        store.save(other)
    with pytest.raises(SettingsError, match=r"coordinator\.bundle: the state in state belongs to"):
        open_federation(store)


def test_another_chunk_size_is_announced_in_a_new_head_and_changes_no_content(store: Store) -> None:
    larger = open_federation(store, "[strategy]\ngoal = 1\n")
    larger.commit([Site().update(larger.head.train)], 1.0)
    before = larger.head
    smaller = open_federation(store, "[strategy]\ngoal = 1\n", chunk_bytes=300)
    assert {item.content.chunk_bytes for item in smaller.contents()} == {300}
    assert smaller.head.sequence == before.sequence + 1
    assert smaller.head.train.content.digest == before.train.content.digest
    for item in smaller.contents():
        check_content(item.content)
        assert describe(item.data, 300) == item.content
    smaller.limit_chunks(256)  # as a broker's maximum packet size does
    assert {item.content.chunk_bytes for item in smaller.contents()} == {256}
    smaller.limit_chunks(1 << 20)
    assert {item.content.chunk_bytes for item in smaller.contents()} == {300}
    sequence = smaller.head.sequence
    smaller.limit_chunks(300)
    assert smaller.head.sequence == sequence


def test_every_version_comes_with_the_way_from_the_versions_before(store: Store) -> None:
    federation, site = open_federation(store, "[strategy]\ngoal = 1\n[gate]\nevery = 50\n"), Site()
    weights = {}
    for _ in range(6):
        named = {item.content.digest: item.data for item in federation.contents()}
        weights[federation.head.train.version] = named[federation.head.train.content.digest]
        step = np.zeros(P, np.int8)
        step[federation.head.train.version] = 1
        federation.commit([site.update(federation.head.train, step)], 1.0)
    named = {item.content.digest: item.data for item in federation.contents()}
    head = federation.head
    assert len(head.deltas) == MAX_DELTAS
    have = weights[2]  # of an agent that is four versions behind
    for delta in head.deltas:
        assert delta.base == sha256(have)
        have = decode(have, named[delta.content.digest], len(have))
        assert delta.target == sha256(have)
    assert sha256(have) == head.train.content.digest


# The gate


def report_on(federation: Federation, candidate: float, serve: float) -> Report:
    head = federation.head
    assert head.candidate is not None
    return Report(
        head=head.sequence,
        evaluations=(
            evaluation(head.candidate.content.digest, candidate),
            evaluation(head.serve.content.digest, serve),
        ),
    )


def with_candidate(store: Store, now_s: float = 1.0) -> Federation:
    federation, site = open_federation(store, GATED), Site()
    for _ in range(4):
        federation.commit([site.update(federation.head.train)], now_s)
    return federation


def test_a_candidate_is_opened_every_few_versions(store: Store) -> None:
    federation, site = open_federation(store, GATED), Site()
    seen = []
    for _ in range(6):
        federation.commit([site.update(federation.head.train)], 1.0)
        candidate = federation.head.candidate
        seen.append(candidate.version if candidate else None)
    assert seen == [None, None, None, 2, 2, 2]


def test_a_candidate_that_the_sites_find_better_is_served(store: Store) -> None:
    federation = with_candidate(store)
    candidate = federation.head.candidate
    assert not federation.on_report("p", "a", report_on(federation, 3.0, 1.0), 2.0).head_moved
    assert federation.on_report("q", "b", report_on(federation, 3.0, 1.0), 3.0).head_moved
    assert federation.head.serve == candidate
    assert federation.head.candidate is None


def test_a_candidate_that_the_sites_find_worse_is_dropped(store: Store) -> None:
    federation = with_candidate(store)
    serve = federation.head.serve
    for agent, site in (("p", "a"), ("q", "b")):
        federation.on_report(agent, site, report_on(federation, 0.5, 3.0), 2.0)
    assert federation.head.serve == serve
    assert federation.head.candidate is None
    assert not federation.tick(500.0).head_moved  # the judged version is not proposed again


def test_a_candidate_without_quorum_is_given_up_at_the_deadline(store: Store) -> None:
    federation = with_candidate(store, now_s=10.0)
    federation.on_report("p", "a", report_on(federation, 3.0, 1.0), 20.0)
    assert not federation.tick(59.9).head_moved
    assert federation.tick(60.0).head_moved
    assert federation.head.candidate is None
    assert federation.head.serve.version == 0


def test_judgements_of_what_no_head_names_are_not_kept(store: Store) -> None:
    federation = open_federation(store)
    stranger = bytes([9] * 32)
    federation.on_report("p", "a", Report(head=1, evaluations=(evaluation(stranger, 1.0),)), 1.0)
    assert store.evaluations(stranger) == {}


def test_judgements_survive_a_restart(store: Store) -> None:
    federation = with_candidate(store)
    federation.on_report("p", "a", report_on(federation, 3.0, 1.0), 2.0)
    again = open_federation(store, GATED)
    assert again.on_report("q", "b", report_on(again, 3.0, 1.0), 3.0).head_moved
    assert again.head.serve.version == 2


def test_once_training_is_closed_the_last_average_is_proposed(store: Store) -> None:
    federation, site = open_federation(store, GATED), Site()
    federation.commit([site.update(federation.head.train) for _ in range(2)], 1.0)
    assert federation.head.candidate is None
    store.set_training("closed")
    assert federation.tick(2.0).head_moved
    last = federation.saved.candidate
    assert last is not None
    assert last.version == 1
    assert federation.head.training == "closed"


def test_closing_and_opening_training_moves_the_head_each_time(store: Store) -> None:
    federation = open_federation(store)
    for number, training in enumerate(("closed", "open"), start=2):
        store.set_training(training)  # type: ignore[arg-type]
        assert federation.tick(1.0).head_moved
        assert (federation.head.training, federation.head.sequence) == (training, number)
        assert not federation.tick(1.0).head_moved


def test_only_what_the_head_names_is_kept(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    federation, site = open_federation(store, "[strategy]\ngoal = 1\n[gate]\nevery = 3\n"), Site()
    old = federation.head.train.content.digest
    for _ in range(12):
        federation.commit([site.update(federation.head.train)], 1.0)
    assert "version 12 from press-1" in caplog.text
    digests = {item.content.digest for item in federation.contents()}
    assert old in digests  # still served
    with closing(sqlite3.connect(tmp_path / "coordinator.db")) as database:
        assert database.execute("SELECT count(*) FROM contents").fetchone() == (len(digests),)

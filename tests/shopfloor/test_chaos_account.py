"""The sceptic can find what he looks for: doctored files make him say lost, doubled, not equal."""

import itertools
import math
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.outbox import Outbox
from shopfloor.chaos.accounts import (
    AgentAccount,
    Member,
    StoreAccount,
    Word,
    bury,
    read_buried,
    read_outbox,
    read_store,
)
from shopfloor.chaos.reckoning import Heard, reckon
from shopfloor.chaos.refold import Recipe, refold
from shopfloor.chaos.schedule import KINDS, MEAN_SPACING_S, schedule
from shopfloor.chaos.tape import Tape
from shopfloor.ledger import UpdateId
from wire.chunks import describe, sha256
from wire.codec import seal
from wire.messages import UpdateHeader
from wire.signing import PrivateKey
from wire.tensors import unflatten, write_params
from wire.topics import Topics

FEDERATION = "chaos"
INCARNATION = "00000000000000aa"
SHAPES = (("w", (3, 2)),)
START = np.arange(6, dtype=np.float32)
RECIPE = Recipe(START, SHAPES, learning_rate=0.5, staleness_cap=20, decay=2.0)
KEY = PrivateKey(bytes([5] * 32))


def update(sequence: int, agent: str = "gateway-1") -> UpdateId:
    return (agent, INCARNATION, sequence)


def digest(name: str) -> str:
    return sha256(name.encode()).hex()


def agent_of(*words: tuple[int, str, int], is_buried: bool = False) -> AgentAccount:
    """An outbox with (sequence, status, version), each with a content of its own."""
    return AgentAccount(
        "gateway-1",
        {update(number): Word(digest(f"{number}"), status, at) for number, status, at in words},
        is_buried,
    )


def store_of(*words: tuple[int, str, int]) -> StoreAccount:
    """The coordinator's side of it."""
    known = {update(number): Word(digest(f"{number}"), status, at) for number, status, at in words}
    members: dict[int, list[Member]] = {}
    for key, word in known.items():
        if word.status == "folded":
            members.setdefault(word.version, []).append(Member(key, word.digest, 1, 0))
    return StoreAccount(known, members, {}, 0, {})


NOTHING_HEARD = Heard(frozenset(), {})


def test_a_sound_run_has_nothing_lost_and_nothing_doubled() -> None:
    words = ((1, "folded", 1), (2, "refused", 0), (3, "folded", 2), (4, "dropped", 0))
    told = {(update(1), digest("1")): {("folded", 1)}}
    result = reckon([agent_of(*words)], store_of(*words), Heard(frozenset(), told))
    assert (result.lost, result.doubled) == ([], [])
    assert result.produced == 4
    assert result.outcomes == {"folded": 2, "refused": 1, "void": 0, "dropped": 1}


@pytest.mark.parametrize(
    ("agent", "store", "why"),
    [
        (((1, "pending", 0),), (), "its agent still has it as pending"),
        (((1, "committed", 0),), ((1, "folded", 1),), "its agent still has it as committed"),
        (((1, "folded", 1),), (), "its agent was told folded, the coordinator has nothing"),
        (((1, "refused", 0),), (), "its agent was told refused, the coordinator has nothing"),
        (((1, "folded", 1),), ((1, "committed", 0),), "the coordinator still has it as committed"),
        ((), ((1, "committed", 0),), "the coordinator still has it as committed"),
    ],
)
def test_an_update_without_outcome_is_found(
    agent: tuple[tuple[int, str, int], ...], store: tuple[tuple[int, str, int], ...], why: str
) -> None:
    sound = (7, "folded", 1)
    result = reckon([agent_of(*agent, sound)], store_of(*store, sound), NOTHING_HEARD)
    assert [(found.update, found.why) for found in result.lost] == [(update(1), why)]


def test_an_update_that_only_the_tape_heard_is_lost() -> None:
    heard = Heard(frozenset({(update(5), digest("5"))}), {})
    result = reckon([agent_of()], store_of(), heard)
    assert [found.update for found in result.lost] == [update(5)]


def test_what_only_a_wiped_disk_had_is_counted_apart_and_is_not_lost() -> None:
    buried = agent_of((1, "folded", 1), (2, "pending", 0), is_buried=True)
    heard = Heard(frozenset({(update(2), digest("2")), (update(3), digest("3"))}), {})
    result = reckon([buried], store_of((1, "folded", 1)), heard)
    assert (result.lost, result.doubled) == ([], [])
    assert (result.produced, result.with_their_disk) == (3, 2)


def test_what_was_committed_must_survive_the_wiping_of_its_agents_disk() -> None:
    buried = agent_of((1, "committed", 0), is_buried=True)
    result = reckon([buried], store_of(), NOTHING_HEARD)
    assert [found.update for found in result.lost] == [update(1)]
    assert reckon([buried], store_of((1, "folded", 4)), NOTHING_HEARD).lost == []


def test_agent_and_coordinator_that_do_not_agree_are_found() -> None:
    result = reckon([agent_of((1, "refused", 0))], store_of((1, "folded", 1)), NOTHING_HEARD)
    assert [found.update for found in result.doubled] == [update(1)]
    result = reckon([agent_of((1, "folded", 2))], store_of((1, "folded", 1)), NOTHING_HEARD)
    assert len(result.doubled) == 1


def test_two_outcomes_told_of_one_update_are_found() -> None:
    words = (1, "folded", 1)
    told = {(update(1), digest("1")): {("folded", 1), ("folded", 2)}}
    result = reckon([agent_of(words)], store_of(words), Heard(frozenset(), told))
    assert [found.update for found in result.doubled] == [update(1)]


def test_one_content_folded_under_two_ids_is_found() -> None:
    words = ((1, "folded", 1), (2, "folded", 2))
    store = store_of(*words)
    again = replace(store.members[2][0], digest=digest("1"))
    doctored = replace(store, members={**store.members, 2: [again]})
    result = reckon([agent_of(*words)], doctored, NOTHING_HEARD)
    assert [found.update for found in result.doubled] == [update(2)]


def test_a_second_content_under_a_restored_id_is_an_update_of_its_own_and_refused() -> None:
    other = AgentAccount("gateway-1", {update(1): Word(digest("other"), "refused", 0)})
    heard = Heard(
        frozenset({(update(1), digest("1")), (update(1), digest("other"))}),
        {
            (update(1), digest("1")): {("folded", 1)},
            (update(1), digest("other")): {("refused", 0)},
        },
    )
    result = reckon([other], store_of((1, "folded", 1)), heard)
    assert (result.lost, result.doubled) == ([], [])
    assert result.outcomes["folded"] == result.outcomes["refused"] == 1


class Fold:
    """A tape with two versions of two updates each, and the store that fits it."""

    def __init__(self, directory: Path) -> None:
        self.tape = Tape(directory, FEDERATION)
        rng = np.random.default_rng(3)
        params, versions = START, {0: self._digest(START)}
        members: dict[int, list[Member]] = {}
        for version in (1, 2):
            total, weight = np.zeros(6, np.int64), 0
            members[version] = []
            for number in (2 * version, 2 * version + 1):
                delta = rng.integers(-127, 128, 6).astype("<i1")
                self._say(number, delta.tobytes(), weight=10 + number, base=version - 1)
                total += (10 + number) * delta.astype(np.int64)
                weight += 10 + number
                content = sha256(delta.tobytes()).hex()
                member = Member(update(number), content, 10 + number, version - 1)
                members[version].append(member)
            step = params.astype(np.float64) + 0.5 * (total * (0.01 / weight))
            params = step.astype(np.float32)
            versions[version] = self._digest(params)
        told = {version: (name, 2 if version else 0) for version, name in versions.items()}
        self.store = StoreAccount({}, members, told, 0, {})

    @staticmethod
    def _digest(params: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> str:
        return sha256(write_params(unflatten(params, SHAPES))).hex()

    def _say(self, number: int, content: bytes, weight: int, base: int) -> None:
        header = UpdateHeader(
            agent="gateway-1",
            incarnation=INCARNATION,
            sequence=number,
            lineage=0,
            base_version=base,
            base_digest=bytes(32),
            examples=weight,
            weight=weight,
            scale=0.01,
            bits=8,
            content=describe(content),
        )
        envelope = seal(header, federation=FEDERATION, signer="gateway-1", counter=1, key=KEY)
        topics = Topics(FEDERATION)
        self.tape.saw(topics.update("gateway-1", INCARNATION, number, "h"), envelope)
        self.tape.saw(topics.update("gateway-1", INCARNATION, number, 0), content)

    def announced(self) -> set[tuple[int, str]]:
        return {(version, name) for version, (name, _) in self.store.versions.items()}


def test_sound_versions_follow_from_the_tape_bit_by_bit(tmp_path: Path) -> None:
    fold = Fold(tmp_path)
    assert refold(RECIPE, fold.store, fold.announced(), fold.tape) == []
    read_again = Tape(tmp_path, FEDERATION)
    assert refold(RECIPE, fold.store, fold.announced(), read_again) == []


def forget(store: StoreAccount) -> StoreAccount:
    return replace(store, members={**store.members, 2: store.members[2][:1]})


def fold_again(store: StoreAccount) -> StoreAccount:
    twice = [*store.members[2], store.members[1][0]]
    return replace(
        store,
        members={**store.members, 2: twice},
        versions={**store.versions, 2: (store.versions[2][0], 3)},
    )


def weigh_more(store: StoreAccount) -> StoreAccount:
    first, second = store.members[1]
    heavier = replace(first, coefficient=first.coefficient + 1)
    return replace(store, members={**store.members, 1: [heavier, second]})


def change_weights(store: StoreAccount) -> StoreAccount:
    return replace(store, versions={**store.versions, 2: (digest("other weights"), 2)})


def invent(store: StoreAccount) -> StoreAccount:
    stranger = replace(store.members[2][1], digest=digest("never sent"))
    return replace(store, members={**store.members, 2: [store.members[2][0], stranger]})


@pytest.mark.parametrize("doctor", [forget, fold_again, weigh_more, change_weights, invent])
def test_a_wrong_fold_is_found(
    doctor: Callable[[StoreAccount], StoreAccount], tmp_path: Path
) -> None:
    fold = Fold(tmp_path)
    assert refold(RECIPE, doctor(fold.store), fold.announced(), fold.tape)


def test_a_head_that_names_other_weights_is_found(tmp_path: Path) -> None:
    fold = Fold(tmp_path)
    forged = {(2, digest("forged"))}
    assert refold(RECIPE, fold.store, forged, fold.tape) == [
        "a head named other weights for version 2"
    ]


def test_a_content_that_was_cut_twice_is_found_by_either_cut(tmp_path: Path) -> None:
    tape, content = Tape(tmp_path, FEDERATION), bytes(range(200)) * 3
    topics = Topics(FEDERATION)
    for chunk_bytes in (600, 256):
        header = UpdateHeader(
            agent="gateway-1",
            incarnation=INCARNATION,
            sequence=1,
            lineage=0,
            base_version=0,
            base_digest=bytes(32),
            examples=1,
            weight=1,
            scale=0.01,
            bits=8,
            content=describe(content, chunk_bytes),
        )
        envelope = seal(header, federation=FEDERATION, signer="gateway-1", counter=1, key=KEY)
        tape.saw(topics.update("gateway-1", INCARNATION, 1, "h"), envelope)
    assert tape.content(update(1), sha256(content).hex()) is None
    for at in range(3):
        chunk = content[256 * at : 256 * (at + 1)]
        tape.saw(topics.update("gateway-1", INCARNATION, 1, at), chunk)
    assert tape.content(update(1), sha256(content).hex()) == content
    assert Tape(tmp_path, FEDERATION).content(update(1), sha256(content).hex()) == content


def test_bytes_that_were_changed_on_the_tape_are_missed_and_not_folded(tmp_path: Path) -> None:
    fold = Fold(tmp_path)
    member = fold.store.members[1][0]
    (tmp_path / "chunks" / member.digest).write_bytes(b"\0" * 6)
    told = refold(RECIPE, fold.store, fold.announced(), fold.tape)
    assert "the tape does not have the bytes of" in told[0]


def test_the_queries_read_what_the_programs_write(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", 1 << 30)
    outbox.add(0, 0, lambda _incarnation, _sequence: (b"header", b"content"))
    outbox.close()
    account = read_outbox("gateway-1", tmp_path / "outbox.db")
    assert account.words == {
        ("gateway-1", outbox.incarnation, 1): Word(sha256(b"content").hex(), "pending", 0)
    }
    assert read_outbox("gateway-1", tmp_path / "nothing.db").words == {}
    bury(account, tmp_path / "buried.jsonl")
    bury(AgentAccount("gateway-2", {}), tmp_path / "buried.jsonl")
    assert read_buried(tmp_path / "buried.jsonl") == [
        replace(account, is_buried=True),
        AgentAccount("gateway-2", {}, is_buried=True),
    ]
    assert read_buried(tmp_path / "nothing.jsonl") == []


def test_a_file_that_is_no_store_is_an_error_and_not_an_empty_account(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        read_store(tmp_path / "coordinator.db")


def test_one_seed_gives_one_schedule_and_another_seed_another() -> None:
    first = list(itertools.islice(schedule(1), 500))
    assert first == list(itertools.islice(schedule(1), 500))
    assert first != list(itertools.islice(schedule(2), 500))
    assert first[:100] == list(itertools.islice(schedule(1), 100))


@pytest.mark.parametrize("seed", range(10))
def test_every_kind_comes_early_and_the_mean_spacing_is_below_a_second(seed: int) -> None:
    faults = list(itertools.islice(schedule(seed), 1000))
    assert {fault.kind for fault in faults[: len(KINDS)]} == set(KINDS)
    assert faults[-1].at_s / 1000 == pytest.approx(MEAN_SPACING_S, rel=0.05)
    assert faults[39].at_s / 40 < 1.0
    assert all(before.at_s < after.at_s for before, after in itertools.pairwise(faults))


def test_faults_overlap_and_come_by_their_weights() -> None:
    faults = list(itertools.islice(schedule(3), 4000))
    ends = list(itertools.accumulate((fault.at_s + fault.lasts_s for fault in faults), max))
    overlapping = sum(fault.at_s < end for fault, end in zip(faults[1:], ends[:-1], strict=True))
    assert overlapping > len(faults) / 2
    counts, total = Counter(fault.kind for fault in faults), sum(k.weight for k in KINDS.values())
    for kind, rule in KINDS.items():
        expected = len(faults) * rule.weight / total
        assert abs(counts[kind] - expected) < 5 * math.sqrt(expected)


def test_clocks_jump_by_hours_and_by_years_both_ways() -> None:
    jumps = [fault.amount for fault in itertools.islice(schedule(4), 3000) if fault.kind == "clock"]
    for sign in (-1, 1):
        sizes = [sign * jump for jump in jumps if sign * jump > 0]
        assert any(3_600 <= size <= 48 * 3_600 for size in sizes)
        assert any(size > 365 * 86_400 for size in sizes)
    assert max(map(abs, jumps)) < 31 * 366 * 86_400


def test_a_schedule_keeps_to_the_kinds_that_are_asked_for() -> None:
    kinds = ("cut", "kill-agent")
    assert {fault.kind for fault in itertools.islice(schedule(1, kinds), 50)} == set(kinds)

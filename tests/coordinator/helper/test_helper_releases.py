"""Masks are given against the endorsements of two helpers, and against nothing less."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import msgspec
import pytest

from coordinator.helper.connection import KEPT_S
from coordinator.helper.releasing import Opening, release
from coordinator.helper.summing import Answers, pieces
from tests.coordinator.helper.secure_trial import NAMES, Report, Trial
from wire.chunks import sha256
from wire.errors import WireError
from wire.masking import Term, masks_of
from wire.messages import Endorsement, Masks, Release
from wire.signing import PrivateKey

NOTARY, UNION, INSURER = NAMES


def a_sum(trial: Trial, names: Sequence[str] = NAMES) -> tuple[bytes, list[bytes], list[Report]]:
    """An accepted manifest and its endorsements by these helpers."""
    reports = trial.five()
    trial.accepted(reports)
    envelope, words = trial.endorsed(trial.manifest(reports), names)
    return envelope, words, reports


def reason(answer: Opening | Masks) -> str:
    """Why masks are refused."""
    assert isinstance(answer, Masks)
    assert answer.content is None
    return answer.reason


def test_any_two_endorsements_open_it_at_any_helper_that_endorsed(trial: Trial) -> None:
    envelope, words, _ = a_sum(trial)
    for two in (words[:2], words[1:], [words[2], words[0]]):
        for at, name in enumerate(NAMES):
            seeds = [seed for seed in range(3) if seed != at]
            assert isinstance(trial.ask(name, envelope, two, seeds), Opening)


def test_one_endorsement_is_not_enough(trial: Trial) -> None:
    envelope, words, _ = a_sum(trial, [NOTARY])
    answer = trial.ask(NOTARY, envelope, [words[0], words[0]], [1])
    assert reason(answer) == "endorsed by notary: 2 different helpers have to agree"
    assert "an endorsement is none" in reason(trial.ask(NOTARY, envelope, [words[0], b""], [1]))


def test_where_the_charter_asks_for_three_two_endorsements_open_nothing(trial: Trial) -> None:
    """So one helper that breaks the rules can not open two sums that overlap."""
    envelope, words, _ = a_sum(trial)
    trial.charter = msgspec.structs.replace(trial.charter, epoch=2, endorsements=3)
    for name in NAMES:
        trial.restart(name)
    answer = trial.ask(NOTARY, envelope, words[:2], [1])
    assert reason(answer) == "endorsed by notary, union: 3 different helpers have to agree"
    assert isinstance(trial.ask(NOTARY, envelope, words, [1]), Opening)


def test_an_endorsement_that_was_signed_twice_by_one_helper_is_one(trial: Trial) -> None:
    envelope, words, _ = a_sum(trial, [NOTARY])
    again = trial.sealed_by(NOTARY, trial.put(NOTARY, envelope))
    assert again != words[0]
    assert "2 different helpers have to agree" in reason(
        trial.ask(NOTARY, envelope, [words[0], again], [1])
    )


def test_endorsements_of_another_manifest_are_not_enough(trial: Trial) -> None:
    envelope, words, _ = a_sum(trial)
    others = [trial.update(trial.gateway(f"mill-{at}", f"site-{at}")) for at in range(3)]
    trial.accepted(others)
    _, other_words = trial.endorsed(trial.manifest(others, number=2), NAMES)
    answer = trial.ask(NOTARY, envelope, [words[0], other_words[1]], [1])
    assert reason(answer) == "the endorsement of union is of another manifest"


def test_an_endorsement_that_the_coordinator_made_up_is_none(trial: Trial) -> None:
    envelope, words, _ = a_sum(trial, [NOTARY])
    made_up = Endorsement(manifest=sha256(envelope), accepted=True, number=1)
    for signed in (
        trial.sealed_as(made_up, UNION, trial.coordinator),
        trial.sealed_as(made_up, "coordinator", trial.coordinator),
        trial.sealed_as(made_up, "stranger", PrivateKey.generate()),
    ):
        answer = trial.ask(NOTARY, envelope, [words[0], signed], [1])
        assert "an endorsement is none" in reason(answer)


def test_a_refusal_is_no_endorsement(trial: Trial) -> None:
    envelope, words, _ = a_sum(trial, [NOTARY])
    no = Endorsement(manifest=sha256(envelope), accepted=False, reason="no")
    answer = trial.ask(NOTARY, envelope, [words[0], trial.sealed_by(UNION, no)], [1])
    assert reason(answer) == "union did not endorse it: no"


def test_who_did_not_endorse_gives_nothing_whatever_others_say(trial: Trial) -> None:
    envelope, words, _ = a_sum(trial, [NOTARY, UNION])
    answer = trial.ask(INSURER, envelope, words, [0])
    assert reason(answer) == "this helper has not endorsed that manifest"


def test_a_release_before_anything_else_is_refused(trial: Trial) -> None:
    words = [
        trial.sealed_by(name, Endorsement(manifest=sha256(b"none"), accepted=True, number=1))
        for name in NAMES
    ]
    answer = trial.ask(NOTARY, b"none", words, [1])
    assert reason(answer) == "this helper has not endorsed that manifest"


def test_seeds_that_it_does_not_hold_are_not_given(trial: Trial) -> None:
    envelope, words, _ = a_sum(trial)
    held = "this helper holds seeds 1 and 2, and no other"
    assert reason(trial.ask(NOTARY, envelope, words, [0])) == held
    assert reason(trial.ask(NOTARY, envelope, words, [0, 1])) == held
    assert reason(trial.ask(NOTARY, envelope, words, [1, 1])) == "a seed is asked for twice"


def test_a_helper_that_left_the_charter_counts_no_more(trial: Trial) -> None:
    envelope, words, _ = a_sum(trial)
    gone = msgspec.structs.replace(
        trial.charter.helpers[1], name="second", signing=bytes([9] * 32), sealing=bytes([8] * 32)
    )
    helpers = (trial.charter.helpers[0], gone, trial.charter.helpers[2])
    trial.charter = msgspec.structs.replace(trial.charter, epoch=2, helpers=helpers)
    trial.offices[NOTARY].hear_charter(trial.charter_envelope)
    answer = trial.ask(NOTARY, envelope, words[:2], [1])
    assert "the charter lists no helper 'union'" in reason(answer)
    assert isinstance(trial.ask(NOTARY, envelope, [words[0], words[2]], [1]), Opening)


def test_more_chunks_than_a_content_has_are_refused(trial: Trial) -> None:
    reports = trial.five(integers=[0] * 300_000)
    trial.accepted(reports)
    envelope, words = trial.endorsed(trial.manifest(reports), NAMES[:2])
    message = Release(
        manifest=sha256(envelope), endorsements=(words[0], words[1]), seeds=(1,), chunk_bytes=256
    )
    answer = release(trial.offices[NOTARY], trial.say(message))
    assert reason(answer) == "1200000 bytes are more than 4096 such chunks"


def test_what_the_coordinator_did_not_sign_is_not_answered(trial: Trial) -> None:
    envelope, words, _ = a_sum(trial)
    message = Release(
        manifest=sha256(envelope), endorsements=(words[0], words[1]), seeds=(1,), chunk_bytes=256
    )
    for signed in (
        trial.say(message, PrivateKey.generate()),
        trial.sealed_by(UNION, message),
    ):
        with pytest.raises(WireError):
            release(trial.offices[NOTARY], signed)


def test_seeds_are_forgotten_when_their_masks_were_given_long_ago(trial: Trial) -> None:
    envelope, words, reports = a_sum(trial)
    store = trial.offices[NOTARY].store
    now_s = time.time()
    assert store.forget_seeds(now_s + 1) == 0  # never given: a day may come
    store.given(sha256(envelope), now_s - KEPT_S - 1)
    known = store.report(reports[0].digest)
    assert known is not None
    assert known.seeds is not None
    secret = known.seeds[1]
    assert store.forget_seeds(now_s - KEPT_S) == len(reports)
    answer = trial.ask(NOTARY, envelope, words, [1])
    assert reason(answer) == "the masks were given, and their seeds are forgotten"
    assert trial.put(NOTARY, envelope).accepted
    assert not trial.show(NOTARY, [trial.update(reports[0].gateway)])[0].accepted
    store.close()
    files = (trial.directory / NOTARY).glob("helper.db*")
    assert not any(secret in file.read_bytes() for file in files)


def test_sums_in_pieces_are_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = [Term(at + 1, (bytes([at] * 32),)) for at in range(7)]
    whole = masks_of(terms, 1000, 32)
    monkeypatch.setattr("coordinator.helper.summing._PIECE_BYTES", 3 * 4000)
    cut = list(pieces(terms, 1000, 32))
    assert [len(piece) for piece in cut] == [3, 3, 1]
    message = Release(manifest=bytes(32), endorsements=(b"", b""), seeds=(1,), chunk_bytes=256)
    opening = Opening(message, (tuple(terms), tuple(terms[:1])), 1000, 32)
    beats: list[int] = []
    data = asyncio.run(Answers().of(opening, lambda: beats.append(1)))
    assert data == whole.tobytes() + masks_of(terms[:1], 1000, 32).tobytes()
    assert len(beats) == 4


def test_answers_are_kept_as_far_as_memory_goes() -> None:
    def opening(number: int) -> Opening:
        message = Release(
            manifest=bytes([number] * 32), endorsements=(b"", b""), seeds=(1,), chunk_bytes=256
        )
        return Opening(message, ((Term(1, (bytes(32),)),),), 100, 32)

    async def computed() -> list[int]:
        answers, beats = Answers(most_bytes=1000), list[int]()
        for number in (1, 2, 1, 3, 1, 2):
            before = len(beats)
            await answers.of(opening(number), partial(beats.append, number))
            assert len(beats) <= before + 1
        return beats

    assert asyncio.run(computed()) == [1, 2, 3, 2]

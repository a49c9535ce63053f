"""The recipient decrypts sums over enough sites, each update in one of them, and nothing else."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("tenseal", reason='the extra "journeyman[he]" is not installed')

from coordinator.recipient.keys import make_recipient, read_recipient
from coordinator.secure.encrypted import Question
from coordinator.secure.sums import Terms
from tests.coordinator.recipient.encrypted_trial import COUNT, SITES, Trial
from wire.bfv import MOST_WEIGHT, add
from wire.bfv_keys import decrypt
from wire.charters import sign_charter
from wire.chunks import sha256
from wire.encrypted import belonging_of, open_ciphertexts
from wire.errors import MalformedError, SettingsError, SignatureError, WireError
from wire.messages import ManifestMember, Masked, RevocationList, Revoked

RNG = np.random.default_rng(4)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    made = Trial(tmp_path)
    yield made
    made.desk.store.close()


def test_the_version_is_bit_equal_to_the_plain_fold(trial: Trial) -> None:
    sent = trial.five(RNG)
    digest, question = trial.decided(sent)
    endorsement = trial.ask(question)
    assert (endorsement.accepted, endorsement.reason) == (True, "")
    sums = trial.desk.decrypt(digest, trial.sums.ciphertexts(digest))
    opened = trial.sums.open(digest, sums)
    shares = {each.report: each.coefficient for each in opened.manifest.members}
    assert len(shares) == 5
    plain = sum(shares[each.report] * each.integers for each in sent)
    assert opened.sums.shape == (1, COUNT)
    assert np.array_equal(opened.sums[0], plain)
    assert not trial.store.secure.undecided()


def test_asking_again_after_any_crash_gives_the_same(trial: Trial) -> None:
    digest, question = trial.decided(trial.five(RNG))
    first = trial.ask(question)
    ciphertexts = trial.sums.ciphertexts(digest)
    before = trial.desk.decrypt(digest, ciphertexts)
    trial.desk.store.close()
    trial.desk = trial.opened()
    assert trial.desk.endorse(question.manifest) == first
    assert trial.sums.ciphertexts(digest) == ciphertexts  # the coordinator's flood is the same
    assert trial.desk.decrypt(digest, ciphertexts) == before


def test_neither_side_alone_can_read_one_update(trial: Trial) -> None:
    (sent, *_) = trial.five(RNG)
    belonging = belonging_of(sent.header, trial.charter.federation)
    secret = trial.desk.keys.bfv
    with pytest.raises(WireError):  # the recipient, with all that the broker carried
        decrypt(secret, sent.content[48:], COUNT)
    with pytest.raises(SignatureError):
        open_ciphertexts(trial.desk.keys.signing.raw, sent.content, belonging, COUNT)
    ciphertexts = open_ciphertexts(trial.sealing.raw, sent.content, belonging, COUNT)
    with pytest.raises(SettingsError):  # the coordinator, with all keys that it has
        decrypt(trial.sealing.raw, ciphertexts, COUNT)
    assert np.array_equal(decrypt(secret, ciphertexts, COUNT), sent.integers)  # both together


def test_an_update_copied_by_another_agent_is_refused(trial: Trial) -> None:
    (sent, *_) = trial.five(RNG)
    thief = trial.gateway("thief", "hill")
    copied = msgspec.structs.replace(sent.header, agent=thief.agent)
    with pytest.raises(SignatureError, match="altered, or is not for this key"):
        trial.sums.check(copied, sent.content, COUNT)


def test_each_update_is_in_one_sum_for_ever(trial: Trial) -> None:
    sent = trial.five(RNG)
    _, question = trial.decided(sent)
    assert trial.ask(question).accepted
    another = trial.ask(trial.forged(question, number=2))
    assert not another.accepted
    assert "5 members were promised to another sum" in another.reason
    assert set(another.refused) == {each.report for each in sent}


def test_an_update_under_a_second_header_is_still_the_same(trial: Trial) -> None:
    sent = trial.five(RNG)
    _, question = trial.decided(sent)
    assert trial.ask(question).accepted
    again = [trial.update(each.identity, weight=each.header.weight) for each in sent]
    renamed = tuple(
        ManifestMember(report=new.report, coefficient=member.coefficient)
        for new, member in zip(again, trial.manifest(question).members, strict=True)
    )
    shown = tuple((each.envelope, each.identity.credential_envelope) for each in again)
    forged = trial.forged(question, number=2, members=renamed)
    refused = trial.ask(Question(forged.manifest, shown))
    assert "promised to another sum" in refused.reason


def changed(trial: Trial, question: Question, change: dict[int, int]) -> dict[str, Any]:
    members = trial.manifest(question).members
    return {
        "members": tuple(
            msgspec.structs.replace(each, coefficient=change.get(place, each.coefficient))
            for place, each in enumerate(members)
        )
    }


CHEATS: dict[str, tuple[Callable[[Trial, Question], dict[str, Any]], str]] = {
    "two sites": (
        lambda trial, question: {"members": trial.manifest(question).members[:2]},
        "the charter asks for 3",
    ),
    "one twice": (
        lambda trial, question: {"members": trial.manifest(question).members[:1] * 5},
        "stands twice",
    ),
    "nearly one site": (
        lambda trial, question: changed(trial, question, dict.fromkeys(range(1, 5), 1)),
        "weigh as",
    ),
    "a coefficient": (
        lambda trial, question: changed(trial, question, {0: 11}),
        "not what weight and staleness make it",
    ),
    "another charter": (lambda _, __: {"epoch": 2}, "made under charter 2"),
    "another scale": (lambda _, __: {"scale": 0.02}, "of another kind"),
    "another length": (lambda _, __: {"count": 9000}, "of another kind"),
    "another lineage": (lambda _, __: {"lineage": 1}, "of another kind"),
    "figures": (lambda _, __: {"purpose": "evaluation"}, "only updates"),
    "an unknown member": (
        lambda trial, question: {
            "members": (
                *trial.manifest(question).members,
                ManifestMember(report=bytes(32), coefficient=1),
            )
        },
        "1 of 6 members were not shown",
    ),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_sum_that_must_not_be_opened_is_refused(trial: Trial, cheat: str) -> None:
    _, question = trial.decided(trial.five(RNG))
    otherwise, reason = CHEATS[cheat]
    answer = trial.ask(trial.forged(question, **otherwise(trial, question)))
    assert not answer.accepted
    assert reason in answer.reason
    assert trial.ask(question).accepted  # and the honest one still is


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"encrypted": bytes(32)}, "not encrypted for the charter's recipient"),
        ({"encrypted": b""}, "not encrypted for the charter's recipient"),
        ({"kept": 3}, "sparse"),
        ({"dropped": "quota"}, "tombstone"),
        ({"base_digest": bytes(32)}, "another version 7"),
        (
            {
                "masked": Masked(
                    ring=64,
                    ephemeral=bytes(32),
                    commitments=(bytes(32),) * 3,
                    boxes=(bytes(80),) * 3,
                )
            },
            "masked",
        ),
    ],
)
def test_a_member_of_another_kind_is_refused(
    trial: Trial, others: dict[str, Any], reason: str
) -> None:
    sent = trial.five(RNG)
    _, question = trial.decided(sent)
    odd = trial.update(sent[0].identity, weight=sent[0].header.weight, **others)
    members = trial.manifest(question).members
    named = (msgspec.structs.replace(members[0], report=odd.report), *members[1:])
    forged = trial.forged(question, members=named)
    shown = ((odd.envelope, odd.identity.credential_envelope), *question.shown)
    answer = trial.ask(Question(forged.manifest, shown))
    assert not answer.accepted
    assert reason in answer.reason


@pytest.mark.parametrize("is_shown_before", [True, False])
def test_sites_that_the_charter_does_not_list_are_refused(
    trial: Trial, is_shown_before: bool
) -> None:
    _, question = trial.decided(trial.five(RNG))
    if is_shown_before:
        trial.show(question)
    trial.charter = msgspec.structs.replace(trial.charter, epoch=2, sites=SITES[:3])
    trial.desk.charter.take(sign_charter(trial.charter, trial.root))
    if not is_shown_before:
        trial.show(question)
    answer = trial.desk.endorse(trial.forged(question, epoch=2).manifest)
    assert not answer.accepted
    assert "is not one of the" in answer.reason
    assert len(answer.refused) == 1


def test_a_revoked_credential_is_refused(trial: Trial) -> None:
    sent = trial.five(RNG)
    _, question = trial.decided(sent)
    entry = Revoked(agent=sent[2].header.agent, serial=1)
    revoked = RevocationList(number=1, entries=(entry,))
    trial.desk.hear_revoked(trial.signed(revoked, "enrolment", trial.enrolment))
    assert "is revoked" in trial.ask(question).reason


def test_only_the_coordinator_is_answered(trial: Trial) -> None:
    _, question = trial.decided(trial.five(RNG))
    body = trial.manifest(question)
    with pytest.raises(SignatureError):
        trial.desk.endorse(trial.signed(body, "coordinator", trial.enrolment))


def test_a_recipient_that_the_charter_does_not_name_does_nothing(trial: Trial) -> None:
    digest, question = trial.decided(trial.five(RNG))
    assert trial.ask(question).accepted
    other = make_recipient(trial.directory / "other", "auditor")
    trial.charter = msgspec.structs.replace(trial.charter, epoch=2, recipient=other)
    trial.desk.charter.take(sign_charter(trial.charter, trial.root))
    assert "the charter's signing is" in trial.ask(question).reason
    with pytest.raises(MalformedError, match="charter 2"):
        trial.desk.decrypt(digest, trial.sums.ciphertexts(digest))


def test_nothing_is_decrypted_that_was_not_promised_or_not_named(trial: Trial) -> None:
    digest, question = trial.decided(trial.five(RNG))
    with pytest.raises(MalformedError, match="not endorsed here"):
        trial.desk.decrypt(digest, trial.sums.ciphertexts(digest))
    assert trial.ask(question).accepted
    right = trial.sums.ciphertexts(digest)
    for wrong in (b"", right[:-1], bytes(len(right))):
        with pytest.raises(MalformedError, match="not the ciphertexts that the manifest names"):
            trial.desk.decrypt(digest, wrong)


def test_numbers_that_no_honest_sum_has_are_not_told(trial: Trial) -> None:
    sent = trial.five(RNG)
    _, question = trial.decided(sent)
    far = trial.update(sent[0].identity, np.full(COUNT, 30_000))
    belonging = belonging_of(far.header, trial.charter.federation)
    one = open_ciphertexts(trial.sealing.raw, far.content, belonging, COUNT)
    ciphertexts = add([(one, MOST_WEIGHT)], COUNT)
    forged = trial.forged(question, subject=sha256(ciphertexts))
    assert trial.ask(forged).accepted
    with pytest.raises(MalformedError, match="no sum of integers of 8 bits"):
        trial.desk.decrypt(sha256(forged.manifest), ciphertexts)


def test_sums_of_buckets_come_one_after_the_other(trial: Trial) -> None:
    sent = trial.five(RNG)
    sent += [trial.update(trial.gateway("press-sixth", "dale"), RNG.integers(-9, 9, COUNT))]
    for each in sent:
        trial.take(each)
    terms = Terms(version=8, weight_cap=100, staleness_cap=20, is_damped=True, buckets=2)
    with trial.store.transaction():
        assert trial.sums.propose(terms, lambda _: True)
    ((digest, _),) = trial.store.secure.undecided()
    question = trial.sums.question(digest)
    assert trial.ask(question).accepted
    opened = trial.sums.open(digest, trial.desk.decrypt(digest, trial.sums.ciphertexts(digest)))
    by_report = {each.report: each.integers for each in sent}
    expected = np.zeros((2, COUNT), np.int64)
    for member in opened.manifest.members:
        expected[member.bucket] += member.coefficient * by_report[member.report]
    assert np.array_equal(opened.sums, expected)


def test_keys_are_made_once_and_say_who_they_are(tmp_path: Path) -> None:
    made = make_recipient(tmp_path, "auditor")
    assert read_recipient(tmp_path / "auditor.recipient") == made
    assert made.context == sha256((tmp_path / "auditor.context").read_bytes())
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("*.key")}
    assert modes == {"auditor.signing.key": 0o600, "auditor.bfv.key": 0o600}
    with pytest.raises(SettingsError, match="never overwritten"):
        make_recipient(tmp_path, "auditor")

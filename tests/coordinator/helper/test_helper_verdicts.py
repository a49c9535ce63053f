"""Every report that a helper must refuse, each otherwise well-formed; and the words it says."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coordinator.helper.examining import examine
from coordinator.helper.judging import judge
from tests.coordinator.helper.secure_trial import (
    BASE,
    INCARNATION,
    NAMES,
    Gateway,
    Report,
    Trial,
)
from wire.chunks import describe, sha256
from wire.codec import seal
from wire.errors import WireError
from wire.messages import Base, Examine, Head, Masked, Policy, RevocationList, Revoked, VersionRef
from wire.signing import PrivateKey

NOTARY = NAMES[0]


def verdict_of(trial: Trial, report: Report, **others: Any) -> str:
    """Why the notary refuses a report; empty when it accepts it."""
    (verdict,) = trial.show(NOTARY, [report], **others)
    assert verdict.report == report.digest
    assert verdict.accepted == (not verdict.reason)
    return verdict.reason


def altered(trial: Trial, report: Report, **masked: Any) -> Report:
    """The report with another `masked`, signed by its agent as well."""
    assert report.header.masked is not None
    other = msgspec.structs.replace(report.header.masked, **masked)
    header = msgspec.structs.replace(report.header, masked=other)
    return trial.signed(report.gateway, header)


def test_an_honest_report_is_accepted_and_the_answer_stays_the_same(trial: Trial) -> None:
    report = trial.update(trial.gateway("press-1", "north"))
    assert verdict_of(trial, report) == ""
    assert verdict_of(trial, report) == ""
    trial.restart(NOTARY)
    assert verdict_of(trial, report, bases=()) == ""


def test_a_report_under_another_header_is_a_replay(trial: Trial) -> None:
    gateway = trial.gateway("press-1", "north")
    first, second = trial.update(gateway), trial.update(gateway)
    assert first.digest != second.digest
    assert verdict_of(trial, first) == ""
    assert "press-1 00112233445566ff/1 was shown under another header" in verdict_of(trial, second)
    assert verdict_of(trial, trial.update(gateway, sequence=2)) == ""


def test_one_examine_can_not_hold_one_id_twice_either(trial: Trial) -> None:
    gateway = trial.gateway("press-1", "north")
    verdicts = trial.show(NOTARY, [trial.update(gateway), trial.update(gateway)])
    assert [each.accepted for each in verdicts] == [True, False]


def test_an_unknown_base_is_refused(trial: Trial) -> None:
    report = trial.update(trial.gateway("press-1", "north"))
    assert "nobody told this helper the digest of version 7" in verdict_of(trial, report, bases=())


def test_a_second_digest_of_a_version_is_refused_and_alarmed(trial: Trial) -> None:
    told = trial.update(trial.gateway("press-1", "north"))
    assert verdict_of(trial, told) == ""
    other = Base(version=7, digest=bytes([8] * 32))
    split = trial.update(trial.gateway("press-2", "south"), base_digest=other.digest)
    reason = verdict_of(trial, split, bases=[other])
    assert reason == "version 7 is 0707070707070707…, and press-2 trained from 0808080808080808…"
    ((kind, _, number),) = trial.offices[NOTARY].store.alarms()
    assert (kind, number) == ("other base", 2)  # the coordinator said it, and a site has seen it


def test_the_digest_of_a_head_on_the_broker_counts_as_the_first(trial: Trial) -> None:
    content = describe(b"the weights of version 7")
    version = VersionRef(version=7, content=content)
    head = Head(
        sequence=1, lineage=0, bundle=content, train=version, serve=version, policy=Policy()
    )
    trial.offices[NOTARY].hear_head(trial.say(head))
    report = trial.update(trial.gateway("press-1", "north"))
    assert f"version 7 is {content.digest.hex()[:16]}" in verdict_of(trial, report)
    with pytest.raises(WireError, match="signature"):
        trial.offices[NOTARY].hear_head(trial.say(head, PrivateKey.generate()))


def without_masks(trial: Trial, gateway: Gateway) -> Report:
    return trial.update(gateway, masked=None)


def with_an_altered_vector(trial: Trial, gateway: Gateway) -> Report:
    return trial.update(gateway, content=describe(bytes(12)))


def with_an_altered_box(trial: Trial, gateway: Gateway) -> Report:
    report = trial.update(gateway)
    assert report.header.masked is not None
    boxes = [bytes([box[0] ^ 1]) + box[1:] for box in report.header.masked.boxes]
    return altered(trial, report, boxes=tuple(boxes))


def with_a_box_of_another_report(trial: Trial, gateway: Gateway) -> Report:
    other, report = trial.update(gateway, sequence=9), trial.update(gateway)
    assert other.header.masked is not None
    return altered(trial, report, **msgspec.structs.asdict(other.header.masked))


def under_another_agents_name(trial: Trial, gateway: Gateway) -> Report:
    """All of an honest report but who it is of: its masks would be taken off twice."""
    honest = trial.update(trial.gateway("mill-1", "west"))
    header = msgspec.structs.replace(honest.header, agent=gateway.name)
    return trial.signed(gateway, header)


def in_another_ring(trial: Trial, gateway: Gateway) -> Report:
    return altered(trial, trial.update(gateway), ring=16)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (without_masks, "the update is not masked"),
        (with_an_altered_vector, "no box of the report opens with this helper's key"),
        (with_an_altered_box, "no box of the report opens with this helper's key"),
        (with_a_box_of_another_report, "no box of the report opens with this helper's key"),
        (under_another_agents_name, "no box of the report opens with this helper's key"),
        (in_another_ring, "no box of the report opens with this helper's key"),
    ],
)
def test_what_its_agent_signed_but_can_not_be_opened_is_refused(
    trial: Trial, make: Callable[[Trial, Gateway], Report], reason: str
) -> None:
    assert verdict_of(trial, make(trial, trial.gateway("press-1", "north"))) == reason


def sealed_otherwise(report: Report, keys: list[bytes], sealed: list[bytes]) -> Masked:
    """Boxes that open for a report and hold other seeds than it commits to, by wire/SECURE.md."""
    assert report.header.masked is not None
    commitments = report.header.masked.commitments
    key = X25519PrivateKey.generate()
    ephemeral = key.public_key().public_bytes_raw()
    name = f"{INCARNATION}/1"
    words = [b"journeyman-v1 masks", b"plant-net", report.gateway.name.encode(), name.encode()]
    bound = b"\0".join([*words, b"32"]) + b"\0" + sha256(report.vector) + ephemeral
    boxes = []
    for helper, sealing in enumerate(keys):
        shared = key.exchange(X25519PublicKey.from_public_bytes(sealing))
        info = b"journeyman-v1 masks box" + b"\0" + bytes([helper]) + ephemeral + sealing
        box_key = HKDF(SHA256(), 32, None, info).derive(shared)
        both = b"".join(seed for at, seed in enumerate(sealed) if at != helper)
        data = sha256(bound + b"".join(commitments))
        boxes.append(ChaCha20Poly1305(box_key).encrypt(bytes(12), both, data))
    return Masked(
        ring=32,
        ephemeral=ephemeral,
        commitments=commitments,
        boxes=(boxes[0], boxes[1], boxes[2]),
    )


def test_seeds_that_are_not_the_committed_ones_are_refused_by_each_helper(trial: Trial) -> None:
    """An agent that tells two helpers different seeds would make a sum that nobody can open."""
    report = trial.update(trial.gateway("press-1", "north"))
    keys = [helper.sealing for helper in trial.charter.helpers]
    masked = sealed_otherwise(report, keys, [bytes([at] * 32) for at in range(3)])
    header = msgspec.structs.replace(report.header, masked=masked)
    for helper in NAMES:
        (verdict,) = trial.show(helper, [trial.signed(report.gateway, header)])
        assert "is not the one that the report commits to" in verdict.reason


def test_commitments_that_were_exchanged_are_refused(trial: Trial) -> None:
    report, other = (trial.update(trial.gateway(name, "north")) for name in ("press-1", "press-2"))
    assert other.header.masked is not None
    mixed = altered(trial, report, commitments=other.header.masked.commitments)
    assert verdict_of(trial, mixed) == "no box of the report opens with this helper's key"


def test_credentials_that_are_not_of_the_charters_enrolment_key_are_none(trial: Trial) -> None:
    stranger = Trial(trial.directory / "elsewhere")
    fake = stranger.gateway("press-1", "north")
    stranger.close()
    reason = verdict_of(trial, trial.update(fake))
    assert "no credential of press-1 by the charter's enrolment key came with it" in reason
    assert "the signature does not verify" in reason


def test_a_header_that_the_credentials_key_did_not_sign_is_refused(trial: Trial) -> None:
    honest, thief = trial.gateway("press-1", "north"), PrivateKey.generate()
    forged = trial.update(Gateway("press-1", thief, honest.credential, "north"))
    reason = "the key in the credential of press-1 did not sign the report"
    assert verdict_of(trial, forged) == reason


def test_a_report_signed_by_one_agent_in_the_name_of_another_is_refused(trial: Trial) -> None:
    gateway = trial.gateway("press-1", "north")
    report = trial.update(gateway, agent="press-2")
    assert verdict_of(trial, report) == "a report of press-2 is signed by press-1"


def test_a_revoked_credential_is_refused_and_a_newer_one_is_not(trial: Trial) -> None:
    said = RevocationList(number=1, entries=(Revoked(agent="press-1", serial=1),))
    envelope = seal(
        said, federation="plant-net", signer="enrolment", counter=1, key=trial.enrolment
    )
    before = trial.update(trial.gateway("mill-1", "west"))
    assert verdict_of(trial, before) == ""
    trial.offices[NOTARY].hear_revoked(envelope)
    report = trial.update(trial.gateway("press-1", "north"))
    assert verdict_of(trial, report) == "credential 1 of press-1 is revoked"
    assert verdict_of(trial, trial.update(trial.gateway("press-1", "north", serial=2))) == ""


def test_a_site_that_the_charter_does_not_list_is_refused(trial: Trial) -> None:
    sites = ("north", "south", "east")
    trial.charter = msgspec.structs.replace(trial.charter, epoch=2, sites=sites)
    trial.offices[NOTARY].hear_charter(trial.charter_envelope)
    report = trial.update(trial.gateway("fake-1", "nowhere"))
    assert "site nowhere is not one of the 3 that charter 2 lists" in verdict_of(trial, report)
    assert verdict_of(trial, trial.update(trial.gateway("press-1", "north"))) == ""


@pytest.mark.parametrize(
    "others", [{"dropped": "quota"}, {"kept": 3}, {"encrypted": bytes(32)}], ids=str
)
def test_what_can_not_be_summed_is_refused(trial: Trial, others: dict[str, Any]) -> None:
    report = trial.update(trial.gateway("press-1", "north"), **others)
    assert "a masked update is whole" in verdict_of(trial, report)


def test_what_the_coordinator_did_not_sign_is_not_answered(trial: Trial) -> None:
    report = trial.update(trial.gateway("press-1", "north"))
    message = Examine(
        reports=(report.envelope,), credentials=(report.gateway.credential,), bases=(BASE,)
    )
    office = trial.offices[NOTARY]
    with pytest.raises(WireError, match="signature"):
        examine(office, trial.say(message, PrivateKey.generate()))
    with pytest.raises(WireError, match="signed by 'union'"):
        examine(office, trial.sealed_by("union", message))
    assert office.store.report(report.digest) is None


@pytest.mark.parametrize("kind", [b"examine", b"manifest", b"release", b"figures", b""])
def test_any_bytes_are_refused_with_a_reason(trial: Trial, kind: bytes) -> None:
    for tail in (b"", bytes(100), b"\xff" * 300):
        with pytest.raises(WireError):
            judge(trial.offices[NOTARY], b"\x96\x01" + kind + tail)
    office = trial.offices[NOTARY]
    answer = judge(office, trial.say(Examine(reports=(b"", b"\x96\x01\xa7figures", b"x" * 999))))
    assert [each.accepted for each in answer.items] == [False] * 3  # type: ignore[union-attr]

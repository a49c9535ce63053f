"""Renewal and revocation: who gets a newer certificate, and whose is not believed any more."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from wire.certificates import check_client, make_authority
from wire.charters import sign_charter
from wire.codec import open_envelope, seal
from wire.enrolment import (
    Enroller,
    EnrolmentError,
    answered_certificate,
    encode_token,
    make_request,
    new_token,
)
from wire.enrolment_ledger import Ledger, open_ledger
from wire.errors import MalformedError, SignatureError, WireError
from wire.issuing import Key, PublicKey, client_certificate, new_key, signing_request
from wire.keys import make_federation, read_enroller
from wire.messages import Charter, Credential, Renewal, RevocationList, Revoked
from wire.renewal import Newer, Present, is_due, may_be_made, read_renewed
from wire.revocations import crl_left, read_crl, sign_revoked, write_crl
from wire.signing import PrivateKey, read_private_key
from wire.trust import (
    ENROLMENT,
    ROOT,
    highest_revoked,
    read_charter,
    read_credential,
    read_revoked,
)

NOW = datetime.now(UTC).replace(microsecond=0)
FEDERATION, AGENT = "plant-net", "press-1"


@dataclass
class Scene:
    """An authority, its ledger, and one enrolled agent."""

    directory: Path
    enroller: Enroller
    ledger: Ledger
    key: PrivateKey
    tls_key: Key
    certificate: x509.Certificate

    @property
    def credential(self) -> Credential:
        serial = self.ledger.last_serial(AGENT)
        return Credential(
            agent=AGENT, site="plant-a", public_key=self.key.public.raw, serial=serial
        )

    def question(
        self,
        credential: Credential | None = None,
        key: PrivateKey | None = None,
        tls: Key | None = None,
    ) -> bytes:
        """What the agent asks; or somebody else, with another key."""
        enveloped = seal(
            credential or self.credential,
            federation=FEDERATION,
            signer=ENROLMENT,
            counter=1,
            key=self.enroller.key,
        )
        asked = Renewal(
            credential=enveloped, signing_request=signing_request(tls or self.tls_key, AGENT)
        )
        return seal(asked, federation=FEDERATION, signer=AGENT, counter=7, key=key or self.key)

    def renewed(self, now: datetime, question: bytes | None = None) -> bytes:
        return self.ledger.renew(question or self.question(), AGENT, self.enroller, now, 90)

    @property
    def present(self) -> Present:
        return Present(
            self.enroller.root,
            self.enroller.trust,
            self.credential,
            self.enroller.ca.certificate,
            self.certificate,
        )

    def read(self, now: datetime) -> Newer:
        return read_renewed(self.renewed(now), self.present)


def enrolled(scene: Scene, now: datetime, *, days: float) -> x509.Certificate:
    """Enrol the agent, again or for the first time."""
    end = int((now + timedelta(hours=1)).timestamp())
    token = new_token(scene.enroller, AGENT, "plant-a", end)
    scene.ledger.add(token, now)
    asked = make_request(token, scene.key, scene.tls_key)
    assert encode_token(token)
    return answered_certificate(scene.ledger.grant(asked, scene.enroller, now, days=days))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Enrolled now, for 90 days."""
    make_federation(tmp_path, FEDERATION)
    make_authority(tmp_path, FEDERATION)
    enroller, key, tls_key = read_enroller(tmp_path), PrivateKey(bytes([5] * 32)), new_key()
    with open_ledger(tmp_path) as ledger:
        made = Scene(tmp_path, enroller, ledger, key, tls_key, enroller.ca.certificate)
        made.certificate = enrolled(made, NOW, days=90)
        yield made


def test_a_certificate_is_asked_for_in_its_last_third_and_made_from_its_half_on(
    scene: Scene,
) -> None:
    at = {days: NOW + timedelta(days) for days in (-3650, 44, 46, 59, 61, 91)}
    assert [is_due(scene.certificate, now) for now in at.values()] == [False] * 4 + [True] * 2
    made = [may_be_made(scene.certificate, now) for now in at.values()]
    assert made == [False] * 2 + [True] * 4


def test_who_asks_early_gets_what_it_has_and_who_asks_late_gets_the_next_once(
    scene: Scene,
) -> None:
    early, late = NOW + timedelta(days=10), NOW + timedelta(days=70)
    assert scene.read(early).certificate == scene.certificate
    newer = scene.read(late)
    check_client(newer.certificate, scene.enroller.ca.certificate, AGENT, "it")
    assert newer.certificate.not_valid_after_utc == late + timedelta(days=90)
    assert newer.certificate.public_key() == scene.tls_key.public_key()
    assert scene.read(late + timedelta(days=1)).certificate == newer.certificate
    assert newer.own == scene.credential


def test_an_agent_that_was_away_past_the_end_can_still_be_renewed(scene: Scene) -> None:
    late = NOW + timedelta(days=400)
    assert scene.read(late).certificate.not_valid_after_utc > late


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (lambda scene: scene.question(key=PrivateKey(bytes([9] * 32))), "does not verify"),
        (lambda scene: scene.question(tls=new_key()), "another key"),
        (
            lambda scene: scene.question(
                Credential(agent="press-2", site="a", public_key=scene.key.public.raw, serial=1)
            ),
            "credential of press-2",
        ),
        (
            lambda scene: scene.question(
                Credential(agent=AGENT, site="a", public_key=scene.key.public.raw, serial=2)
            ),
            "the last credential of press-1 is 1",
        ),
        (lambda scene: scene.question()[:-1], "malformed"),
    ],
)
def test_what_is_not_the_agents_own_question_is_refused(
    scene: Scene, asked: Callable[[Scene], bytes], reason: str
) -> None:
    with pytest.raises(WireError, match=reason):
        scene.renewed(NOW + timedelta(days=70), asked(scene))


def test_a_question_under_a_replaced_credential_is_refused(scene: Scene) -> None:
    before = scene.question()
    enrolled(scene, NOW, days=90)
    with pytest.raises(EnrolmentError, match="is 2"):
        scene.renewed(NOW, before)


def test_an_agent_refuses_what_is_older_or_not_for_it(scene: Scene) -> None:
    answer, present = scene.renewed(NOW + timedelta(days=70)), scene.present
    newer = read_renewed(answer, present)
    stale = scene.renewed(NOW + timedelta(days=71))
    later = client_certificate(
        scene.enroller.ca, AGENT, scene.tls_key.public_key(), NOW + timedelta(days=80), days=9
    )
    with pytest.raises(MalformedError, match="made before the one in use"):
        read_renewed(stale, replace(present, certificate=later))
    with pytest.raises(MalformedError, match="credential 1 is older than the one in use, 2"):
        read_renewed(answer, replace(present, credential=replaced(scene.credential, serial=2)))
    with pytest.raises(SignatureError, match="another key"):
        read_renewed(answer, replace(present, credential=replaced(scene.credential, agent="b")))
    with pytest.raises(SignatureError, match="root"):
        read_renewed(answer, replace(present, root=scene.key.public))
    altered = bytearray(answer)
    altered[-100] ^= 1
    with pytest.raises(WireError):
        read_renewed(bytes(altered), present)
    assert newer.trust == present.trust


def replaced(credential: Credential, **changes: object) -> Credential:
    fields = {name: getattr(credential, name) for name in credential.__struct_fields__}
    return Credential(**(fields | changes))


def test_a_newer_charter_comes_along_and_an_older_one_is_refused(scene: Scene) -> None:
    root = read_private_key(scene.directory / "root.key")
    opened = scene.enroller.trust.charter
    fields = {name: getattr(opened, name) for name in opened.__struct_fields__}
    other = PrivateKey.generate()
    second = Charter(**(fields | {"epoch": 2, "enrolment_key": other.public.raw}))
    data = seal(second, federation=FEDERATION, signer=ROOT, counter=2, key=root)
    trust = read_charter(data, root.public)
    question, present = scene.question(), scene.present
    old = scene.renewed(NOW)
    # The authority has a new key: it knows the agent from its ledger and from its old credential,
    # which the agent shows under the charter that it still has.
    scene.enroller = replace(scene.enroller, charter=data, trust=trust, key=other)
    assert read_renewed(scene.renewed(NOW, question), present).trust == trust
    assert open_envelope(old, "renewed").signer == ENROLMENT
    with pytest.raises(MalformedError, match="charter 1 is older than the one in use, 2"):
        read_renewed(old, replace(present, trust=trust))


def test_revoking_an_agent_ends_its_credential_certificates_and_tokens(scene: Scene) -> None:
    newer = scene.read(NOW + timedelta(days=70)).certificate
    assert [entry.state for entry in scene.ledger.revoke(AGENT, NOW)] == ["used"]
    (revoked,) = scene.ledger.issued.revocations()
    assert (revoked.agent, revoked.serial, scene.ledger.issued.number) == (AGENT, 1, 1)
    serials = {number for number, _ in scene.ledger.issued.revoked_certificates(NOW)}
    assert serials == {scene.certificate.serial_number, newer.serial_number}
    later = NOW + timedelta(days=100)  # the first one has ended by itself
    assert [number for number, _ in scene.ledger.issued.revoked_certificates(later)] == [
        newer.serial_number
    ]
    with pytest.raises(EnrolmentError, match="was revoked: enrol it again"):
        scene.renewed(NOW + timedelta(days=70))
    assert scene.ledger.revoke(AGENT, NOW) == []
    assert scene.ledger.issued.number == 1


def test_an_agent_that_is_enrolled_again_is_not_revoked(scene: Scene) -> None:
    scene.ledger.revoke(AGENT, NOW)
    scene.certificate = enrolled(scene, NOW, days=90)
    assert scene.credential.serial == 2
    assert scene.read(NOW + timedelta(days=70)).own.serial == 2
    serials = {number for number, _ in scene.ledger.issued.revoked_certificates(NOW)}
    assert scene.certificate.serial_number not in serials
    scene.ledger.revoke(AGENT, NOW)
    assert scene.ledger.issued.revocations()[0].serial == 2
    assert scene.ledger.issued.number == 2


def test_a_credential_from_elsewhere_can_be_revoked_and_never_comes_back(scene: Scene) -> None:
    scene.ledger.revoke("press-9", NOW, serial=4)
    assert scene.ledger.issued.revoked_serial("press-9") == 4
    token = new_token(scene.enroller, "press-9", "a", int(NOW.timestamp()) + 60)
    scene.ledger.add(token, NOW)
    scene.ledger.grant(make_request(token, scene.key, scene.tls_key), scene.enroller, NOW, days=1)
    assert scene.ledger.last_serial("press-9") == 5


def test_the_signed_list_says_who_is_revoked_and_nobody_else_can_sign_one(scene: Scene) -> None:
    data = sign_revoked(scene.enroller, 3, [(AGENT, 2), ("press-2", 9)])
    revoked = read_revoked(data, scene.enroller.trust)
    assert revoked.number == 3
    assert [highest_revoked(revoked, name) for name in (AGENT, "press-2", "press-3")] == [2, 9, 0]
    said = RevocationList(number=4, entries=(Revoked(agent=AGENT, serial=1),))
    forged = seal(said, federation=FEDERATION, signer=ENROLMENT, counter=4, key=scene.key)
    with pytest.raises(SignatureError):
        read_revoked(forged, scene.enroller.trust)


def test_the_brokers_list_holds_the_serial_numbers_and_is_the_cas(scene: Scene) -> None:
    assert read_crl(scene.directory) is None
    write_crl(scene.directory, scene.enroller, [(scene.certificate.serial_number, NOW)], NOW)
    crl = read_crl(scene.directory)
    assert crl is not None
    ca = scene.enroller.ca.certificate
    assert crl.issuer == ca.subject
    key = ca.public_key()
    assert isinstance(key, PublicKey)
    assert crl.is_signature_valid(key)
    assert [each.serial_number for each in crl] == [scene.certificate.serial_number]
    assert crl_left(crl, NOW) > 0.9
    assert crl_left(crl, NOW + timedelta(days=31)) < 0
    (scene.directory / "ca.crl").write_bytes(b"-----BEGIN X509 CRL-----\ncut")
    assert read_crl(scene.directory) is None


def rotated(scene: Scene, **changes: object) -> Enroller:
    """The same authority under the next charter, with a new key."""
    new = PrivateKey(bytes([66] * 32))
    before = scene.enroller.trust.charter
    charter = msgspec.structs.replace(
        before, epoch=before.epoch + 1, **({"enrolment_key": new.public.raw} | changes)
    )
    data = sign_charter(charter, read_private_key(scene.directory / "root.key"))
    trust = read_charter(data, scene.enroller.root)
    return Enroller(scene.enroller.root, data, trust, new, scene.enroller.ca)


def test_after_a_new_enrolment_key_who_is_in_the_ledger_is_renewed_and_nobody_else(
    scene: Scene,
) -> None:
    question, present = scene.question(), scene.present  # under the old key
    forger = PrivateKey(bytes([67] * 32))
    forged = scene.question(replaced(scene.credential, public_key=forger.public.raw), forger)
    relocated = scene.question(replaced(scene.credential, site="plant-z"))
    scene.enroller = rotated(scene)
    newer = read_renewed(scene.renewed(NOW, question), present)
    assert newer.trust.charter.epoch == 2
    assert newer.own == present.credential
    assert read_credential(newer.credential, newer.trust) == present.credential
    for cheat in (forged, relocated):
        with pytest.raises(SignatureError, match="does not verify"):
            scene.renewed(NOW, cheat)


def test_a_site_that_is_listed_no_more_is_not_renewed_and_gets_no_token(scene: Scene) -> None:
    question = scene.question()
    scene.enroller = rotated(scene, sites=("plant-b",))
    with pytest.raises(MalformedError, match="site plant-a is not one of the 1"):
        scene.renewed(NOW, question)
    with pytest.raises(MalformedError, match="site plant-a is not one of the 1"):
        new_token(scene.enroller, AGENT, "plant-a", 9)


def test_a_token_that_was_made_before_its_site_was_taken_off_the_list_is_worth_nothing(
    scene: Scene,
) -> None:
    token = new_token(scene.enroller, "press-2", "plant-a", int(NOW.timestamp()) + 3600)
    scene.ledger.add(token, NOW)
    asked = make_request(token, scene.key, scene.tls_key)
    scene.enroller = rotated(scene, sites=("plant-b",))
    with pytest.raises(MalformedError, match="site plant-a is not one of the 1"):
        scene.ledger.grant(asked, scene.enroller, NOW, days=90)
    assert scene.ledger.last_serial("press-2") == 0

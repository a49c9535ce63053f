"""Enrolment: what an honest gateway gets, and everything else that is tried, refused."""

import hmac
import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from wire.certificates import der, fingerprint, parse_certificate
from wire.codec import seal
from wire.enrolment import (
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    PREFIX,
    Applicant,
    Enroller,
    EnrolmentError,
    Token,
    answered_token,
    decode_token,
    encode_token,
    make_answer,
    make_request,
    new_token,
    parse_request,
    read_answer,
    verify_request,
)
from wire.errors import MalformedError, SignatureError, TooLargeError, WireError
from wire.issuing import client_certificate, new_authority, new_key, signing_request
from wire.messages import Charter, Credential, HelperKeys
from wire.signing import PrivateKey
from wire.trust import ENROLMENT, ROOT, read_charter, read_credential

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
EXPIRES = int((NOW + timedelta(hours=72)).timestamp())
ROOT_KEY, ENROLMENT_KEY, AGENT_KEY, STRANGER = (
    PrivateKey(bytes([number] * 32)) for number in (1, 2, 5, 9)
)
CHARTER = Charter(
    federation="plant-net",
    epoch=2,
    enrolment_key=ENROLMENT_KEY.public.raw,
    coordinator_key=bytes([3] * 32),
    author_keys=(bytes([4] * 32),),
)
TLS_KEY = new_key()
CA = new_authority("plant-net", new_key(), NOW)


def sealed(charter: Charter, key: PrivateKey = ROOT_KEY) -> bytes:
    return seal(charter, federation=charter.federation, signer=ROOT, counter=charter.epoch, key=key)


def enroller(charter: Charter = CHARTER, key: PrivateKey = ENROLMENT_KEY) -> Enroller:
    envelope = sealed(charter)
    trust = read_charter(envelope, ROOT_KEY.public)
    return Enroller(ROOT_KEY.public, envelope, trust, key, CA)


TOKEN = new_token(enroller(), "gateway-1", "plant-a", EXPIRES)
REQUEST = make_request(TOKEN, AGENT_KEY, TLS_KEY)
APPLICANT = Applicant(AGENT_KEY.public.raw, TLS_KEY.public_key())
ANSWER = make_answer(enroller(), TOKEN, APPLICANT, 3, NOW, days=397)


def verified(request: bytes, token: Token = TOKEN) -> Applicant:
    return verify_request(parse_request(request), token)


def installed(answer: bytes, token: Token = TOKEN, now: datetime = NOW) -> Any:
    return read_answer(answer, token, AGENT_KEY.public, TLS_KEY.public_key(), now)


def tag(token: Token, label: str, body: bytes) -> bytes:
    return hmac.new(token.secret, label.encode() + b"\0" + body, sha256).digest()


def request_by_hand(body: bytes, token: Token = TOKEN, key: PrivateKey = AGENT_KEY) -> bytes:
    """A request as the module's text describes it, by whoever has token and key."""
    label = "journeyman-enrolment-request-v1"
    tagged = tag(token, label, body)
    signature = key.sign(label.encode() + b"\0" + body + tagged)
    return msgspec.msgpack.encode([1, body, tagged, signature])


def answer_by_hand(body: list[bytes], token: Token = TOKEN) -> bytes:
    """An answer by whoever stole the token."""
    data = msgspec.msgpack.encode(body)
    return msgspec.msgpack.encode([1, data, tag(token, "journeyman-enrolment-answer-v1", data)])


def answer_parts() -> list[bytes]:
    """Token id, charter, credential, certificate, CA of the honest answer."""
    parts = msgspec.msgpack.decode(msgspec.msgpack.decode(ANSWER)[1])
    assert isinstance(parts, list)
    return parts


def test_a_gateway_gets_what_its_token_promised() -> None:
    token = decode_token(encode_token(TOKEN))
    assert token == TOKEN
    applicant = verified(make_request(token, AGENT_KEY, TLS_KEY))
    assert applicant == APPLICANT
    enrolled = installed(make_answer(enroller(), TOKEN, applicant, 7, NOW, days=30))
    trust = read_charter(enrolled.charter, ROOT_KEY.public)
    assert read_credential(enrolled.credential, trust) == Credential(
        agent="gateway-1", site="plant-a", public_key=AGENT_KEY.public.raw, serial=7
    )
    certificate = parse_certificate(enrolled.certificate, "this")
    assert certificate.subject.rfc4514_string() == "CN=gateway-1"
    assert certificate.not_valid_after_utc == NOW + timedelta(days=30)
    assert certificate.public_key() == TLS_KEY.public_key()
    assert sha256(enrolled.ca).digest() == fingerprint(CA.certificate) == TOKEN.ca


def test_no_private_key_is_in_anything_that_travels() -> None:
    secret = TLS_KEY.private_numbers().private_value.to_bytes(32, "big")
    for data in (REQUEST, ANSWER, encode_token(TOKEN).encode()):
        assert AGENT_KEY.raw not in data
        assert secret not in data
    assert TOKEN.secret not in REQUEST
    assert TOKEN.secret not in ANSWER


# The token


def test_a_token_is_one_line_that_a_person_can_copy() -> None:
    text = encode_token(TOKEN)
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")
    assert len(text) < 260
    assert decode_token(f"  {text[:60]}\r\n{text[60:120]}\n\t{text[120:]} \n") == TOKEN


def test_a_token_does_not_show_its_secret() -> None:
    for shown in (repr(TOKEN), str(TOKEN), f"{[TOKEN]}"):
        assert "gateway-1" in shown
        assert TOKEN.secret.hex() not in shown
        assert repr(TOKEN.secret) not in shown


def test_tokens_differ_in_id_and_secret() -> None:
    tokens = [new_token(enroller(), "gateway-1", "plant-a", EXPIRES) for _ in range(20)]
    assert len({token.id for token in tokens}) == len({token.secret for token in tokens}) == 20


def test_every_typo_in_a_token_is_noticed() -> None:
    text = encode_token(TOKEN)
    for position, character in enumerate(text):
        for typo in {character.swapcase(), "A", "z", "0", "-", "=", "ä", ""} - {character}:
            with pytest.raises(MalformedError, match=r"not an enrolment token|mistyped or cut"):
                decode_token(text[:position] + typo + text[position + 1 :])


@given(st.data())
def test_two_characters_in_the_wrong_order_are_noticed(data: st.DataObject) -> None:
    text = encode_token(TOKEN)
    at = data.draw(st.integers(len(PREFIX), len(text) - 2))
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if swapped != text:
        with pytest.raises(MalformedError, match="mistyped"):
            decode_token(swapped)


@given(st.text(max_size=400))
def test_any_text_is_a_token_or_an_error(text: str) -> None:
    for candidate in (text, PREFIX + text):
        with pytest.raises(WireError):
            decode_token(candidate)


def test_a_tokens_length_is_capped_before_it_is_read() -> None:
    with pytest.raises(TooLargeError):
        decode_token(PREFIX + "A" * 1000)


@pytest.mark.parametrize(
    "agent",
    [
        *("coordinator", "broker", "ca", "root", "charter", "enrolment", "author", "x.tls"),
        *("", "a/b", "+", "#", "../x", "a b", "-a", "x" * 64),
    ],
)
def test_no_token_is_made_or_read_for_a_name_that_would_be_somebody_elses(agent: str) -> None:
    with pytest.raises(MalformedError):
        new_token(enroller(), agent, "plant-a", EXPIRES)
    forged = msgspec.structs.replace(TOKEN, agent=agent)
    with pytest.raises(MalformedError):
        decode_token(encode_token(forged))


def test_no_gateway_gets_the_rights_of_a_helper() -> None:
    keys = [PrivateKey(bytes([number] * 32)).public.raw for number in range(20, 26)]
    helpers = tuple(
        HelperKeys(name=name, signing=keys[2 * at], sealing=keys[2 * at + 1])
        for at, name in enumerate(("notary", "union", "insurer"))
    )
    charter = msgspec.structs.replace(CHARTER, helpers=helpers)
    with pytest.raises(MalformedError, match="helper's name"):
        new_token(enroller(charter), "union", "plant-a", EXPIRES)
    assert new_token(enroller(charter), "gateway-9", "plant-a", EXPIRES).agent == "gateway-9"


# The request


def test_a_request_altered_anywhere_is_refused() -> None:
    for position in range(len(REQUEST)):
        for change in (1, 0x80):
            data = bytearray(REQUEST)
            data[position] ^= change
            with pytest.raises(WireError):
                verified(bytes(data))


@given(st.binary(max_size=500))
def test_any_bytes_are_refused_as_request_and_answer(data: bytes) -> None:
    for read in (verified, installed, answered_token):
        with pytest.raises(WireError):
            read(data)


@given(st.data())
def test_any_change_of_length_is_refused(data: st.DataObject) -> None:
    for message, read in ((REQUEST, verified), (ANSWER, installed)):
        at = data.draw(st.integers(0, len(message)))
        more = data.draw(st.binary(min_size=1, max_size=20))
        fewer = data.draw(st.integers(1, 20))
        with pytest.raises(WireError):
            read(message[:at] + more + message[at:])
        with pytest.raises(WireError):
            read(message[: max(0, at - fewer)] + message[at:] if at else message[fewer:])


def test_requests_and_answers_are_capped_before_they_are_read() -> None:
    with pytest.raises(TooLargeError):
        parse_request(bytes(MAX_REQUEST_BYTES + 1))
    with pytest.raises(TooLargeError):
        installed(bytes(MAX_ANSWER_BYTES + 1))


def test_the_largest_names_and_charter_fit_under_the_caps() -> None:
    names = {name: name[0] * 63 for name in ("federation", "agent", "site")}
    charter = msgspec.structs.replace(
        CHARTER,
        federation=names["federation"],
        author_keys=tuple(bytes([100 + at] * 32) for at in range(16)),
    )
    large = enroller(charter)
    token = new_token(large, names["agent"], names["site"], EXPIRES)
    assert decode_token(encode_token(token)) == token
    applicant = verified(make_request(token, AGENT_KEY, TLS_KEY), token)
    answer = make_answer(large, token, applicant, (1 << 53) - 1, NOW, days=3650)
    assert installed(answer, token).own.serial == (1 << 53) - 1


def test_the_request_is_what_the_module_says_it_is() -> None:
    body = msgspec.msgpack.encode(
        [TOKEN.id, AGENT_KEY.public.raw, signing_request(TLS_KEY, "gateway-1")]
    )
    assert verified(request_by_hand(body)) == APPLICANT


def test_a_request_without_the_tokens_secret_is_refused() -> None:
    # The id is no secret: it is in every request that somebody may have seen.
    guess = msgspec.structs.replace(TOKEN, secret=bytes(32))
    with pytest.raises(SignatureError, match="not made with this token"):
        verified(make_request(guess, AGENT_KEY, TLS_KEY))


def test_another_agents_token_is_refused() -> None:
    other = new_token(enroller(), "gateway-2", "plant-a", EXPIRES)
    with pytest.raises(SignatureError, match="not made with this token"):
        verified(make_request(other, AGENT_KEY, TLS_KEY))


def test_a_request_whose_sender_does_not_hold_the_ed25519_key_is_refused() -> None:
    body = msgspec.msgpack.encode(
        [TOKEN.id, AGENT_KEY.public.raw, signing_request(TLS_KEY, "gateway-1")]
    )
    with pytest.raises(SignatureError, match="does not verify"):
        verified(request_by_hand(body, key=STRANGER))


def test_a_request_whose_sender_does_not_hold_the_tls_key_is_refused() -> None:
    stolen = bytearray(signing_request(TLS_KEY, "gateway-1"))
    stolen[-1] ^= 1
    body = msgspec.msgpack.encode([TOKEN.id, AGENT_KEY.public.raw, bytes(stolen)])
    with pytest.raises(SignatureError, match="does not hold its key"):
        verified(request_by_hand(body))


def test_a_request_with_another_kind_of_tls_key_is_refused() -> None:
    odd = signing_request(ec.generate_private_key(ec.SECP384R1()), "gateway-1")
    body = msgspec.msgpack.encode([TOKEN.id, AGENT_KEY.public.raw, odd])
    with pytest.raises(MalformedError, match="P-256"):
        verified(request_by_hand(body))


@pytest.mark.parametrize("name", ["gateway-2", "coordinator", "#", ""])
def test_who_asks_for_another_name_gets_its_own(name: str) -> None:
    odd = signing_request(TLS_KEY, name) if name else signing_request(TLS_KEY, "x")
    body = msgspec.msgpack.encode([TOKEN.id, AGENT_KEY.public.raw, odd])
    answer = make_answer(enroller(), TOKEN, verified(request_by_hand(body)), 1, NOW, days=30)
    enrolled = installed(answer)
    certificate = parse_certificate(enrolled.certificate, "this")
    assert certificate.subject.rfc4514_string() == "CN=gateway-1"
    assert enrolled.own.agent == "gateway-1"


def test_messages_of_another_version_say_which_side_to_upgrade() -> None:
    for message, read in ((REQUEST, verified), (ANSWER, installed)):
        fields = msgspec.msgpack.decode(message)
        fields[0] = 2
        with pytest.raises(MalformedError, match=r"of version 2; .* upgrade the older side"):
            read(msgspec.msgpack.encode(fields))


# The answer


def test_an_answer_altered_anywhere_is_refused() -> None:
    for position in range(len(ANSWER)):
        for change in (1, 0x80):
            data = bytearray(ANSWER)
            data[position] ^= change
            with pytest.raises(WireError):
                installed(bytes(data))


def test_an_answer_altered_anywhere_by_who_has_the_token_is_refused() -> None:
    body = msgspec.msgpack.decode(ANSWER)[1]
    label = "journeyman-enrolment-answer-v1"
    for position in range(len(body)):
        data = bytearray(body)
        data[position] ^= 1
        forged = [1, bytes(data), tag(TOKEN, label, bytes(data))]
        with pytest.raises(WireError):
            installed(msgspec.msgpack.encode(forged))


def test_the_answer_to_another_token_is_refused() -> None:
    other = new_token(enroller(), "gateway-1", "plant-a", EXPIRES)
    with pytest.raises(EnrolmentError, match=f"answers token {TOKEN.id.hex()}"):
        installed(ANSWER, other)
    assert answered_token(ANSWER) == TOKEN.id


def test_an_answer_for_other_keys_is_refused() -> None:
    with pytest.raises(SignatureError, match="another key than this gateway's"):
        read_answer(ANSWER, TOKEN, STRANGER.public, TLS_KEY.public_key(), NOW)
    with pytest.raises(SignatureError, match="certificate holds another key"):
        read_answer(ANSWER, TOKEN, AGENT_KEY.public, new_key().public_key(), NOW)


def test_an_ended_certificate_is_refused_and_a_clock_that_is_behind_is_not() -> None:
    with pytest.raises(MalformedError, match="set this machine's clock"):
        installed(ANSWER, now=NOW + timedelta(days=398))
    assert installed(ANSWER, now=datetime(1970, 1, 1, tzinfo=UTC)) == installed(ANSWER)


def credential(key: PrivateKey = ENROLMENT_KEY, **changes: Any) -> bytes:
    made = Credential(agent="gateway-1", site="plant-a", public_key=AGENT_KEY.public.raw, serial=3)
    made = msgspec.structs.replace(made, **changes)
    return seal(made, federation="plant-net", signer=ENROLMENT, counter=3, key=key)


OTHER_CA = new_authority("plant-net", new_key(), NOW)
FORGERIES: list[tuple[str, dict[int, bytes], str]] = [
    ("a charter of another root", {1: sealed(CHARTER, STRANGER)}, "does not verify"),
    (
        "a charter of another federation of the same root",
        {1: sealed(msgspec.structs.replace(CHARTER, federation="other-net"))},
        "governs other-net",
    ),
    ("a credential by a stranger", {2: credential(STRANGER)}, "does not verify"),
    ("the credential of another agent", {2: credential(agent="gateway-2")}, "not gateway-1"),
    ("the credential of another site", {2: credential(site="plant-b")}, "not gateway-1 of plant-a"),
    ("the credential of another key", {2: credential(public_key=bytes(32))}, "another key"),
    ("another CA", {4: der(OTHER_CA.certificate)}, "not the one that the token names"),
    (
        "another CA with a certificate that fits it",
        {
            3: der(client_certificate(OTHER_CA, "gateway-1", TLS_KEY.public_key(), NOW, days=30)),
            4: der(OTHER_CA.certificate),
        },
        "not the one that the token names",
    ),
    (
        "a certificate of another CA",
        {3: der(client_certificate(OTHER_CA, "gateway-1", TLS_KEY.public_key(), NOW, days=30))},
        "not signed by this federation's CA",
    ),
    (
        "a certificate of another name",
        {3: der(client_certificate(CA, "gateway-2", TLS_KEY.public_key(), NOW, days=30))},
        "is for gateway-2",
    ),
    (
        "a certificate of another key",
        {3: der(client_certificate(CA, "gateway-1", new_key().public_key(), NOW, days=30))},
        "another key",
    ),
    ("the CA's certificate as the agent's", {3: der(CA.certificate)}, "is for Journeyman CA"),
]


@pytest.mark.parametrize(
    ("changes", "reason"), [row[1:] for row in FORGERIES], ids=[r[0] for r in FORGERIES]
)
def test_a_thief_of_the_token_can_not_make_the_gateway_believe(
    changes: dict[int, bytes], reason: str
) -> None:
    parts = answer_parts()
    assert installed(answer_by_hand(parts)) == installed(ANSWER)
    for index, part in changes.items():
        parts[index] = part
    with pytest.raises(WireError, match=reason):
        installed(answer_by_hand(parts))


def test_a_carrier_can_not_put_an_older_charter_of_the_same_root_into_an_answer() -> None:
    # With the old charter's enrolment key, which may be why there is a new charter.
    old = enroller(msgspec.structs.replace(CHARTER, epoch=1, enrolment_key=STRANGER.public.raw))
    forged = make_answer(
        replace(old, key=STRANGER),
        msgspec.structs.replace(TOKEN, secret=bytes(32)),
        APPLICANT,
        3,
        NOW,
        days=30,
    )
    with pytest.raises(SignatureError, match="not by whom the token is from"):
        installed(forged)

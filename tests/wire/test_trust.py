"""The trust chain: a charter under the pinned root, credentials and bundles under the charter."""

import msgspec
import pytest

from wire.codec import open_envelope, seal, seal_bytes
from wire.errors import MalformedError, SignatureError, WireError
from wire.messages import Charter, Credential
from wire.signing import PrivateKey
from wire.trust import AUTHOR, ENROLMENT, ROOT, Trust, read_charter, read_credential, verify_author

FEDERATION = "plant-net"
ROOT_KEY, ENROLMENT_KEY, COORDINATOR_KEY, AUTHOR_KEY, AGENT_KEY, STRANGER = (
    PrivateKey(bytes([number] * 32)) for number in (1, 2, 3, 4, 5, 9)
)
CREDENTIAL = Credential(agent="press-1", site="plant-a", public_key=AGENT_KEY.public.raw, serial=1)


def sealed_charter(charter: Charter, key: PrivateKey = ROOT_KEY, signer: str = ROOT) -> bytes:
    return seal(charter, federation=charter.federation, signer=signer, counter=1, key=key)


def sealed_credential(
    credential: Credential = CREDENTIAL,
    federation: str = FEDERATION,
    key: PrivateKey = ENROLMENT_KEY,
    signer: str = ENROLMENT,
) -> bytes:
    return seal(credential, federation=federation, signer=signer, counter=1, key=key)


def test_a_charter_of_the_pinned_root_is_believed(charter: Charter) -> None:
    trust = read_charter(sealed_charter(charter), ROOT_KEY.public)
    assert trust.charter == charter
    assert trust.federation == FEDERATION
    assert trust.coordinator == COORDINATOR_KEY.public


@pytest.mark.parametrize("key", [STRANGER, ENROLMENT_KEY, COORDINATOR_KEY])
def test_a_charter_of_any_other_key_is_refused(charter: Charter, key: PrivateKey) -> None:
    with pytest.raises(SignatureError):
        read_charter(sealed_charter(charter, key), ROOT_KEY.public)


def test_a_charter_whose_federation_was_changed_is_refused(charter: Charter) -> None:
    fields = msgspec.msgpack.decode(sealed_charter(charter))
    fields[4] = msgspec.msgpack.encode(msgspec.structs.replace(charter, federation="other-net"))
    with pytest.raises(SignatureError):
        read_charter(msgspec.msgpack.encode(fields), ROOT_KEY.public)


def test_a_charter_signed_in_another_role_is_refused(charter: Charter) -> None:
    with pytest.raises(MalformedError, match="signed by 'root', not 'author'"):
        read_charter(sealed_charter(charter, signer="author"), ROOT_KEY.public)


def test_a_charter_for_a_federation_that_is_no_name_is_refused(charter: Charter) -> None:
    odd = msgspec.structs.replace(charter, federation="plant/net")
    with pytest.raises(MalformedError, match="federation"):
        read_charter(sealed_charter(odd), ROOT_KEY.public)


def test_a_credential_of_the_enrolment_authority_is_believed(trust: Trust) -> None:
    assert read_credential(sealed_credential(), trust) == CREDENTIAL


@pytest.mark.parametrize("key", [ROOT_KEY, COORDINATOR_KEY, AGENT_KEY, STRANGER])
def test_nobody_else_enrols_agents(trust: Trust, key: PrivateKey) -> None:
    with pytest.raises(SignatureError):
        read_credential(sealed_credential(key=key), trust)


def test_a_credential_of_another_federation_is_refused(trust: Trust) -> None:
    with pytest.raises(SignatureError):
        read_credential(sealed_credential(federation="other-net"), trust)


def test_a_credential_signed_in_another_role_is_refused(trust: Trust) -> None:
    with pytest.raises(MalformedError, match="expected 'enrolment'"):
        read_credential(sealed_credential(signer="press-1"), trust)


@pytest.mark.parametrize(
    "changes", [{"agent": "coordinator"}, {"agent": "a/b"}, {"agent": "+"}, {"site": "plant a"}]
)
def test_an_agent_can_not_be_named_so_that_it_takes_other_topics(
    trust: Trust, changes: dict[str, str]
) -> None:
    with pytest.raises(MalformedError):
        read_credential(sealed_credential(msgspec.structs.replace(CREDENTIAL, **changes)), trust)


def test_any_author_of_the_charter_may_sign_a_bundle_and_nobody_else(trust: Trust) -> None:
    def bundle(key: PrivateKey, signer: str = AUTHOR, federation: str = FEDERATION) -> bytes:
        return seal_bytes(
            "bundle", b"body", federation=federation, signer=signer, counter=1, key=key
        )

    verify_author(open_envelope(bundle(AUTHOR_KEY), "bundle"), trust)
    for refused in (
        bundle(COORDINATOR_KEY),
        bundle(AUTHOR_KEY, federation="other-net"),
        bundle(AUTHOR_KEY, signer="coordinator"),
    ):
        with pytest.raises(WireError):
            verify_author(open_envelope(refused, "bundle"), trust)

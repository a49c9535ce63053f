"""An agent encrypts what the policy wants encrypted, or makes no update and says why."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("tenseal", reason='the extra "journeyman[he]" is not installed')

from agent.adoption import Adoption
from agent.config import Identity
from agent.encrypting import unready
from agent.making import Trained, make_update
from agent.models import Models
from agent.outbox import Outbox
from tests.agent.federation import AGENT, CHANNELS, FEDERATION, POLICY, Federation, feed
from wire.bfv_keys import decrypt, make_keys
from wire.chunks import sha256
from wire.codec import Counter, unseal
from wire.encrypted import belonging_of, open_ciphertexts, sealed_bytes
from wire.messages import Recipient, UpdateHeader
from wire.sealing_keys import SealingKey
from wire.tensors import flatten, unflatten

ENCRYPTED = msgspec.structs.replace(POLICY, protection="encrypted", weight_cap=1000)
SEALING = SealingKey(bytes(range(32)))


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    return make_keys()


@pytest.fixture
def encrypting(identity: Identity, keys: tuple[bytes, bytes]) -> Identity:
    """An identity whose charter names a recipient, with that one's context."""
    recipient = Recipient(name="auditor", signing=bytes(32), context=sha256(keys[1]))
    charter = msgspec.structs.replace(
        identity.trust.charter, coordinator_sealing_key=SEALING.public, recipient=recipient
    )
    trust = replace(identity.trust, charter=charter)
    return replace(identity, trust=trust, recipient_context=keys[1])


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path / "outbox.db", 1 << 30)
    yield made
    made.close()


def test_the_content_is_what_only_recipient_and_coordinator_together_can_read(
    federation: Federation, encrypting: Identity, keys: tuple[bytes, bytes], outbox: Outbox
) -> None:
    adoption = Adoption(Models(":memory:"), federation.trust, CHANNELS, "numpy")
    feed(adoption, federation.publish(1, version=4, policy=ENCRYPTED))
    base = adoption.current
    assert base is not None
    count = len(flatten(base.train))
    delta = np.random.default_rng(3).integers(-50, 50, count) * ENCRYPTED.scale
    params = unflatten(flatten(base.train) + delta, base.model.manifest.shapes)
    made = make_update(base, Trained(params, 500), encrypting, outbox, Counter(1))
    offer = outbox.offer(made)
    assert offer is not None
    assert offer.content is not None
    header, _ = unseal(
        offer.header,
        UpdateHeader,
        federation=FEDERATION,
        signer=AGENT,
        key=encrypting.key.public,
    )
    assert (header.encrypted, header.content.size) == (sha256(keys[1]), sealed_bytes(count))
    assert header.content.digest == sha256(offer.content)
    belonging = belonging_of(header, FEDERATION)
    ciphertexts = open_ciphertexts(SEALING.raw, offer.content, belonging, count)
    found = decrypt(keys[0], ciphertexts, count) * header.scale
    assert np.abs(found - delta).max() <= header.scale * 1.001  # rounded by up to a step


def test_an_agent_that_can_encrypt_is_ready(encrypting: Identity) -> None:
    assert unready(ENCRYPTED, encrypting) == ""


def test_a_policy_in_the_clear_asks_for_nothing(identity: Identity) -> None:
    assert unready(POLICY, identity) == ""


def test_what_is_missing_is_said(encrypting: Identity, identity: Identity) -> None:
    assert "names no recipient" in unready(ENCRYPTED, identity)
    without = replace(encrypting, recipient_context=b"")
    assert 'set "recipient_context" in [trust]' in unready(ENCRYPTED, without)
    other = replace(encrypting, recipient_context=make_keys()[1])
    assert "not auditor's public context" in unready(ENCRYPTED, other)


def test_a_policy_whose_smallest_sum_could_be_wrong_is_not_trained_under(
    encrypting: Identity,
) -> None:
    heavy = msgspec.structs.replace(ENCRYPTED, weight_cap=1 << 20)
    k_min = encrypting.trust.charter.k_min
    charter = msgspec.structs.replace(encrypting.trust.charter, k_min=max(2, k_min))
    strict = replace(encrypting, trust=replace(encrypting.trust, charter=charter))
    assert "lower policy.weight_cap" in unready(heavy, strict)

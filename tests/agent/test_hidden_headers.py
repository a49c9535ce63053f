"""A masked update's header tells its numbers to nobody: the coordinator reads it as it comes."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from agent.adoption import Adoption
from agent.config import Identity
from agent.making import Trained, make_update
from agent.models import Models
from agent.outbox import Outbox
from tests.agent.federation import AGENT, CHANNELS, FEDERATION, POLICY, Federation, feed
from wire.codec import Counter, unseal
from wire.messages import HelperKeys, UpdateHeader
from wire.sealing_keys import SealingKey
from wire.signing import PrivateKey
from wire.tensors import flatten, unflatten

TELLING = ("saturated", "kept", "examples", "weight", "scale", "bits", "spent", "dropped")


def with_helpers(identity: Identity) -> Identity:
    """The identity under a charter that names three helpers."""
    helpers = tuple(
        HelperKeys(
            name=f"helper-{number}",
            signing=PrivateKey.generate().public.raw,
            sealing=SealingKey.generate().public,
        )
        for number in range(3)
    )
    charter = msgspec.structs.replace(identity.trust.charter, helpers=helpers)
    return replace(identity, trust=replace(identity.trust, charter=charter))


def header_of(
    federation: Federation, identity: Identity, folder: Path, protection: str, step: float
) -> UpdateHeader:
    """The header of an update whose training moved each parameter by so much."""
    adoption = Adoption(Models(":memory:"), federation.trust, CHANNELS, "numpy")
    feed(adoption, federation.publish(1, version=4, policy=POLICY))
    current = adoption.current
    assert current is not None
    policy = msgspec.structs.replace(POLICY, protection=protection, clip_norm=100.0)
    adopted = replace(current, head=msgspec.structs.replace(current.head, policy=policy))
    moved = flatten(adopted.train).astype(np.float64) + step
    params = unflatten(moved, adopted.model.manifest.shapes)
    outbox = Outbox(folder / f"{protection}-{step}.db", 1 << 30)
    made = make_update(adopted, Trained(params, 500), with_helpers(identity), outbox, Counter(1))
    offer = outbox.offer(made)
    outbox.close()
    assert offer is not None
    key = identity.key.public
    header, _ = unseal(offer.header, UpdateHeader, federation=FEDERATION, signer=AGENT, key=key)
    return header


def test_a_masked_header_says_the_same_of_small_and_of_large_numbers(
    federation: Federation, identity: Identity, tmp_path: Path
) -> None:
    beyond = 3 * POLICY.scale * 2 ** (POLICY.bits - 1)  # every number saturates
    told = {
        protection: [
            [
                getattr(header_of(federation, identity, tmp_path, protection, step), name)
                for name in TELLING
            ]
            for step in (0.0, beyond)
        ]
        for protection in ("none", "masked")
    }
    assert told["masked"][0] == told["masked"][1]
    assert told["none"][0] != told["none"][1]  # in the open it is a help, and hides nothing

"""What one update is made of, and what it leaves for the next."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.config import Identity
from agent.feedback import Residual, read_residual
from agent.making import Trained, make_update
from agent.model import shared_of
from agent.models import Models
from agent.outbox import Outbox, UpdateId
from tests.agent.federation import AGENT, CHANNELS, FEDERATION, POLICY, Federation, feed
from wire.codec import Counter, unseal
from wire.messages import Receipt, UpdateHeader
from wire.sparse import decode_sparse, kept_count
from wire.tensors import flatten, read_integers, unflatten, update_bytes

Vector = NDArray[np.float64]
Bits = Literal[4, 8, 16]
SHARE = 0.1


def adopted(federation: Federation, **policy: object) -> Adopted:
    """Version 4 in use, under the usual policy but for these fields."""
    adoption = Adoption(Models(":memory:"), federation.trust, CHANNELS, "numpy")
    changed = msgspec.structs.replace(POLICY, **policy)
    feed(adoption, federation.publish(1, version=4, policy=changed))
    assert adoption.current is not None
    return adoption.current


def elsewhere(base: Adopted, **changes: object) -> Adopted:
    """The same under a head with other fields."""
    return replace(base, head=msgspec.structs.replace(base.head, **changes))


@dataclass
class Gateway:
    """An outbox, and who fills it."""

    outbox: Outbox
    identity: Identity

    def make(self, base: Adopted, delta: Vector, examples: int = 500) -> UpdateId:
        """Make an update of a training that moved all parameters by a delta, (P,)."""
        params = unflatten(flatten(base.train) + delta, base.model.manifest.shapes)
        trained = Trained(params, examples)
        return make_update(base, trained, self.identity, self.outbox, Counter(1))

    def sent(self, made: UpdateId) -> tuple[UpdateHeader, bytes]:
        offer = self.outbox.offer(made)
        assert offer is not None
        assert offer.content is not None
        key = self.identity.key.public
        header, _ = unseal(offer.header, UpdateHeader, federation=FEDERATION, signer=AGENT, key=key)
        return header, offer.content

    def delta(self, made: UpdateId, parameters: int) -> Vector:
        """What the coordinator adds for a dense update, (P,)."""
        header, content = self.sent(made)
        return read_integers(content, header.bits, parameters).astype(np.float64) * header.scale

    def sparse(self, made: UpdateId, parameters: int) -> Vector:
        """The same for a sparse one."""
        header, content = self.sent(made)
        most = kept_count(SHARE, parameters)
        integers = decode_sparse(content, header.bits, parameters, most)
        return integers.astype(np.float64) * header.scale

    def settle(self, made: UpdateId, status: str) -> None:
        told: Any = {"incarnation": made.incarnation, "sequence": made.sequence, "status": status}
        self.outbox.settle((Receipt(**told),), made.sequence)

    def residual(self, parameters: int) -> Residual:
        stored = self.outbox.remembered("residual")
        assert stored is not None
        return read_residual(stored, parameters)

    def calibration(self, parameters: int) -> Vector:
        """Weight x h, zero before the first update was folded."""
        stored = self.outbox.remembered("calibration")
        if stored is None:
            return np.zeros(parameters)
        return read_residual(stored, parameters).vector.astype(np.float64)


@pytest.fixture
def gateway(tmp_path: Path, identity: Identity) -> Iterator[Gateway]:
    outbox = Outbox(tmp_path / "outbox.db", 1 << 30)
    yield Gateway(outbox, identity)
    outbox.close()


def a_delta(base: Adopted, norm: float, seed: int = 0) -> Vector:
    """What a training could have moved all parameters by, of this length, (P,)."""
    direction = np.random.default_rng(seed).standard_normal(len(flatten(base.train)))
    return direction * (norm / np.linalg.norm(direction))


def near(left: Vector, right: Vector, within: float) -> bool:
    return bool(np.abs(left - right).max() <= within)


# Dense


@pytest.mark.parametrize(("bits", "scale"), [(4, 0.02), (8, 0.002), (16, 0.0001)])
def test_integers_of_every_width_tell_the_delta_within_one_step(
    federation: Federation, gateway: Gateway, bits: Bits, scale: float
) -> None:
    base = adopted(federation, bits=bits, scale=scale)
    delta = a_delta(base, 0.2)
    count = len(delta)
    made = gateway.make(base, delta)
    header, content = gateway.sent(made)
    assert (header.bits, header.scale, header.kept, header.saturated) == (bits, scale, 0, 0)
    assert len(content) == header.content.size == update_bytes(bits, count)
    assert near(gateway.delta(made, count), delta, scale * 1.01)
    assert gateway.outbox.remembered("residual") is None
    assert gateway.outbox.remembered("calibration") is None


def test_what_does_not_fit_the_width_is_cut_and_counted(
    federation: Federation, gateway: Gateway
) -> None:
    base = adopted(federation, bits=4, scale=0.01)
    delta = np.zeros(len(flatten(base.train)))
    delta[:5] = 0.5, -0.5, 0.09, 0.05, -0.05
    made = gateway.make(base, delta)
    header, _ = gateway.sent(made)
    sent = gateway.delta(made, len(delta))
    assert header.saturated == 3
    assert near(sent[:3], np.array([0.07, -0.07, 0.07]), 1e-9)
    assert near(sent[3:], delta[3:], 0.01001)


def test_tensors_that_a_site_keeps_for_itself_are_in_no_update(
    federation: Federation, gateway: Gateway
) -> None:
    base = adopted(federation.learning(local_tensors=("dense1.*",)))
    manifest = base.model.manifest
    shared = len(flatten(shared_of(manifest, base.train)))
    delta = a_delta(base, 0.2)
    assert shared < len(delta)
    made = gateway.make(base, delta)
    _, content = gateway.sent(made)
    moved = unflatten(delta, manifest.shapes)
    expected = flatten(shared_of(manifest, moved)).astype(np.float64)
    assert len(content) == shared
    assert near(gateway.delta(made, shared), expected, POLICY.scale * 1.01)


# Sparse, with error feedback


def test_what_was_sent_and_what_is_left_are_what_was_wanted_update_after_update(
    federation: Federation, gateway: Gateway
) -> None:
    base = adopted(federation, kept_share=SHARE, bits=4, scale=0.005)
    left = np.zeros(len(flatten(base.train)))
    count = len(left)
    for number in range(4):
        delta = a_delta(base, 0.3, seed=number)
        made = gateway.make(base, delta)
        header, _ = gateway.sent(made)
        sent = gateway.sparse(made, count)
        assert 0 < header.kept == np.count_nonzero(sent) <= kept_count(SHARE, count)
        wanted, left = delta + left, gateway.residual(count).vector.astype(np.float64)
        assert near(sent + left, wanted, 1e-6)
    assert np.linalg.norm(left) > 0.3


def test_a_long_delta_is_clipped_before_the_rest_is_remembered(
    federation: Federation, gateway: Gateway
) -> None:
    base = adopted(federation, kept_share=SHARE, clip_norm=0.5, bits=16, scale=0.0001)
    delta = a_delta(base, 50.0)
    count = len(delta)
    sent = gateway.sparse(gateway.make(base, delta), count)
    assert near(sent + gateway.residual(count).vector, delta / 100, 1e-6)


@pytest.mark.parametrize("changed", [{"lineage": 1}, {"bundle": None}])
def test_what_was_left_out_in_another_lineage_or_bundle_is_forgotten(
    federation: Federation, gateway: Gateway, changed: dict[str, object]
) -> None:
    base = adopted(federation, kept_share=SHARE)
    delta = a_delta(base, 0.3)
    gateway.make(base, delta)
    if "bundle" in changed:
        content = base.head.bundle
        changed = {"bundle": msgspec.structs.replace(content, digest=bytes(32))}
    other = elsewhere(base, **changed)
    made = gateway.make(other, delta)
    left = gateway.residual(len(delta))
    assert (left.bundle, left.lineage) == (other.head.bundle.digest, other.head.lineage)
    assert near(gateway.sparse(made, len(delta)) + left.vector, delta, 1e-6)


def rotten(data: bytes) -> bytes:
    """A number that is not finite."""
    return data[:-4] + np.array([np.nan], "<f4").tobytes()


@pytest.mark.parametrize(
    "rot", [rotten, lambda data: data[:-4], lambda _: b"\xc1 nothing", lambda data: data + b"0"]
)
def test_a_memory_that_rotted_is_forgotten_and_the_update_is_made(
    federation: Federation,
    gateway: Gateway,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    rot: Callable[[bytes], bytes],
) -> None:
    base = adopted(federation, kept_share=SHARE)
    delta = a_delta(base, 0.3)
    gateway.make(base, delta)
    stored = gateway.outbox.remembered("residual")
    assert stored is not None
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as database, database:
        database.execute("UPDATE remembered SET body = ?", (rot(stored),))
    made = gateway.make(base, delta)
    assert "what earlier updates left is forgotten" in caplog.text
    left = gateway.residual(len(delta)).vector
    assert near(gateway.sparse(made, len(delta)) + left, delta, 1e-6)


# Calibration


def test_an_agent_sends_what_it_does_not_remember_and_then_remembers_its_delta(
    federation: Federation, gateway: Gateway
) -> None:
    base = adopted(federation, calibration=1.0, bits=16, scale=0.0001)
    first, second = a_delta(base, 0.3, seed=1), a_delta(base, 0.3, seed=2)
    count, step = len(first), 0.000101
    made = gateway.make(base, first)
    assert near(gateway.delta(made, count), first, step)
    assert not gateway.calibration(count).any()  # as long as nobody knows that it counted
    gateway.settle(made, "folded")
    assert near(gateway.calibration(count) / 500, first, step)
    made = gateway.make(base, second)
    assert near(gateway.delta(made, count), second - first, 2 * step)
    gateway.settle(made, "folded")
    assert near(gateway.calibration(count) / 500, second, step)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_memory_is_what_the_coordinator_adds_up_though_the_weight_grows(
    federation: Federation, gateway: Gateway, beta: float
) -> None:
    base = adopted(federation, calibration=beta, weight_cap=300)
    count = len(flatten(base.train))
    added = np.zeros(count)
    for number, examples in enumerate((64, 100, 250, 900, 1200)):
        delta = a_delta(base, 0.3, seed=number)
        made = gateway.make(base, delta, examples)
        header, _ = gateway.sent(made)
        assert header.weight == min(examples, 300)
        sent = gateway.delta(made, count)
        remembered = added / header.weight
        assert near(sent, delta - remembered, POLICY.scale * 1.01)
        added += beta * header.weight * sent
        gateway.settle(made, "folded")
        assert near(gateway.calibration(count), added, 1e-4)
    if beta == 1.0:  # nothing of the small first weights is left in the sum
        assert near(added, 300 * delta, 300 * POLICY.scale * 1.01)


@pytest.mark.parametrize("status", ["refused", "void", "dropped"])
def test_an_update_that_came_to_nothing_leaves_the_memory_as_it_was(
    federation: Federation, gateway: Gateway, status: str
) -> None:
    base = adopted(federation, calibration=1.0)
    first, second = a_delta(base, 0.3, seed=1), a_delta(base, 0.3, seed=2)
    gateway.settle(gateway.make(base, first), "folded")
    before = gateway.calibration(len(first))
    gateway.settle(gateway.make(base, second), status)
    assert before.any()
    assert np.array_equal(gateway.calibration(len(first)), before)


def test_a_new_lineage_begins_with_nothing_remembered(
    federation: Federation, gateway: Gateway
) -> None:
    base = adopted(federation, calibration=1.0)
    delta = a_delta(base, 0.3)
    gateway.settle(gateway.make(base, delta), "folded")
    made = gateway.make(elsewhere(base, lineage=1), delta)
    assert near(gateway.delta(made, len(delta)), delta, POLICY.scale * 1.01)


def test_a_difference_longer_than_the_clip_norm_is_remembered_as_it_was_sent(
    federation: Federation, gateway: Gateway
) -> None:
    base = adopted(federation, calibration=1.0, clip_norm=0.1, bits=16, scale=0.00001)
    delta = a_delta(base, 0.25)
    count, sent = len(delta), np.zeros(len(delta))
    for share in (0.4, 0.8, 1.0):  # it catches up, a tenth at a time
        made = gateway.make(base, delta)
        sent += gateway.delta(made, count)
        gateway.settle(made, "folded")
        assert near(gateway.calibration(count) / 500, sent, 1e-6)
        assert near(sent, share * delta, 0.0001)

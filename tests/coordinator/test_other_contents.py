"""Updates of 4 bits, sparse ones, and calibrated ones, through the federation's own door."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.ingest import Update
from coordinator.store import Store
from tests.coordinator.small_federation import (
    SCALE,
    P,
    Site,
    buffer_in,
    memory_of,
    open_federation,
)
from wire.chunks import describe
from wire.sparse import encode_sparse
from wire.tensors import pack_integers

GOAL_1 = "[strategy]\ngoal = 1\n"
CALIBRATED = '[strategy]\nname = "calibrated"\ngoal = 1\n'
POLICY = f"[policy]\nscale = {SCALE}\nclip_norm = 100.0\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


def sent(site: Site, base: object, content: bytes, **changes: object) -> Update:
    made = site.update(base, **changes, content=describe(content, 256))  # type: ignore[arg-type]
    return Update(made.header, content)


def test_four_bits_count_the_same_integers_in_half_the_bytes(store: Store) -> None:
    federation, site = open_federation(store, policy=POLICY + "bits = 4\n"), Site()
    integers = (np.arange(P) % 15 - 7).astype(np.int8)
    content = pack_integers(integers, 4)
    assert federation.update_bytes == len(content) == P // 2
    federation.commit([sent(site, federation.head.train, content, bits=4, weight=3)], 1.0)
    assert np.array_equal(buffer_in(federation).total[0], 3 * integers.astype(np.int64))


def test_a_sparse_update_counts_what_it_has_and_nothing_else(store: Store) -> None:
    policy = POLICY + "kept_share = 0.01\n"
    federation, site = open_federation(store, policy=policy), Site()
    integers = np.zeros(P, np.int8)
    integers[[5, 400, 611]] = [100, -3, 7]
    update = sent(site, federation.head.train, encode_sparse(integers, 8), kept=3, weight=2)
    federation.commit([update], 1.0)
    assert np.array_equal(buffer_in(federation).total[0], 2 * integers.astype(np.int64))


def test_a_sparse_update_with_more_than_the_policy_allows_is_refused(store: Store) -> None:
    policy = POLICY + "kept_share = 0.01\n"
    federation, site = open_federation(store, policy=policy), Site()
    content = encode_sparse(np.ones(P, np.int8), 8)
    honest = sent(site, federation.head.train, content, kept=P)
    [(_, receipt)] = federation.commit([honest], 1.0).receipts
    assert receipt.status == "refused"
    small = encode_sparse(np.where(np.arange(P) < 9, 1, 0).astype(np.int8), 8)
    liar = sent(site, federation.head.train, small, kept=1)  # within the size, over the share
    [(_, receipt)] = federation.commit([liar], 1.0).receipts
    assert receipt.status == "refused"
    assert buffer_in(federation).members == ()


def test_a_dense_update_is_refused_where_sparse_ones_are_asked_for(store: Store) -> None:
    federation = open_federation(store, policy=POLICY + "kept_share = 0.01\n")
    [(_, receipt)] = federation.commit([Site().update(federation.head.train)], 1.0).receipts
    assert receipt.reason == f"{P} bytes do not fit {P} parameters"


def test_an_update_longer_than_the_policys_clip_norm_is_refused_with_both_norms(
    store: Store,
) -> None:
    policy = f"[policy]\nscale = {SCALE}\nclip_norm = 1.0\n"
    federation, site = open_federation(store, policy=policy), Site()
    long = np.full(P, 127, np.int8)
    [(_, receipt)] = federation.commit([site.update(federation.head.train, long)], 1.0).receipts
    norm, bound = 127 * SCALE * P**0.5, 1.0 + SCALE * P**0.5
    assert receipt.reason == (
        f"norm {norm:.4g} exceeds {bound:.4g}, the policy's clip_norm and rounding"
    )


def test_a_calibrated_federation_remembers_the_sum_of_what_agents_remember(store: Store) -> None:
    """With beta 1, what each agent remembers is what it sent last, here with weight 10."""
    policy = POLICY + "calibration = 1.0\noffline_training = false\n"
    federation = open_federation(store, CALIBRATED, policy=policy)
    a, b = Site("a-1"), Site("b-1")
    first, second = (np.full(P, value, np.int8) for value in (4, 10))
    federation.commit([a.update(federation.head.train, first, weight=10)], 1.0)
    federation.commit([b.update(federation.head.train, second, weight=10)], 2.0)
    remembered = np.frombuffer(memory_of(federation)["memory"])  # type: ignore[arg-type]
    assert remembered == pytest.approx(np.full(P, 10 * (4 + 10) * SCALE))
    restarted = open_federation(store, CALIBRATED, policy=policy)
    assert memory_of(restarted) == memory_of(federation)

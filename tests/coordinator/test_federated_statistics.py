"""Means and deviations of all sites' rows, from sums; published once and for good."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from coordinator.federation import Federation
from coordinator.store import Store
from tests.coordinator.small_federation import MANIFEST, identity, memory_of, settings
from wire.chunks import sha256
from wire.errors import MalformedError
from wire.messages import Report, Statistics
from wire.standards import read_standard


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


def federated(store: Store, k_min: int = 1) -> Federation:
    """A federation whose bundle asks to be standardised by all sites' statistics."""
    given = identity(k_min)
    manifest = msgspec.structs.replace(MANIFEST, standardise="federated")
    bundle = replace(given.bundle, manifest=manifest)
    return Federation(store, settings(), replace(given, bundle=bundle), 0.0)


def of(federation: Federation, rows: list[float]) -> Report:
    statistics = Statistics(
        bundle=federation.head.bundle.digest,
        count=len(rows),
        sums=(math.fsum(rows),),
        squares=(math.fsum(row * row for row in rows),),
    )
    return Report(head=federation.head.sequence, statistics=statistics)


def test_enough_sites_sums_become_a_content_of_the_head(store: Store) -> None:
    federation = federated(store)
    here, there = [1.0, 2.0, 6.0], [10.0, -4.0]
    assert not federation.on_report("a-1", "site-a", of(federation, here), 1.0).head_moved
    assert federation.on_report("b-1", "site-b", of(federation, there), 1.0).head_moved
    content = federation.head.statistics
    assert content is not None
    [data] = [item.data for item in federation.contents() if item.content == content]
    assert sha256(data) == content.digest
    standard = read_standard(data, 1)
    assert standard.mean == pytest.approx([np.mean(here + there)], rel=1e-6)
    assert standard.deviation == pytest.approx([np.std(here + there)], rel=1e-6)


def test_two_agents_of_one_site_are_one_site(store: Store) -> None:
    federation = federated(store, k_min=2)
    for agent in ("a-1", "a-2", "a-3"):
        federation.on_report(agent, "site-a", of(federation, [1.0, 2.0]), 1.0)
    assert federation.head.statistics is None


def test_statistics_once_published_never_change_and_survive_a_restart(store: Store) -> None:
    federation = federated(store)
    for agent, site in (("a-1", "site-a"), ("b-1", "site-b")):
        federation.on_report(agent, site, of(federation, [1.0, 5.0]), 1.0)
    before = federation.head
    assert not federation.on_report("c-1", "site-c", of(federation, [9.0, 8.0]), 1.0).head_moved
    assert federation.head == before
    assert memory_of(federated(store)) == memory_of(federation)


def test_statistics_of_other_columns_or_of_another_bundle_are_refused(store: Store) -> None:
    federation = federated(store)
    told = of(federation, [1.0, 2.0])
    assert told.statistics is not None
    wide = msgspec.structs.replace(told.statistics, sums=(1.0, 2.0), squares=(3.0, 4.0))
    other = msgspec.structs.replace(told.statistics, bundle=bytes(32))
    for statistics, reason in ((wide, "1 columns"), (other, "another bundle")):
        report = Report(head=1, statistics=statistics)
        with pytest.raises(MalformedError, match=reason):
            federation.on_report("a-1", "site-a", report, 1.0)

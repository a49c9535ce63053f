"""Standardising on the live agent: by its own rows, or by the statistics of all sites."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.models import Models
from agent.signals.features import Moments
from agent.signals.rows import rows_of
from agent.statistics import statistics_of
from coordinator.site_statistics import combine
from tests.agent.federation import CHANNELS, Federation, feed, milled
from wire.bundle import Level
from wire.chunks import sha256
from wire.errors import BundleError, MalformedError
from wire.standards import Standard, write_standard

RAW = tuple(Level(channel=name) for name in CHANNELS[:5])
ROWS = milled(500)
STANDARD = Standard(ROWS[:, :5].mean(axis=0), ROWS[:, :5].std(axis=0))


def learning(federation: Federation, standardise: str) -> Federation:
    return federation.learning(standardise=standardise, feature=RAW)


def adoption_at(path: Path | None, federation: Federation) -> Adoption:
    file = ":memory:" if path is None else path / "models.db"
    return Adoption(Models(file), federation.trust, CHANNELS)


def in_use(adoption: Adoption) -> Adopted:
    assert adoption.current is not None
    return adoption.current


def close(left: Any, right: Any) -> bool:
    return bool(np.allclose(left, right, rtol=0, atol=2e-5))


def test_a_site_standardises_by_its_own_rows_as_soon_as_it_has_some(
    federation: Federation,
) -> None:
    job = learning(federation, "local")
    adoption = adoption_at(None, job)
    feed(adoption, job.publish(1))
    before = in_use(adoption)
    assert before.unready == "waiting for rows of this site to standardise by"
    for ask in (before.examples, lambda rows: before.score(before.serve, rows)):
        with pytest.raises(BundleError, match="waiting for rows"):
            ask(rows_of(ROWS))
    adoption.changed.clear()
    adoption.set_moments(before.moments(rows_of(ROWS[:0])))
    assert in_use(adoption).unready
    adoption.set_moments(before.moments(rows_of(ROWS)))
    assert adoption.changed.is_set()
    now = in_use(adoption)
    assert now.unready == ""
    inputs = now.examples(rows_of(ROWS)).inputs
    assert close(inputs, (ROWS[:, :5] - STANDARD.mean) / STANDARD.deviation)
    assert close(inputs.mean(axis=0), 0.0)
    assert close(inputs.std(axis=0), 1.0)
    outputs = now.outputs(now.serve, inputs)[:, 0].astype(np.float64)
    assert close(now.score(now.serve, rows_of(ROWS)), 1 / (1 + np.exp(-outputs)))


def test_a_site_goes_on_with_its_own_standard_under_the_next_head_but_not_the_next_bundle(
    federation: Federation,
) -> None:
    job = learning(federation, "local")
    adoption = adoption_at(None, job)
    feed(adoption, job.publish(1))
    adoption.set_moments(in_use(adoption).moments(rows_of(ROWS)))
    feed(adoption, job.publish(2, version=1, train=job.moved(0.1)))
    assert in_use(adoption).head.sequence == 2
    assert in_use(adoption).unready == ""
    other = federation.learning(standardise="local", feature=RAW[::-1])
    feed(adoption, other.publish(3))
    assert in_use(adoption).head.sequence == 3
    assert in_use(adoption).unready


def test_own_moments_mean_nothing_for_a_bundle_that_does_not_ask_for_them(
    federation: Federation,
) -> None:
    adoption = adoption_at(None, federation)
    feed(adoption, federation.publish(1))
    current = in_use(adoption)
    adoption.set_moments(current.moments(rows_of(ROWS)))
    assert adoption.current is current


def test_moments_of_other_columns_are_refused(federation: Federation) -> None:
    job = learning(federation, "local")
    adoption = adoption_at(None, job)
    feed(adoption, job.publish(1))
    with pytest.raises(ValueError, match=r"shape \(4,\), the bundle's features make 5 columns"):
        adoption.set_moments(Moments(3, np.zeros(4), np.ones(4)))


def test_a_site_waits_for_the_statistics_of_all_and_then_standardises_by_them(
    tmp_path: Path, federation: Federation
) -> None:
    job = learning(federation, "federated")
    adoption = adoption_at(tmp_path, job)
    feed(adoption, job.publish(1))
    assert in_use(adoption).unready == "waiting for the statistics of all sites"
    with pytest.raises(BundleError, match="statistics of all sites"):
        in_use(adoption).examples(rows_of(ROWS))
    second = job.publish(2, statistics=write_standard(STANDARD))
    adoption.on_head(second.envelope)
    # Nothing else is new, and statistics are what everything else waits for.
    assert second.head.statistics is not None
    digest = second.head.statistics.digest.hex()
    assert adoption.wanted() == [federation.topics.model(digest, 0)]
    feed(adoption, job.publish(3, statistics=write_standard(STANDARD), version=1))
    again = adoption_at(tmp_path, job)
    for each in (adoption, again):
        current = in_use(each)
        assert current.unready == ""
        expected = (ROWS[:, :5] - STANDARD.mean) / STANDARD.deviation
        assert np.allclose(current.examples(rows_of(ROWS)).inputs, expected, rtol=0, atol=1e-4)


def test_statistics_are_fetched_right_after_the_bundle(federation: Federation) -> None:
    job = learning(federation, "federated")
    adoption = adoption_at(None, job)
    publication = job.publish(1, statistics=write_standard(STANDARD))
    adoption.on_head(publication.envelope)
    wanted = adoption.wanted()
    head = publication.head
    assert head.statistics is not None
    after_bundle = len(head.bundle.chunks)
    assert head.statistics.digest.hex() in wanted[after_bundle]
    assert head.serve.content.digest.hex() in wanted[after_bundle + 1]


def test_statistics_that_do_not_fit_leave_the_model_in_use(federation: Federation) -> None:
    job = learning(federation, "federated")
    adoption = adoption_at(None, job)
    feed(adoption, job.publish(1, statistics=write_standard(STANDARD)))
    fewer = Standard(STANDARD.mean[:4], STANDARD.deviation[:4])
    flat = Standard(STANDARD.mean, STANDARD.deviation * 0)
    for sequence, wrong in enumerate((fewer, flat), start=2):
        with pytest.raises(MalformedError, match="statistics: "):
            feed(adoption, job.publish(sequence, statistics=write_standard(wrong)))
    assert in_use(adoption).head.sequence == 1
    assert in_use(adoption).unready == ""


def test_what_sites_tell_gives_the_standard_of_all_their_rows(federation: Federation) -> None:
    job = learning(federation, "federated")
    adoption = adoption_at(None, job)
    feed(adoption, job.publish(1))
    current = in_use(adoption)
    told = [statistics_of(current, rows_of(part)) for part in (ROWS[:50], ROWS[50:51], ROWS[51:])]
    reports = {f"gateway-{index}": each for index, each in enumerate(told) if each is not None}
    assert len(reports) == 3
    together = combine(reports, sha256(job.bundle), 5)
    assert np.allclose(together.mean, STANDARD.mean, rtol=1e-7)
    assert np.allclose(together.deviation, STANDARD.deviation, rtol=1e-5)  # of float32 inputs


def test_nothing_is_told_for_a_bundle_that_does_not_ask_or_without_rows(
    federation: Federation,
) -> None:
    for standardise, rows in (("given", ROWS), ("local", ROWS), ("federated", ROWS[:0])):
        job = learning(federation, standardise)
        adoption = adoption_at(None, job)
        feed(adoption, job.publish(1))
        assert statistics_of(in_use(adoption), rows_of(rows)) is None


def test_a_sum_that_no_message_holds_is_not_told_and_its_feature_named(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    job = learning(federation, "federated")
    adoption = adoption_at(None, job)
    feed(adoption, job.publish(1))
    rows = ROWS.copy()
    rows[3, 2] = 1e13
    with caplog.at_level(logging.WARNING):
        assert statistics_of(in_use(adoption), rows_of(rows)) is None
    assert "level(rotational_speed) is too large" in caplog.text

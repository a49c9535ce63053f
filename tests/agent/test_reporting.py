"""What a site reports, and when: each thing once, all of it again on a new connection."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.adoption import Adopted, Adoption
from agent.config import Identity
from agent.figures import MaskedFigures
from agent.history import History
from agent.learning.personalise import Candidate, Kind, PersonalTable
from agent.learning.worker import TrainingProcess
from agent.models import Models
from agent.own_model import Basis, Chosen, OwnModelFile, Serving
from agent.personal import Personal
from agent.reporting import AGAIN_S, GROWN_S, Reporting
from agent.signals.rows import rows_of
from tests.agent.federation import AGENT, CHANNELS, POLICY, Federation, feed, milled
from wire.bundle import Level
from wire.chunks import sha256
from wire.messages import Report
from wire.standards import Standard, write_standard
from wire.tensors import write_params

RAW = tuple(Level(channel=name) for name in CHANNELS[:5])


@dataclass
class Site:
    """A site's reporting, and what it reports on."""

    reporting: Reporting
    adoption: Adoption
    history: History

    @property
    def adopted(self) -> Adopted:
        assert self.adoption.current is not None
        return self.adoption.current

    def has_rows(self, number: int, start: int = 0) -> None:
        values = milled(number, (np.arange(number) % 3 == 0).astype(np.float64))
        self.history.append(rows_of(values, range(start, start + number)))

    def says(self, now_s: float) -> Report:
        report = self.reporting.next_report(now_s)
        assert report is not None
        return report

    def is_silent(self, now_s: float) -> bool:
        return self.reporting.next_report(now_s) is None


def site_in(directory: Path, federation: Federation) -> Site:
    history = History(directory / "history.db", CHANNELS, 2000, 0.25)
    adoption = Adoption(Models(":memory:"), federation.trust, CHANNELS, "numpy")
    process = TrainingProcess(idle_s=60.0, backend="numpy")  # starts nothing before it is used
    personal = Personal(
        adoption, history, process, AGENT, PersonalTable(), directory, lambda: False
    )
    return Site(Reporting(adoption, history, personal), adoption, history)


@pytest.fixture
def site(tmp_path: Path, federation: Federation) -> Iterator[Site]:
    made = site_in(tmp_path, federation)
    yield made
    made.history.close()


@pytest.fixture(scope="module")
def job(federation: Federation) -> Federation:
    """The same job, standardised by the statistics of all sites."""
    return federation.learning(standardise="federated", feature=RAW)


def test_nothing_is_reported_before_there_is_a_model(site: Site) -> None:
    site.has_rows(100)
    assert site.is_silent(0.0)


def test_each_head_is_reported_on_once(site: Site, federation: Federation) -> None:
    site.has_rows(200)
    feed(site.adoption, federation.publish(1))
    first = site.says(0.0)
    assert first.head == 1
    assert [each.digest for each in first.evaluations] == [site.adopted.head.train.content.digest]
    assert all(site.is_silent(second) for second in (0.25, 1.0, AGAIN_S - 0.25))
    feed(site.adoption, federation.publish(2, version=1, candidate=federation.moved(0.1)))
    second = site.says(1.0)
    assert second.head == 2
    assert len(second.evaluations) == 2
    assert site.is_silent(2.0)


def test_a_new_connection_says_everything_again(site: Site, federation: Federation) -> None:
    site.has_rows(200)
    feed(site.adoption, federation.publish(1))
    first = site.says(0.0)
    site.reporting.begin()
    assert site.says(1.0) == first
    assert site.is_silent(2.0)


def test_a_head_that_stays_is_judged_again_after_ten_minutes_by_the_rows_there_are_then(
    site: Site, federation: Federation
) -> None:
    site.has_rows(200)
    feed(site.adoption, federation.publish(1))
    (before,) = site.says(0.0).evaluations
    site.has_rows(49, start=1000)
    assert AGAIN_S == 600
    assert site.is_silent(599.0)
    (after,) = site.says(600.0).evaluations
    assert sum(after.negatives) > sum(before.negatives) > 0
    assert site.is_silent(1199.0)
    assert not site.is_silent(1200.0)


def test_a_quarter_more_rows_are_told_sooner_and_at_most_every_half_minute(
    site: Site, federation: Federation
) -> None:
    site.has_rows(200)
    feed(site.adoption, federation.publish(1))
    (before,) = site.says(0.0).evaluations
    site.has_rows(50, start=1000)
    assert GROWN_S == 30
    assert site.is_silent(29.0)
    (after,) = site.says(30.0).evaluations
    assert after.digest == before.digest
    assert sum(after.negatives) > sum(before.negatives)
    site.has_rows(50, start=2000)
    assert site.is_silent(AGAIN_S)  # 300 rows are not a quarter more than 250
    site.has_rows(13, start=3000)
    assert not site.is_silent(AGAIN_S)


def test_under_masks_more_rows_are_no_reason_to_report_again(
    site: Site, federation: Federation, identity: Identity
) -> None:
    """The helpers take one report about a subject: a second tells them no more."""
    policy = msgspec.structs.replace(POLICY, protection="masked")
    site.reporting.masked = MaskedFigures(identity)
    site.has_rows(200)
    feed(site.adoption, federation.publish(1, policy=policy))
    assert site.says(0.0).evaluations == ()
    site.has_rows(400, start=1000)
    assert site.is_silent(AGAIN_S - 1)
    assert not site.is_silent(AGAIN_S)


def test_a_site_without_rows_is_heard_soon_after_it_has_some(
    site: Site, federation: Federation
) -> None:
    feed(site.adoption, federation.publish(1))
    assert site.is_silent(0.0)
    site.has_rows(200)
    assert site.is_silent(1.0)
    assert site.says(5.0).head == 1
    assert site.is_silent(11.0)


def chosen(site: Site, federation: Federation, reason: str) -> Chosen:
    """What a choice leaves when a site serves a model that it learned alone."""
    head, own = site.adopted.head, federation.moved(0.5)
    basis = Basis(head.bundle.digest, head.serve.content.digest, head.serve.version, 150)
    candidate = Candidate(Kind("local"), own)
    return Chosen(basis, Serving(candidate, sha256(write_params(own)), reason))


def test_a_choice_is_told_with_how_it_does_and_a_new_reason_is_news(
    tmp_path: Path, site: Site, federation: Federation
) -> None:
    site.has_rows(200)
    feed(site.adoption, federation.publish(1))
    assert site.says(0.0).choice is None
    OwnModelFile(tmp_path).keep(chosen(site, federation, "local: it was better"))
    again = site_in(tmp_path, federation)
    feed(again.adoption, federation.publish(1))
    choice = again.says(0.0).choice
    assert choice is not None
    assert (choice.model, choice.reason) == ("local", "local: it was better")
    assert choice.evaluation.digest == sha256(write_params(federation.moved(0.5)))
    held_out = again.history.read(held_out=True)
    judges = sum(choice.evaluation.positives) + sum(choice.evaluation.negatives)
    assert judges == len(held_out) // 4  # the newest, which took no part in the choice
    assert again.is_silent(1.0)
    # What is served changes without another head.
    again.reporting.personal._chosen = chosen(again, federation, "local: again")  # noqa: SLF001
    newer = again.says(2.0).choice
    assert newer is not None
    assert newer.reason == "local: again"
    again.history.close()


def test_statistics_are_told_once_there_are_rows_enough_and_only_while_they_are_missing(
    site: Site, job: Federation
) -> None:
    feed(site.adoption, job.publish(1))
    site.has_rows(20)
    assert site.history.training_rows() < POLICY.min_rows
    assert site.is_silent(0.0)
    site.has_rows(200, start=1000)
    report = site.says(0.25)  # rows enough are news
    assert report.statistics is not None
    assert report.statistics.count == site.history.training_rows()
    assert report.evaluations == ()  # nothing can be judged before the statistics are known
    rows = site.history.read(held_out=False).values[:, :5]
    assert np.allclose(report.statistics.sums, rows.sum(axis=0), rtol=1e-6)
    assert site.is_silent(1.0)
    site.reporting.begin()
    assert site.says(2.0).statistics == report.statistics
    standard = Standard(rows.mean(axis=0), rows.std(axis=0))
    feed(site.adoption, job.publish(2, statistics=write_standard(standard)))
    after = site.says(3.0)
    assert after.statistics is None
    assert len(after.evaluations) == 1


def test_more_rows_are_told_while_statistics_are_missing(site: Site, job: Federation) -> None:
    feed(site.adoption, job.publish(1))
    site.has_rows(200)
    before = site.says(0.0).statistics
    site.has_rows(200, start=1000)
    assert site.is_silent(GROWN_S - 1)
    after = site.says(GROWN_S).statistics
    assert before is not None
    assert after is not None
    assert after.count > before.count


def test_a_bundle_with_constants_of_its_own_is_told_no_statistics(
    site: Site, federation: Federation
) -> None:
    site.has_rows(200)
    feed(site.adoption, federation.publish(1, policy=msgspec.structs.replace(POLICY, min_rows=1)))
    assert site.says(0.0).statistics is None

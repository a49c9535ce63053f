"""What the page, the metrics and `status` show, read from real database files."""

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.reader import MAX_AGE_S, Reader, ViewError, read_about
from coordinator.store import Store
from coordinator.view import Served, Span, Sums, abandoned, pooled, presence
from tests.coordinator.seeded_view import (
    DECIDED,
    GOAL,
    NOW,
    SITES,
    VERSIONS,
    Seeded,
    about,
    seed,
    train_quality,
)
from tests.coordinator.small_federation import Site, enrol, evaluation, open_federation, settings
from wire.errors import SettingsError
from wire.messages import Report


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    return seed(tmp_path / "coordinator.db")


@pytest.fixture
def reader(seeded: Seeded) -> Iterator[Reader]:
    opened = Reader(seeded.path, about(), clock=lambda: NOW)
    yield opened
    opened.close()


def test_a_view_says_what_the_coordinator_decided(reader: Reader) -> None:
    view = reader.view()
    assert (view.version, view.serve, view.candidate, view.lineage) == (VERSIONS, 40, 45, 2)
    assert (view.training, view.head) == ("open", 61)
    assert (view.buffer.members, view.buffer.goal, view.buffer.sites) == (3, GOAL, 3)
    assert view.buffer.oldest_at == NOW - 80
    assert view.updates.outcomes == {"folded": 240, "refused": 14, "dropped": 1, "committed": 3}
    assert view.updates.duplicates == 7
    assert (view.agent_count, view.site_count) == (5, 5)
    assert view.statuses == {"online": 4, "offline": 1}
    assert [(item.version, item.verdict) for item in view.decisions] == [
        (version, verdict) for version, _, verdict, _, _ in reversed(DECIDED)
    ]
    assert view.alarm_counts == {"two contents": 1}


def test_a_rollback_and_an_abandoned_lineage_say_what_is_served_from_then_on(
    reader: Reader,
) -> None:
    view = reader.view()
    turning = {item.verdict: item.served for item in view.decisions if item.is_turning_back}
    assert turning == {"abandoned": 10, "rolled back": 25}
    assert view.quality.abandoned == (Span(0, 11, 18), Span(1, 26, 32))
    assert [(entry.since_version, entry.version) for entry in view.quality.served] == [
        (0, 0), (5, 5), (10, 10), (25, 25), (30, 30), (32, 25), (40, 40),
    ]  # fmt: skip
    assert view.servable == (25, 30)


def test_sites_are_pooled_by_their_held_out_rows(reader: Reader) -> None:
    point = reader.view().quality.newest("train")
    assert point is not None
    rows = sum(number for site, number in SITES.items() if site != "H")
    assert (point.version, point.sites, point.rows) == (VERSIONS, 4, rows)
    assert point.value == pytest.approx(train_quality(VERSIONS), abs=0.02)


def test_a_site_with_too_few_failures_shows_its_mean_loss(reader: Reader) -> None:
    sites = {site.site: site for site in reader.view().sites}
    assert {site.metric for name, site in sites.items() if name != "H"} == {"pr_auc"}
    assert sites["H"].metric == "loss"
    assert sites["H"].figures.keys() == {"train", "serve", "chosen"}
    assert sites["H"].rows == SITES["H"]
    assert sites["H"].choices[0].normalisation == "local"
    given = sites["L"].contribution
    assert given is not None
    assert (given.value, given.error) == (0.012, 0.003)


def test_what_a_site_serves_is_drawn_as_the_versions_went_by(reader: Reader) -> None:
    site = next(site for site in reader.view().sites if site.site == "L")
    at = [version for version, _ in site.serve_history]
    assert at == sorted(at)
    assert site.serve_history[-1] == (VERSIONS, site.figures["chosen"])
    assert site.train_history[-1][0] == VERSIONS


def test_an_agents_link_and_outcomes_are_its_own(reader: Reader) -> None:
    agents = {agent.agent: agent for agent in reader.view().agents}
    away, here = agents["sud-2-press-5"], agents["h-press-3"]
    assert (away.status, away.presence.since) == ("offline", None)
    assert (here.status, here.is_paused, here.waiting) == ("online", True, 1)
    assert here.order == "pause: not answered yet"
    assert here.last_seen == NOW - 30
    assert sum(agent.folded for agent in agents.values()) == 240


def test_reasons_are_counted_without_their_numbers(reader: Reader) -> None:
    assert reader.view().updates.reasons == (
        ("lineage … was abandoned", 9),
        ("norm … exceeds …", 3),
        ("base version … is not one of ours", 2),
        ("quota", 1),
    )


def test_staleness_is_counted_against_the_version_before_the_fold(
    seeded: Seeded, reader: Reader
) -> None:
    updates = reader.view().updates
    assert updates.staleness == updates.recent_staleness
    assert sum(updates.staleness.values()) == 240
    with closing(sqlite3.connect(seeded.path)) as db:
        (fresh,) = db.execute(
            "SELECT count(*) FROM updates WHERE status = 'folded' AND base_version = version - 1"
        ).fetchone()
    assert updates.staleness[0] == fresh


# Cohorts


def test_where_the_charter_asks_for_more_sites_no_single_one_is_shown(seeded: Seeded) -> None:
    with closing(Reader(seeded.path, about(k_min=3), clock=lambda: NOW)) as reader:
        view = reader.view()
    assert view.is_cohort_only
    assert (view.sites, view.choices) == ((), ())
    assert all(point.sites >= 3 for point in view.quality.points)
    assert all(item.reason == "" for item in view.decisions)  # the gate's quorum is two


def test_a_pooled_figure_of_fewer_sites_than_k_min_is_left_out(seeded: Seeded) -> None:
    with closing(Reader(seeded.path, about(k_min=5), clock=lambda: NOW)) as reader:
        assert reader.view().quality.points == ()


def test_choices_are_counted_only_where_every_group_is_large_enough(seeded: Seeded) -> None:
    seeded.execute("UPDATE choices SET model = 'global', normalisation = 'shared'")
    with closing(Reader(seeded.path, about(k_min=5), clock=lambda: NOW)) as reader:
        assert reader.view().choices == (("global", "shared", 5),)
        seeded.execute("UPDATE choices SET model = 'local' WHERE agent = 'h-press-3'")
        assert reader.view().choices == ()


def test_the_detail_of_an_alarm_about_data_is_hidden_from_a_cohort(seeded: Seeded) -> None:
    alarm = {"agent": "h-press-3", "kind": "drift", "detail": "PR-AUC 0.61", "number": 1}
    seeded.insert("alarms", alarm | {"last_at": NOW})
    for k_min, detail in ((1, "PR-AUC 0.61"), (2, "")):
        with closing(Reader(seeded.path, about(k_min), clock=lambda: NOW)) as reader:
            newest = reader.view().alarms[0]
            assert (newest.kind, newest.detail) == ("drift", detail)


# Reading beside the writer


def test_the_same_view_comes_back_until_somebody_writes(seeded: Seeded) -> None:
    now = [NOW]
    with closing(Reader(seeded.path, about(), clock=lambda: now[0])) as reader:
        first = reader.view()
        assert reader.view() is first
        store = Store(seeded.path)
        store.set_training("closed")
        assert reader.view().training == "closed"
        store.close()
        second = reader.view()
        now[0] += MAX_AGE_S + 1
        assert reader.view().number == second.number + 1


def test_reading_changes_nothing_on_the_disk(seeded: Seeded) -> None:
    before = hashlib.sha256(seeded.path.read_bytes()).digest()
    with closing(Reader(seeded.path, about())) as reader:
        database = vars(reader)
        reader.view()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            database["_db"].execute("UPDATE control SET training = 'closed'")
    assert hashlib.sha256(seeded.path.read_bytes()).digest() == before


def test_a_reader_never_holds_up_the_writer(seeded: Seeded, reader: Reader) -> None:
    reader.view()
    with closing(sqlite3.connect(seeded.path, timeout=0, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE control SET training = 'closed'")
        assert reader.view().training == "open"  # what is not committed is not seen
        db.execute("COMMIT")
    assert reader.view().training == "closed"


def test_a_restored_backup_under_the_same_name_is_noticed(seeded: Seeded, reader: Reader) -> None:
    backup = seeded.path.with_name("backup.db")
    shutil.copy(seeded.path, backup)
    assert reader.view().training == "open"
    with closing(sqlite3.connect(backup)) as db, db:
        db.execute("UPDATE control SET training = 'closed'")
    for suffix in ("", "-wal", "-shm"):
        seeded.path.with_name(f"{seeded.path.name}{suffix}").unlink(missing_ok=True)
    backup.rename(seeded.path)
    assert reader.view().training == "closed"


def test_a_missing_or_damaged_file_is_said_and_read_once_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    with closing(Reader(path, about())) as reader:
        with pytest.raises(ViewError, match="start the coordinator"):
            reader.view()
        path.write_bytes(b"not a database" * 100)
        with pytest.raises(ViewError, match="not a database"):
            reader.view()
        path.unlink()
        seed(path)
        assert reader.view().version == VERSIONS


def test_a_database_before_its_first_version_is_shown_empty(tmp_path: Path) -> None:
    Store(tmp_path / "coordinator.db").close()
    with closing(Reader(tmp_path / "coordinator.db", about())) as reader:
        view = reader.view()
    assert (view.version, view.serve, view.agents, view.quality.points) == (None, None, (), ())


def test_figures_of_what_the_head_names_come_from_the_added_counts(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    store = Store(path)
    federation = open_federation(store, "[strategy]\ngoal = 2\n")
    for agent, site in (("press-1", "site-a"), ("press-2", "site-b")):
        enrol(store, agent, site)
        federation.commit([Site(agent).update(federation.saved.train)], 1.0)
    digest = federation.saved.train.content.digest
    for agent, site, quality in (("press-1", "site-a", 1.0), ("press-2", "site-b", 3.0)):
        report = Report(
            head=federation.head.sequence, evaluations=(evaluation(digest, quality, 60),)
        )
        federation.on_report(agent, site, report, 2.0)
    with closing(Reader(path, about())) as reader:
        view = reader.view()
        point = view.quality.newest("train", 1)
    store.close()
    assert view.version == 1
    assert point is not None
    assert (point.sites, point.rows) == (2, 120)  # neither has the failures for its own figure
    assert {site.metric for site in view.sites} == {"loss"}


def test_a_charter_that_can_not_be_read_is_named_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"trust.charter"):
        read_about(tmp_path / "coordinator.toml", settings())


# Arithmetic


def test_presence_is_the_share_of_the_hour_that_is_known() -> None:
    events = [(NOW - 5000, "online"), (NOW - 1800, "offline"), (NOW - 900, "online")]
    found = presence(events, NOW)
    assert found.share == pytest.approx(0.75)
    assert found.since == NOW - 900
    assert found.stretches == ((0.0, 0.5), (0.75, 1.0))


def test_presence_counts_from_the_first_birth_ever() -> None:
    found = presence([(NOW - 600, "online"), (NOW - 300, "offline")], NOW)
    assert found.share == pytest.approx(0.5)
    assert found.since is None


def test_a_second_birth_without_a_will_does_not_break_the_time_online() -> None:
    found = presence([(NOW - 4000, "online"), (NOW - 100, "online")], NOW)
    assert (found.share, found.since) == (1.0, NOW - 4000)
    assert found.stretches == ((0.0, 1.0),)


def test_an_event_of_a_clock_that_was_ahead_does_no_harm() -> None:
    assert presence([(NOW + 50, "online")], NOW).share is None
    assert presence([], NOW).share is None


def test_a_lineage_is_lost_after_the_version_that_the_next_began_from() -> None:
    versions = [(0, 0, 0.0), (1, 0, 1.0), (2, 0, 2.0), (3, 0, 3.0), (4, 1, 4.0), (5, 1, 5.0)]
    served = [Served(1, 0, 0, 0, 0.0), Served(2, 1, 0, 1, 1.5), Served(3, 5, 1, 5, 5.5)]
    assert abandoned(versions, served, 1, 9.0) == (Span(0, 2, 3),)
    assert abandoned(versions, served, 2, 9.0) == (Span(0, 2, 3),)
    assert abandoned(versions, served[:1], 2, 9.0) == (Span(0, 1, 3), Span(1, 4, 5))


def test_rmse_pools_by_squares_and_a_share_by_rows() -> None:
    sums = Sums(rows=4, weighted=1 * 3.0 + 3 * 1.0, squared=1 * 9.0 + 3 * 1.0)
    assert pooled("rmse", sums) == pytest.approx(3**0.5)
    assert pooled("pr_auc", sums) == pytest.approx(1.5)
    assert pooled("pr_auc", Sums(0, 0.0, 0.0)) is None

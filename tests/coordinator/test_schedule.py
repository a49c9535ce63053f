"""The sites' learning rate falls with the versions, by the head's policy."""

from pathlib import Path

import pytest

from coordinator.config import ScheduleTable
from coordinator.store import Store
from tests.coordinator.small_federation import Site, enrol, open_federation

FALLING = "[strategy]\ngoal = 1\n[schedule]\nversions = 4\nlast_learning_rate = 0.0001\n"


def test_a_rate_falls_along_half_a_cosine_and_stays_at_the_last() -> None:
    schedule = ScheduleTable(versions=4, last_learning_rate=0.1)
    rates = [schedule.rate(0.5, version) for version in range(7)]
    assert rates[0] == 0.5
    assert rates[2] == pytest.approx(0.3)
    assert rates[4:] == pytest.approx([0.1] * 3)
    assert rates[1] - rates[2] > rates[0] - rates[1]  # slowly first, as a cosine does


def test_without_a_schedule_the_rate_stays() -> None:
    assert {ScheduleTable().rate(0.5, version) for version in (0, 7, 10_000)} == {0.5}


def test_each_heads_policy_has_the_rate_of_its_version_and_a_restart_publishes_none(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "coordinator.db")
    federation = open_federation(store, FALLING)
    enrol(store, "press-1", "site-a")
    site, rates = Site(), [federation.head.policy.learning_rate]
    for _ in range(5):
        federation.commit([site.update(federation.head.train)], 1.0)
        rates.append(federation.head.policy.learning_rate)
    expected = ScheduleTable(versions=4, last_learning_rate=1e-4)
    assert rates == [expected.rate(1e-3, version) for version in range(6)]
    sequence = federation.head.sequence
    assert open_federation(store, FALLING).head.sequence == sequence
    store.close()

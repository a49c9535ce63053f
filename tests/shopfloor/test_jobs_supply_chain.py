"""The order jobs: one border in time, growing times, odd orders that only the judge knows."""

import csv
from pathlib import Path

import numpy as np
import pytest

from agent.authoring import read_bundle_settings
from coordinator.config import CoordinatorSettings
from shopfloor.jobs.supply_chain import (
    CANARIES,
    ODD,
    ODD_ORDERS,
    ODD_SHARE,
    SUPPLY_CHAIN,
    late_sites,
    odd_sites,
    simulated,
    standing_in,
)
from shopfloor.jobs.task import TIME, DataError, SiteRows, Task
from shopfloor.order_history import OTHERS, History
from shopfloor.orders import CHANNELS, LABEL, PLANTS, SCHEDULED
from wire.settings import parse_settings

DAY_S = 86_400.0
HEAD = f"""\
[coordinator]
state_dir = "state"
bundle = "bundle.jm"

[trust]
root = "{"0" * 64}"
charter = "charter.jm"
key = "coordinator.key"

[broker]

"""
TASKS = (SUPPLY_CHAIN, ODD_ORDERS)


def history(site: str, days: list[int], late: float = 0.0) -> History:
    """Orders of these days; every second is late, or all."""
    columns = {name: np.ones(len(days)) for name in CHANNELS}
    label = np.where(np.arange(len(days)) % 2 == 0, 1.0, late)
    return History(site, columns | {SCHEDULED: np.array(days, float), LABEL: label})


def days_of(site: SiteRows) -> tuple[float, float]:
    """The last day to learn from, and the first that judges."""
    return site.train[TIME][-1] // DAY_S, site.test[TIME][0] // DAY_S


@pytest.mark.parametrize("task", TASKS)
def test_all_sites_are_split_at_one_day_and_a_quarter_of_the_orders_judges(task: Task) -> None:
    sites = task.generate(0)
    assert [site.name for site in sites] == [plant.name for plant in PLANTS]
    assert max(days_of(site)[0] for site in sites) < min(days_of(site)[1] for site in sites)
    judged, learned = (
        sum(len(getattr(site, side)[TIME]) for site in sites) for side in ("test", "train")
    )
    assert 0.24 < judged / (judged + learned) <= 0.25


@pytest.mark.parametrize("task", TASKS)
def test_a_site_has_what_its_bundle_reads_and_beside_it_what_nobody_may(task: Task) -> None:
    settings = read_bundle_settings(task.description)
    named = {channel.name for channel in settings.channel}
    if settings.label is not None:
        named.add(settings.label.channel)
    for site in task.generate(1):
        assert named <= site.train.keys()
        assert CANARIES.keys() <= site.train.keys() - named
        for name, first in CANARIES.items():
            assert site.train[name].min() >= first
            assert len(np.unique(site.train[name])) > 10


def test_orders_of_one_day_stay_in_it_and_in_their_order() -> None:
    days = [10, 10, 10, 11, 12, 12, 12, 13, 14, 14]
    first, _ = late_sites([history("A", days), history("B", days)])
    times = np.concatenate([first.train[TIME], first.test[TIME]])
    assert (np.diff(times) > 0).all()
    assert np.diff(times // DAY_S).tolist() == np.diff(days).tolist()


def test_a_site_that_has_no_order_on_one_side_counts_as_one_of_the_others() -> None:
    both, before, after = [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3], [7, 8, 8]
    histories = [history("A", both), history("B", before), history(OTHERS, after)]
    sites = late_sites(histories)
    assert [site.name for site in sites] == ["a", "other-sites"]
    assert [len(sites[1].train[TIME]), len(sites[1].test[TIME])] == [4, 2]


def test_names_are_made_of_letters_digits_and_dashes_and_no_two_are_alike() -> None:
    days = [1, 2, 3, 4, 5, 6, 7, 8]
    names = ["Cipla, Goa, India", "Cipla Goa (India)", "***", "X" * 99]
    sites = late_sites([history(name, days) for name in names])
    assert [site.name for site in sites] == [
        *("cipla-goa-india", "cipla-goa-india-2", "site", "x" * 40)
    ]


def test_a_history_that_can_not_be_learned_or_judged_is_refused_in_words() -> None:
    days = [1, 2, 3, 4, 5, 6, 7, 8]
    with pytest.raises(DataError, match=r"1 sites have orders both until .* needs two"):
        late_sites([history("A", days)])
    with pytest.raises(DataError, match=r"until .* all orders are late or none is"):
        late_sites([history("A", days, late=1.0), history("B", days, late=1.0)])


def test_a_tenth_of_the_judging_orders_is_odd_and_no_training_order() -> None:
    plain = simulated(seed=3)
    for seed in (0, 1):
        sites = odd_sites(plain, seed)
        for site, ordinary in zip(sites, late_sites(plain), strict=True):
            odd = site.test[ODD] > 0
            assert odd.sum() == round(ODD_SHARE * len(odd))
            assert ODD not in site.train
            changed = np.any([site.test[name] != ordinary.test[name] for name in CHANNELS], axis=0)
            assert not changed[~odd].any()
            assert changed[odd].mean() > 0.9
            assert all(np.array_equal(site.train[key], ordinary.train[key]) for key in site.train)
    assert odd_sites(plain, 0)[0].test[ODD].tolist() != odd_sites(plain, 1)[0].test[ODD].tolist()


def test_simulated_sites_take_over_orders_of_their_tier_in_the_last_quarter_only() -> None:
    plain = simulated(seed=0)
    before, after = late_sites(plain), late_sites(standing_in(plain, seed=0))
    for old, new in zip(before, after, strict=True):
        assert all(np.array_equal(old.train[name], new.train[name]) for name in old.train)
        moved = np.any([old.test[name] != new.test[name] for name in CHANNELS], axis=0)
        assert 0.4 < moved.mean() <= 0.51
    # Kits go to where tablets were made, which knew none.
    assert not set(before[1].train["product"]) & {2.0}
    assert 2.0 in after[1].test["product"]


def test_a_file_that_is_no_history_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    with file.open("w", newline="") as text:
        csv.writer(text).writerows([["a", "b"], ["1", "2"]])
    for task in TASKS:
        with pytest.raises(DataError, match=r"orders\.csv:1: columns missing: .*give the SCMS"):
            task.read(file, 0)
        with pytest.raises(DataError, match=r"is not there.*give the SCMS"):
            task.read(tmp_path / "none.csv", 0)


@pytest.mark.parametrize("task", TASKS)
def test_a_federation_of_the_job_can_be_configured_as_its_tables_say(task: Task) -> None:
    text = f"{HEAD}{task.federation.read_text()}"
    settings = parse_settings(text, CoordinatorSettings, task.federation.name)
    assert settings.strategy.name == "fedbuff"
    assert 0 < settings.schedule.last_learning_rate < settings.policy.learning_rate
    assert settings.schedule.versions % settings.gate.every == 0

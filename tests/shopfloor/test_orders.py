"""Simulated orders follow the law that is written down; no input tells what came later."""

from pathlib import Path

import numpy as np
import pytest

from agent.authoring import BundleSettings, build_draft, read_bundle_settings
from agent.bundle.main import main
from shopfloor.orders import (
    CHANNELS,
    CODES,
    LABEL,
    MODES,
    NEEDED_DAYS,
    ODD_KINDS,
    PLANTS,
    SCHEDULED,
    generate,
    late_probability,
    make_odd,
    write_csv,
)
from wire.bundle import read_draft
from wire.manifest import OneHot

JOBS = Path(__file__).resolve().parents[2] / "configs" / "jobs"
NAMES = ("supply_chain", "order_anomaly")
PRIVATE = ("customer", "client", "project", "price", "value", "cost", "stock", "inventory")
AFTERWARDS = ("deliver", "record", "weight", "freight", "insurance", "late")


def description(name: str) -> BundleSettings:
    return read_bundle_settings(JOBS / f"{name}.toml")


@pytest.mark.parametrize("name", NAMES)
def test_no_input_names_a_customer_a_price_a_stock_or_what_came_after_the_order(name: str) -> None:
    inputs = [channel.name for channel in description(name).channel]
    assert inputs == list(CHANNELS)
    for word in (*PRIVATE, *AFTERWARDS):
        assert not [channel for channel in inputs if word in channel and channel != "lead_kind"]


@pytest.mark.parametrize("name", NAMES)
def test_each_code_of_a_channel_is_an_input_of_its_own(name: str) -> None:
    settings = description(name)
    assert {channel.name: channel.unit for channel in settings.channel} == dict(CHANNELS)
    coded = {each.channel: each.values for each in settings.feature if isinstance(each, OneHot)}
    assert coded == {channel: tuple(range(len(words))) for channel, words in CODES.items()}


def test_both_tiers_describe_an_order_by_the_same_columns() -> None:
    assert {plant.tier for plant in PLANTS} == {1, 2}
    for site in range(len(PLANTS)):
        assert set(generate(site, 3, seed=0)) == {SCHEDULED, LABEL, *CHANNELS}


def test_one_seed_gives_one_table_and_another_seed_or_site_another() -> None:
    one, same, seed, site = (
        generate(*each) for each in ((0, 60, 7), (0, 60, 7), (0, 60, 8), (1, 60, 7))
    )
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["quantity"], seed["quantity"])
    assert not np.array_equal(one["quantity"], site["quantity"])


def test_codes_are_in_range_and_orders_are_in_the_order_of_their_days() -> None:
    for site in range(len(PLANTS)):
        columns = generate(site, 2000, seed=1)
        for channel, words in CODES.items():
            assert set(columns[channel]) <= set(range(len(words)))
        assert (np.diff(columns[SCHEDULED]) >= 0).all()
        assert ((columns["lead_time"] == 0) == (columns["lead_kind"] == 0)).all()
        assert np.array_equal(columns["day_of_month"], columns[SCHEDULED] % 30 + 1)


def test_deliveries_are_late_as_often_as_the_law_says() -> None:
    for site in range(len(PLANTS)):
        columns = generate(site, 20_000, seed=2)
        probability = late_probability(columns, site)
        for chosen in (probability < np.median(probability), probability >= np.median(probability)):
            expected, rows = probability[chosen].mean(), chosen.sum()
            deviation = np.sqrt(expected * (1 - expected) / rows)
            assert abs(columns[LABEL][chosen].mean() - expected) < 4 * deviation


def test_rates_differ_between_sites_and_the_mechanism_does_not() -> None:
    columns = generate(0, 500, seed=3)

    def logit(site: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        probability = late_probability(columns, site)
        return np.log(probability / (1 - probability))

    for site, plant in enumerate(PLANTS):
        assert np.allclose(logit(site) - logit(0), plant.rate - PLANTS[0].rate)
    assert len({plant.rate for plant in PLANTS}) == len(PLANTS)


@pytest.mark.parametrize(
    ("channel", "before", "after"),
    [
        ("lead_time", NEEDED_DAYS[2], 30.0),
        ("lines", 0.0, 1.0),
        ("day_of_month", 12.0, 28.0),
        ("landlocked", 0.0, 1.0),
        ("form", 0.0, 3.0),
        ("quantity", 3.0, 5.0),
        ("region", 4.0, 0.0),
    ],
)
def test_each_cause_makes_an_order_by_sea_later(channel: str, before: float, after: float) -> None:
    columns = {name: np.zeros(2) for name in CHANNELS}
    columns["mode"][:] = MODES.index("ocean")
    columns["lead_kind"][:] = 2.0
    columns["lead_time"][:] = NEEDED_DAYS[2]
    columns[channel] = np.array([before, after])
    without, having = late_probability(columns, 0)
    assert having > 1.3 * without


def test_a_coast_makes_no_difference_to_a_plane() -> None:
    columns = {name: np.zeros(2) for name in CHANNELS}
    columns["landlocked"] = np.array([0.0, 1.0])
    assert np.ptp(late_probability(columns, 0)) == 0.0


def test_each_odd_order_is_odd_in_the_way_that_is_said_and_the_others_are_as_they_were() -> None:
    columns = generate(1, 500, seed=4)
    odd, kinds = make_odd(columns, 0.2, seed=0)
    assert [(kinds == kind).sum() for kind in range(len(ODD_KINDS))] == [20] * len(ODD_KINDS)
    for name, column in columns.items():
        assert np.array_equal(odd[name][kinds < 0], column[kinds < 0])
    slip, pack, form, soon, terms = (kinds == kind for kind in range(len(ODD_KINDS)))
    assert np.allclose(odd["quantity"][slip] - columns["quantity"][slip], 3.0)
    assert np.allclose(odd["pack_size"][pack] - columns["pack_size"][pack], 3.0)
    is_kit = columns["form"] == CODES["form"].index("kit")
    assert ((odd["form"] == CODES["form"].index("kit"))[form] == ~is_kit[form]).all()
    assert (odd["mode"][soon] == MODES.index("ocean")).all()
    assert (odd["lead_time"][soon] <= 5).all()
    combination = (columns["mode"] == 3) & (columns["terms"] == 2)
    assert not combination[kinds < 0].any()
    assert ((odd["mode"] == 3) & (odd["terms"] == 2))[terms].all()


def test_what_is_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="site must be 0 to 5, not 6"):
        generate(6, 10, seed=0)
    with pytest.raises(ValueError, match="rows must be 0 to"):
        generate(0, -1, seed=0)
    with pytest.raises(ValueError, match="share must be 0 to 1"):
        make_odd(generate(0, 10, seed=0), 1.5, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_job_can_be_tried_on_written_tables_as_its_description_says(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = tmp_path / f"{name}.draft"
    draft.write_bytes(build_draft(JOBS / f"{name}.toml", description(name)))
    assert read_draft(draft.read_bytes())[0].manifest.name == description(name).name
    files = []
    for site in (1, 4):
        write_csv(generate(site, 300, seed=0), tmp_path / f"{PLANTS[site].name}.csv")
        files += ["--data", str(tmp_path / f"{PLANTS[site].name}.csv")]
    assert main(["test", str(draft), *files, "--time", SCHEDULED, "--rounds", "1"]) == 0
    assert "together" in capsys.readouterr().out

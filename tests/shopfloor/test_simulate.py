"""The simulator: accounts that add up, runs that repeat, links that keep their promises."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.server_optimizer import ServerOptimizerSettings
from coordinator.strategies.choice import StrategyName, StrategySettings
from coordinator.strategies.strategy import Offer
from shopfloor.simulate import command
from shopfloor.simulate.command import STRATEGIES, add_simulate
from shopfloor.simulate.engine import MODEL_BYTES, Simulation, simulate
from shopfloor.simulate.fleet import CLASSES, Fleet, make_fleet
from shopfloor.simulate.links import Links
from shopfloor.simulate.network import (
    PARAMETERS,
    Job,
    Recipe,
    accuracy,
    initial_weights,
    train,
)
from shopfloor.simulate.outcome import Outcome
from shopfloor.simulate.presets import PRESETS, preset
from shopfloor.simulate.scenario import Limits, Scenario
from shopfloor.simulate.settings import Tables, read_tables
from wire.errors import SettingsError
from wire.tensors import update_bytes

SMALL = Scenario(agents=40, seed=5)
SHORT = Limits(hours=0.5)


def with_policy(tables: Tables, **changes: object) -> Tables:
    return msgspec.structs.replace(tables, policy=msgspec.structs.replace(tables.policy, **changes))


def never_a_version(tables: Tables) -> Tables:
    buffered = msgspec.structs.replace(tables.strategy, goal=1000, deadline_s=86_400.0)
    return msgspec.structs.replace(tables, strategy=buffered)


def with_ten_slots(tables: Tables) -> Tables:
    selection = msgspec.structs.replace(tables.selection, concurrency=10)
    return msgspec.structs.replace(tables, selection=selection)


FEDBUFF = with_ten_slots(preset("fedbuff"))
SMALL_ROUNDS = msgspec.structs.replace(
    preset("fedavg"),
    strategy=StrategySettings(name="fedavg", clients=5, over_selection=1.0, deadline_s=120.0),
)


@pytest.fixture(scope="module")
def usual() -> Outcome:
    return simulate(SMALL, FEDBUFF, SHORT)


# Runs


@pytest.mark.parametrize("strategy", PRESETS)
def test_every_update_is_folded_refused_buffered_or_on_its_way(strategy: StrategyName) -> None:
    outcome = simulate(SMALL, with_ten_slots(preset(strategy)), SHORT)

    assert outcome.is_accounted
    assert outcome.folded > 30
    assert outcome.made == outcome.uplinks + outcome.in_flight
    assert outcome.ended == "time"


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(usual: Outcome) -> None:
    again = simulate(SMALL, FEDBUFF, SHORT)
    other = simulate(replace(SMALL, seed=6), FEDBUFF, Limits(hours=0.1))

    assert msgspec.json.encode(usual) == msgspec.json.encode(again)
    assert other.curve[0] != usual.curve[0]


def test_what_is_folded_is_the_sum_of_the_bytes_that_were_sent() -> None:
    arrived: list[NDArray[np.int64]] = []
    sizes: set[int] = set()

    def witness(offer: Offer, integers: NDArray[np.signedinteger], size: int, reason: str) -> None:
        assert not reason
        arrived.append(offer.weight * integers.astype(np.int64))
        sizes.add(size)

    simulation = Simulation(SMALL, never_a_version(FEDBUFF), SHORT, witness=witness)
    outcome = simulation.run()

    assert outcome.buffered == outcome.uplinks == len(arrived) > 20
    assert np.array_equal(simulation.federation.buffer.total[0], sum(arrived))
    assert sizes == {update_bytes(8, PARAMETERS)}
    assert outcome.uplink_bytes == outcome.uplinks * PARAMETERS


def test_agents_learn_what_no_agent_has_seen(usual: Outcome) -> None:
    assert usual.curve[0].accuracy < 0.3
    assert usual.final_accuracy > 0.4
    assert usual.served_accuracy > 0.4
    assert usual.downlink_bytes == usual.downlinks * MODEL_BYTES


def test_a_run_that_stops_at_its_target_is_the_beginning_of_one_that_does_not(
    usual: Outcome,
) -> None:
    stopped = simulate(SMALL, FEDBUFF, Limits(hours=0.5, target=0.3, stop_at_target=True))

    assert stopped.ended == "target"
    assert stopped.reached == stopped.curve[-1]
    assert stopped.curve == usual.curve[: len(stopped.curve)]
    assert sum(point.accuracy for point in stopped.curve[-3:]) / 3 >= 0.3


def test_a_late_update_of_a_round_is_refused_and_counted_as_an_uplink() -> None:
    outcome = simulate(SMALL, SMALL_ROUNDS, SHORT)

    assert outcome.refused["late"] > 10
    assert outcome.staleness_p95 == 0
    assert outcome.is_accounted


def test_agents_that_give_up_late_work_send_none_of_it() -> None:
    outcome = Simulation(SMALL, SMALL_ROUNDS, SHORT, late="drop").run()

    assert outcome.refused == {}
    assert outcome.is_accounted


def test_no_more_agents_train_at_once_than_there_are_slots() -> None:
    scenario = replace(SMALL, offline=0.0, compute_spread=0.0)
    selection = msgspec.structs.replace(FEDBUFF.selection, concurrency=1)

    outcome = simulate(scenario, msgspec.structs.replace(FEDBUFF, selection=selection), SHORT)

    # One training after the other, of 60 s and a little, with two transfers each.
    assert 10 <= outcome.uplinks <= 1800 / (60 * 0.8 + 10)
    assert outcome.downlinks - outcome.uplinks <= 1
    assert outcome.staleness_mean == 0


def test_open_admission_lets_everybody_train_once_from_each_version() -> None:
    tables = with_policy(never_a_version(FEDBUFF), admission="open")

    outcome = simulate(SMALL, tables, Limits(hours=6.0))

    assert outcome.uplinks == SMALL.agents  # there is one version


def test_offline_training_makes_updates_that_nobody_granted(usual: Outcome) -> None:
    offline = simulate(SMALL, with_policy(FEDBUFF, offline_training=True), SHORT)

    assert usual.made <= usual.downlinks
    assert offline.made > offline.downlinks
    assert offline.is_accounted


def test_a_training_that_is_interrupted_begins_again(usual: Outcome) -> None:
    outcome = simulate(replace(SMALL, dropout=0.5), FEDBUFF, SHORT)

    assert outcome.restarts > 10
    assert 0 < outcome.uplinks < usual.uplinks
    assert outcome.is_accounted


def test_sparse_and_narrow_updates_take_as_many_bytes_as_they_have() -> None:
    narrow = simulate(SMALL, with_policy(FEDBUFF, bits=4, scale=0.02), SHORT)
    sparse = simulate(SMALL, with_policy(FEDBUFF, kept_share=0.1), SHORT)

    assert narrow.uplink_bytes == narrow.uplinks * update_bytes(4, PARAMETERS)
    assert sparse.uplink_bytes < 0.25 * sparse.uplinks * PARAMETERS
    assert min(narrow.final_accuracy, sparse.final_accuracy) > 0.3


def test_a_step_that_is_far_too_long_ends_the_run_and_says_so() -> None:
    wild = ServerOptimizerSettings(name="adam", learning_rate=10.0)

    outcome = simulate(SMALL, msgspec.structs.replace(FEDBUFF, server_optimizer=wild), SHORT)

    assert outcome.ended == "diverged"


# The plant floor


@pytest.mark.parametrize("offline", [0.3, 0.86])
def test_random_links_are_down_for_the_share_that_was_asked_for(offline: float) -> None:
    links = Links(Scenario(agents=400, offline=offline))
    down = []
    for at_s in range(0, 200_000, 500):
        links.advance(float(at_s))
        down.append(1.0 - links.is_up.mean())
        assert (links.until_s > at_s).all()

    assert np.mean(down) == pytest.approx(offline, abs=0.02)


def test_weekly_links_are_up_once_a_week_and_for_as_long_as_they_should() -> None:
    links = Links(Scenario(agents=50, outages="weekly", offline=0.95))
    hours = []
    for hour in range(4 * 168):
        links.advance(3600.0 * hour)
        hours.append(links.is_up.copy())
    up = np.array(hours)

    assert up[:168].any(axis=0).all()
    assert np.array_equal(up[168:336], up[336:504])
    assert up.mean() == pytest.approx(0.05, abs=0.01)


def test_the_agents_of_a_site_come_and_go_together_with_its_shift() -> None:
    links = Links(Scenario(agents=60, agents_per_site=10, outages="shift", offline=2 / 3))
    for hour in range(48):
        links.advance(3600.0 * hour)
        sites = links.is_up.reshape(6, 10)
        assert (sites == sites[:, :1]).all()
    assert 0 < links.is_up.mean() < 1


def test_links_that_never_fail_never_change() -> None:
    links = Links(Scenario(agents=10, offline=0.0))

    assert not links.advance(1e9).size
    assert links.is_up.all()


def test_slowness_goes_with_the_classes_as_much_as_it_was_asked_to() -> None:
    fleet = make_fleet(Scenario(agents=2000, correlation=0.7, skew=0.1))
    classes = np.add.reduceat(fleet.labels, fleet.starts[:-1]) / fleet.rows

    assert np.corrcoef(classes, np.log(fleet.compute_s))[0, 1] == pytest.approx(0.7, abs=0.06)


def test_little_skew_gives_every_agent_all_classes_and_much_skew_a_few() -> None:
    def classes_of_agents(skew: float) -> float:
        fleet = make_fleet(Scenario(agents=100, skew=skew))
        parts = np.split(fleet.labels, fleet.starts[1:-1])
        return float(np.mean([len(np.unique(part)) for part in parts]))

    assert classes_of_agents(100.0) > 0.95 * CLASSES
    assert classes_of_agents(0.1) < 4.0


# The network


def one_agent(rows: int) -> Fleet:
    fleet = make_fleet(Scenario(agents=1))
    return Fleet(
        features=fleet.features[:rows],
        labels=fleet.labels[:rows],
        starts=np.array([0, rows]),
        test_features=fleet.test_features,
        test_labels=fleet.test_labels,
        compute_s=fleet.compute_s,
        agents=fleet.agents,
        sites=fleet.sites,
    )


def test_one_step_is_the_gradient_of_the_mean_loss() -> None:
    fleet = one_agent(rows=7)
    weights = initial_weights(np.random.default_rng(0))
    recipe = Recipe(epochs=1, batch_size=16, learning_rate=1.0)
    deltas, losses = train([Job(0, weights)], fleet, recipe, np.random.default_rng(0))

    def loss(at: NDArray[np.float64]) -> float:
        hidden = np.maximum(fleet.features @ at[:2048].reshape(32, 64) + at[2048:2112], 0)
        out = hidden @ at[2112:2752].reshape(64, 10) + at[2752:]
        out -= np.log(np.exp(out).sum(axis=1, keepdims=True))
        return float(-out[np.arange(7), fleet.labels].mean())

    exact = weights.astype(np.float64)
    assert losses[0] == pytest.approx(loss(exact), rel=1e-5)
    for place in (0, 777, 2050, 2110, 2300, 2755):
        step = np.zeros(PARAMETERS)
        step[place] = 1e-5
        slope = (loss(exact + step) - loss(exact - step)) / 2e-5
        assert deltas[0, place] == pytest.approx(-slope, abs=1e-5)


def test_training_many_agents_together_is_training_each_alone() -> None:
    fleet = make_fleet(Scenario(agents=20, seed=1))
    weights = initial_weights(np.random.default_rng(1))
    recipe = Recipe(epochs=1, batch_size=1000, learning_rate=0.1)  # no order to shuffle
    jobs = [Job(agent, weights) for agent in (3, 7, 3, 19)]

    together, losses = train(jobs, fleet, recipe, np.random.default_rng(0))

    for job, delta, loss in zip(jobs, together, losses, strict=True):
        alone, its_loss = train([job], fleet, recipe, np.random.default_rng(0))
        assert delta == pytest.approx(alone[0], abs=1e-6)
        assert loss == pytest.approx(its_loss[0])


def test_random_weights_guess() -> None:
    fleet = make_fleet(Scenario(agents=4))

    assert accuracy(initial_weights(np.random.default_rng(0)), fleet) < 0.35


# The command


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_simulate(parser.add_subparsers(required=True))
    return parser.parse_args(["simulate", *words])


def test_the_command_knows_all_strategies_of_the_coordinator() -> None:
    assert get_args(StrategyName) == STRATEGIES


def test_the_command_prints_a_table_and_writes_figures_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--agents", "40", "--hours", "0.2", "--target", "0.3", "--out", str(tmp_path))
    options = parsed("--compare", *words)

    assert options.command(options) == 0

    printed = capsys.readouterr()
    for strategy in PRESETS:
        assert f"\n{strategy} " in printed.out
    assert "of 0.2 h" in printed.err
    record = json.loads((tmp_path / "simulation.json").read_text())
    assert set(record["runs"]) == set(PRESETS)
    assert record["scenario"]["agents"] == 40
    assert (tmp_path / "simulation.svg").read_text().count("<svg") == 1


def test_the_same_runs_give_the_same_picture(tmp_path: Path) -> None:
    for folder in ("first", "again"):
        options = parsed("--agents", "20", "--hours", ".2", "--out", str(tmp_path / folder))
        command.run(options)

    first, again = (tmp_path / name / "simulation.svg" for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_the_shipped_configuration_of_the_coordinator_can_be_simulated() -> None:
    file = Path(__file__).parents[2] / "configs" / "coordinator.toml"
    tables = read_tables(file)

    outcome = simulate(SMALL, tables, Limits(hours=0.3))

    assert tables.strategy.goal == 10
    assert outcome.is_accounted
    assert outcome.uplinks > 0


def test_a_configuration_that_contradicts_itself_is_refused_by_file_line_and_key(
    tmp_path: Path,
) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text('[broker]\nhost = "x"\n[policy]\ncalibration = 0.5\n')

    with pytest.raises(SettingsError, match=r"coordinator\.toml.*4.*calibration"):
        read_tables(file)


def test_a_table_that_the_coordinator_does_not_know_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text("[stratgy]\ngoal = 3\n")

    with pytest.raises(SettingsError, match="stratgy"):
        read_tables(file)


@pytest.mark.parametrize(
    "words", [("--agents", "3"), ("--offline", "1"), ("--correlation", "2"), ("--hours", "0")]
)
def test_options_out_of_range_are_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(*words)
    assert "is not between" in capsys.readouterr().err

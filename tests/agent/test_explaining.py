"""Which scores get drivers, what these say, and that they cost little."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.attribution import largest_shares
from agent.explaining import Explaining
from agent.learning.graph import read_graph
from agent.learning.numpy_backend import NumpyBackend
from agent.learning.runtime import BackendError
from agent.serve.score import Score
from agent.serve.settings import ScoresTable
from tests.agent.federation import CHANNELS, Federation, feed
from tests.agent.test_scoring import LENGTH, UNITS, WINDOWED, Line, lived, part
from wire.manifest import Channel, Level
from wire.tensors import Params


class Clock:
    """A clock that goes on by `step_s` whenever it is looked at."""

    def __init__(self) -> None:
        self.now_s, self.step_s = 1000.0, 0.0

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def line_of(
    federation: Federation, folder: Path, clock: Clock, **table: Any
) -> tuple[Line, Explaining]:
    explaining = Explaining(UNITS, ScoresTable(**table), clock)
    line = Line(federation, folder, explaining)
    feed(line.adoption, federation.publish(1))
    return line, explaining


def explained(scores: list[Score]) -> list[int]:
    return [score.source_timestamp_us - 1000 for score in scores if score.drivers]


def test_the_newest_alarm_of_a_batch_says_what_drove_it_in_units_of_the_plant(
    federation: Federation, tmp_path: Path
) -> None:
    line, _ = line_of(federation.learning(threshold=0.0), tmp_path, Clock())
    rows = lived(6)
    line.scoring.take(rows)
    assert explained(line.given) == [5]
    adopted = line.adoption.current
    assert adopted is not None
    live = adopted.live(rows)
    outputs = adopted.outputs(adopted.serve, live.inputs)
    expected = largest_shares(adopted.model, adopted.serve, live.inputs[5], outputs[5], 3)
    drivers = line.given[-1].drivers
    assert [driver.share for driver in drivers] == [share.share for share in expected]
    for driver, share in zip(drivers, expected, strict=True):
        assert driver.channel == adopted.model.channels[share.channel]
        column = CHANNELS.index(driver.channel)
        assert (driver.value, driver.unit) == (rows.values[5, column], UNITS[column])
    assert line.status.drivers.startswith("1970-01-01T00:00:00Z: ")
    assert str(drivers[0]) in line.status.drivers


def test_what_is_no_alarm_is_not_explained(federation: Federation, tmp_path: Path) -> None:
    line, _ = line_of(federation.learning(threshold=1.0), tmp_path, Clock())
    line.scoring.take(lived(6))
    assert len(line.given) == 6
    assert explained(line.given) == []


def test_an_alarm_that_stays_is_explained_now_and_then(
    federation: Federation, tmp_path: Path
) -> None:
    clock, rows = Clock(), lived(9)
    alarming = federation.learning(threshold=0.0)
    line, explaining = line_of(alarming, tmp_path, clock, drivers_every_s=2.0)
    for at in range(9):
        line.scoring.take(part(rows, at, at + 1))
        clock.now_s += 1.0
    assert explained(line.given) == [0, 2, 4, 6, 8]
    explaining.table = ScoresTable(drivers=0)
    clock.now_s += 100.0
    line.scoring.take(part(rows, 8, 9))
    assert not line.given[-1].drivers
    assert line.status.drivers == "none: [scores] drivers = 0"


def test_explaining_takes_a_hundredth_of_the_time_at_most(
    federation: Federation, tmp_path: Path
) -> None:
    clock, rows = Clock(), lived(60)
    line, _ = line_of(federation.learning(threshold=0.0), tmp_path, clock)
    clock.step_s = 0.1  # what one explanation takes, by this clock
    for at in range(60):
        line.scoring.take(part(rows, at, at + 1))
        clock.now_s += 1.0 - clock.step_s
    first, second, *_ = explained(line.given)
    assert first == 0
    assert second in (9, 10)


def test_a_predicted_number_says_what_moves_it_also_in_a_window(
    federation: Federation, tmp_path: Path
) -> None:
    two = ("torque", "tool_wear")
    changes = {
        **WINDOWED,
        "channel": tuple(Channel(name=name, unit="") for name in two),
        "feature": tuple(Level(channel=name, mean=40.0, std=30.0) for name in two),
        "loss": "mse",
    }
    line, _ = line_of(federation.learning(**changes), tmp_path, Clock())
    rows = lived(8)
    line.scoring.take(rows)
    assert len(line.given) == 8 - LENGTH + 1
    assert explained(line.given) == [7]
    drivers = line.given[-1].drivers
    assert {driver.channel for driver in drivers} == {*two}
    assert sum(abs(driver.share) for driver in drivers) == pytest.approx(1.0)
    values = {driver.channel: driver.value for driver in drivers}
    assert values == {name: rows.values[7, CHANNELS.index(name)] for name in two}


class Failing(NumpyBackend):
    """A runtime that can score and nothing more."""

    def input_grads(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        raise BackendError(f"no room for {len(params)} tensors and {len(x)} rows")


def test_a_gradient_that_can_not_be_computed_costs_no_score(
    federation: Federation, tmp_path: Path
) -> None:
    line, _ = line_of(federation.learning(threshold=0.0), tmp_path, Clock())
    adopted = line.adoption.current
    assert adopted is not None
    failing = Failing(read_graph(adopted.model.graph), adopted.model.loss)
    line.adoption.current = replace(adopted, model=replace(adopted.model, backend=failing))
    for _ in range(2):
        line.scoring.take(lived(6))
    assert len(line.given) == 12
    assert explained(line.given) == []
    assert line.status.drivers == "none: the model's gradient can not be computed"


def test_a_model_of_one_channel_says_why_it_has_no_drivers(
    federation: Federation, tmp_path: Path
) -> None:
    line, _ = line_of(federation.learning(**WINDOWED, threshold=0.0), tmp_path, Clock())
    line.scoring.take(lived(8))
    assert np.all([score.is_alarm for score in line.given])
    assert explained(line.given) == []
    assert line.status.drivers == "none: the model has one channel only"

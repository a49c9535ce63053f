"""Scoring of live rows: each once, in order, also when windows reach across batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.adoption import Adoption
from agent.declared import Cnn1d
from agent.explaining import Explaining
from agent.history import History
from agent.learning.personalise import PersonalTable
from agent.learning.worker import TrainingProcess
from agent.models import Models
from agent.personal import Personal
from agent.scoring import Scoring
from agent.serve import Score
from agent.serve.score import STATUS_GOOD, STATUS_INPUTS_UNCERTAIN
from agent.signals.rows import Rows, rows_of
from agent.status import Status
from tests.agent.federation import CHANNELS, Federation, feed, milled
from wire.manifest import Alarm, Channel, Label, Level, Window

LENGTH = 4
UNITS = ["K", "K", "rpm", "Nm", "min", "", ""]
WINDOWED: dict[str, Any] = {
    "channel": (Channel(name="torque", unit="Nm"),),
    "label": Label(channel="machine_failure"),
    "window": Window(length=LENGTH),
    "feature": (Level(channel="torque", mean=40.0, std=10.0),),
    "family": Cnn1d(widths=(4,), kernel=(3,), hidden=(4,)),
}


class Line:
    """An agent's scoring, and what it gave."""

    def __init__(
        self, federation: Federation, folder: Path, explaining: Explaining | None = None
    ) -> None:
        self.adoption = Adoption(Models(":memory:"), federation.trust, CHANNELS, "numpy")
        self.given: list[Score] = []
        personal = Personal(
            self.adoption,
            History(folder / "history.db", CHANNELS, 100, 0.1),
            TrainingProcess(idle_s=60.0, backend="numpy"),  # starts nothing before it is used
            "gateway-1",
            PersonalTable(enabled=False),
            folder,
            lambda: False,
        )
        self.status = Status(agent="gateway-1", site="Ulm", federation="test", pid=1)
        self.scoring = Scoring(self.adoption, personal, UNITS, self.status, self._take, explaining)

    def _take(self, scores: Sequence[Score]) -> None:
        self.given += scores


def lived(count: int, uncertain: tuple[int, ...] = ()) -> Rows:
    values = milled(count)
    rows = rows_of(values, range(1000, 1000 + count))
    is_uncertain = np.isin(np.arange(count), uncertain)
    return Rows(rows.source_timestamp_us, rows.values, rows.follows, {}, is_uncertain)


def part(rows: Rows, first: int, last: int) -> Rows:
    chosen = np.zeros(len(rows), np.bool_)
    chosen[first:last] = True
    taken = rows.take(chosen)
    taken.follows[0] = rows.follows[first]
    return taken


def test_nothing_is_scored_before_there_is_a_model(federation: Federation, tmp_path: Path) -> None:
    line = Line(federation, tmp_path)
    line.scoring.take(lived(5))
    assert line.given == []


def test_every_row_is_scored_once_with_its_time_and_origin(
    federation: Federation, tmp_path: Path
) -> None:
    line = Line(federation, tmp_path)
    feed(line.adoption, federation.publish(3, version=7))
    rows = lived(10, uncertain=(4,))
    for first, last in ((0, 3), (3, 4), (4, 10)):
        line.scoring.take(part(rows, first, last))
    adopted = line.adoption.current
    assert adopted is not None
    assert [score.source_timestamp_us for score in line.given] == list(range(1000, 1010))
    assert [score.value for score in line.given] == pytest.approx(
        adopted.score(adopted.serve, rows).tolist()
    )
    assert [score.status for score in line.given] == [
        STATUS_INPUTS_UNCERTAIN if at == 4 else STATUS_GOOD for at in range(10)
    ]
    assert {(score.origin.version, score.origin.serving) for score in line.given} == {(7, "global")}
    assert line.status.scored == 10
    assert line.status.alarms == sum(score.is_alarm for score in line.given)


def test_the_heads_threshold_takes_the_place_of_the_bundles_at_once(
    federation: Federation, tmp_path: Path
) -> None:
    federation = federation.learning(alarm=Alarm(missed_cost=20.0))
    line, rows = Line(federation, tmp_path), lived(30)
    feed(line.adoption, federation.publish(3))
    line.scoring.take(part(rows, 0, 10))
    assert {score.origin.threshold for score in line.given} == {0.5}
    middle = float(np.median([score.value for score in line.given]))
    for sequence, threshold, expected in ((4, 0.0, True), (5, 1.0, False), (6, middle, None)):
        feed(line.adoption, federation.publish(sequence, threshold=threshold))
        line.given = []
        line.scoring.take(part(rows, 10, 30))
        assert len(line.given) == 20
        for score in line.given:
            assert score.origin.threshold == threshold
            wanted = score.value >= middle if expected is None else expected
            assert score.is_alarm is wanted
            assert score.decision == ("alarm" if wanted else "normal")
    assert {score.is_alarm for score in line.given} == {True, False}
    feed(line.adoption, federation.publish(7))
    line.given = []
    line.scoring.take(part(rows, 10, 30))
    assert {score.origin.threshold for score in line.given} == {0.5}


@pytest.mark.parametrize("cuts", [(), (1, 2, 3), (3, 7), (5,)])
def test_windows_reach_across_batches_and_not_across_gaps(
    federation: Federation, tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    line = Line(federation.learning(**WINDOWED), tmp_path)
    feed(line.adoption, federation.learning(**WINDOWED).publish(1))
    rows = lived(12)
    rows.follows[0] = rows.follows[6] = False
    for first, last in zip((0, *cuts), (*cuts, 12), strict=True):
        line.scoring.take(part(rows, first, last))
    scored = [score.source_timestamp_us - 1000 for score in line.given]
    assert scored == [*range(LENGTH - 1, 6), *range(6 + LENGTH - 1, 12)]
    adopted = line.adoption.current
    assert adopted is not None
    whole = adopted.score(adopted.serve, rows)
    assert [score.value for score in line.given] == pytest.approx(whole[scored].tolist())

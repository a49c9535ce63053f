"""docs/operations.md explains every metric of the programs, and none that does not exist."""

import re
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from agent.health import Board, Progress
from agent.status import as_json
from coordinator.gate import GateSettings
from coordinator.helper.counting import Figures
from coordinator.helper.metrics import metric_lines
from coordinator.helper.store import Known
from coordinator.reader import Reader
from coordinator.web.metrics import metrics_text
from tests.agent.test_health_metrics import channel, status
from tests.coordinator.seeded_view import about, seed

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def families(text: str) -> set[str]:
    """Names of the families of an exposition."""
    return set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


def explained(title: str) -> set[str]:
    """Names in the first column of the table below a title."""
    table = DOCUMENT.partition(f"**{title}**")[2].partition("\n\n")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return set(re.findall(r"`([a-z_]+)`", " ".join(cells)))


def test_every_metric_of_an_agent_is_explained() -> None:
    progress = Progress()
    with ExitStack() as watched:
        watched.enter_context(progress.watching("delivery", 60.0))
        board = Board(progress, "journeyman-agent", 200)
        now = status()
        now.certificate_ends = 1.0
        board.post(now, as_json(now), 1.0)
        board.post_channels([channel("torque")])
        found = families(board.metrics(1.0))
    names = {name.removeprefix("journeyman_agent_") for name in found}
    assert names == explained("Every metric of an agent")


def test_every_metric_of_a_coordinator_is_explained(tmp_path: Path) -> None:
    seeded = seed(tmp_path / "coordinator.db")
    with closing(Reader(seeded.path, about(), GateSettings())) as reader:
        found = families(metrics_text(reader.view()))
    names = {name.removeprefix("journeyman_") for name in found}
    assert names == explained("Every metric of a coordinator")


def test_every_metric_of_a_helper_is_explained() -> None:
    known = Known("00112233aabbccdd", 1, 0, "", 0)
    lines = metric_lines(Figures(), known, {"waiting": 0}, [("other base", "", 1)])
    names = {name.removeprefix("journeyman_helper_") for name in families("\n".join(lines))}
    assert names == explained("Every metric of a helper")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"journeyman_agent_[a-z_]+", DOCUMENT))))
def test_an_alarm_asks_for_a_metric_that_exists(name: str) -> None:
    known = explained("Every metric of an agent") | {""}
    assert name.removeprefix("journeyman_agent_") in known

"""Offer, gate, trial, verdict: what the agent asks of the bridge, and never asks again."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from agent.devices import DeviceReport, DeviceTable, problems
from agent.devices.agreement import Agreement, Compared
from agent.devices.course import Course
from agent.devices.kept import Kept, KeptFile
from agent.devices.making import Beside
from agent.health.metrics import status_lines
from agent.sensors.firmware import FirmwareSettings
from agent.sensors.firmware.settings import FirmwareChannel
from agent.status import Status
from wire.bridge import Confirm, Deployment, Judgment, Offer, Rollback, Scores, ToBridge

TABLE = DeviceTable(
    socket="bridge.sock", device="board", stream="motion", least_rows=4, window_rows=8
)
CONTENT = bytes(range(32))
KEPT = Kept(
    key=b"k" * 32,
    bundle=b"b" * 32,
    version=7,
    model=b"tflite file here",
    vectors=1,
    rows=bytes(4),
    outputs=bytes(4),
)


@dataclass
class Told:
    """A course with its files; another one in the same folder is another process."""

    folder: Path
    difference: float | None = 0.0

    def __post_init__(self) -> None:
        self.report = DeviceReport(name="board")
        self.last = KeptFile(self.folder, TABLE.socket, TABLE.device)
        self.good = KeptFile(self.folder, TABLE.socket, TABLE.device, "good")
        self.course = Course(TABLE, self.report, self.last, self.good, self.beside)

    def beside(self, _: Scores) -> Beside | None:
        return None if self.difference is None else Beside(self.difference, 0.25, 0.26)

    def passed(self, reason: str = "") -> None:
        sha256 = bytes(32) if reason else CONTENT
        judgment = Judgment("board", KEPT.key, reason, sha256, "both", 100, 50, 0.01, 0.1)
        assert self.course.take(judgment) == []

    def comes_to(self, stage: str, reason: str = "") -> list[ToBridge]:
        return self.course.take(Deployment("board", CONTENT, stage, 1, 1, reason))  # type: ignore[arg-type]

    def says(self, count: int, *, bits: bool = True, clipped: bool = False) -> list[ToBridge]:
        outputs = (1.0,) if bits else (2.0,)
        said = Scores(
            "board", "motion", CONTENT[:8], 1, True, "i8", outputs,
            bytes(4), (1.0,), 0.1, 0, clipped,
        )  # fmt: skip
        return [order for _ in range(count) for order in self.course.take(said)]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    found = Told(tmp_path)
    found.course.renew(KEPT)
    assert found.course.next_offer() is not None
    found.passed()
    return found


def test_a_model_whose_scores_agree_is_confirmed_once(told: Told) -> None:
    told.comes_to("on trial")
    assert told.says(3) == []
    assert told.says(5) == [Confirm("board", CONTENT)]
    assert told.comes_to("confirmed") == []
    assert told.says(8) == []
    assert (told.report.rows, told.report.bits_equal, told.report.compared) == (8, 8, 16)
    assert not told.course.is_under_way


def test_a_device_that_lies_is_sent_back_and_its_model_never_offered_again(told: Told) -> None:
    told.comes_to("on trial")
    told.says(3)
    assert told.says(3, bits=False) == [Rollback("board", CONTENT)]
    told.comes_to("rolled back", "it does not run")
    assert told.report.reason == "taken back: 1 of 4 scores differ from the int8 reference"
    assert told.course.next_offer() is None
    assert told.course.has_seen(KEPT.key)
    again = Told(told.folder)  # another process
    assert again.report.reason == told.report.reason
    assert again.course.next_offer() is None
    assert not again.course.is_under_way


def test_a_confirmed_model_that_disagrees_later_is_left_too(told: Told) -> None:
    told.comes_to("on trial")
    told.says(4)
    told.comes_to("confirmed")
    assert told.says(1, bits=False) == [Rollback("board", CONTENT)]
    told.comes_to("failed", "leaving: refused: no other model")
    assert told.report.reason.endswith("failed: leaving: refused: no other model")


def test_after_a_rejection_the_confirmed_model_is_watched_again(told: Told) -> None:
    told.comes_to("on trial")
    told.says(4)
    told.comes_to("confirmed")
    newer = msgspec.structs.replace(KEPT, key=b"n" * 32, version=8)
    told.course.renew(newer)
    told.course.next_offer()
    told.course.take(Judgment("board", newer.key, "too large", bytes(32), "", 0, 0, 0.0, 0.0))
    assert (told.report.version, told.report.reason) == (7, "refused at the gate: too large")
    for course in (told.course, Told(told.folder).course):
        assert course.has_seen(newer.key)
        offer = course.next_offer()
        assert offer is not None
        assert offer.key == KEPT.key
    told.passed()
    told.comes_to("confirmed")
    told.says(3)
    assert told.says(1, bits=False) == [Rollback("board", CONTENT)]
    told.comes_to("failed", "leaving: refused: no other model")
    assert told.course.next_offer() is None  # there is nothing better


def test_scores_beyond_the_bound_of_float_are_a_disagreement(told: Told) -> None:
    told.difference = 0.11
    told.comes_to("on trial")
    (order,) = told.says(4)
    assert isinstance(order, Rollback)


def test_rows_beyond_what_int8_can_say_are_compared_by_bits_alone(told: Told) -> None:
    told.difference = 5.0
    told.comes_to("on trial")
    assert told.says(4, clipped=True) == [Confirm("board", CONTENT)]
    assert told.report.clipped == 4


@pytest.mark.parametrize(
    ("stage", "reason"),
    [("rolled back", "its trial ended without confirmation"), ("failed", "flash")],
)
def test_a_trial_that_is_over_or_failed_rejects_the_model(
    told: Told, stage: str, reason: str
) -> None:
    told.comes_to("on trial")
    told.says(2)
    told.comes_to(stage, reason)
    assert told.report.reason == f"{stage}: {reason}"
    assert told.course.next_offer() is None


def test_what_the_gate_refuses_is_said_and_not_offered_again(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.course.renew(KEPT)
    told.course.next_offer()
    told.passed("it needs an arena of 900 bytes; the device has 100")
    assert told.report.reason.startswith("refused at the gate: it needs an arena")
    assert told.report.rejections == 1
    assert told.course.next_offer() is None


def test_after_a_restart_during_the_trial_the_same_bytes_are_offered_and_judged_anew(
    tmp_path: Path,
) -> None:
    file = KeptFile(tmp_path, TABLE.socket, TABLE.device)
    file.keep(KEPT)
    again = Told(tmp_path)
    offer = again.course.next_offer()
    assert isinstance(offer, Offer)
    assert (offer.model, offer.key) == (KEPT.model, KEPT.key)
    assert again.course.next_offer() is None  # once for each connection
    again.passed()
    again.comes_to("on trial")
    assert again.says(4) == [Confirm("board", CONTENT)]
    again.course.forget_bridge()  # the bridge begins anew
    assert again.course.next_offer() == offer
    assert again.says(4) == []  # nobody said yet what its content is


def test_what_others_do_with_the_device_is_not_ours(told: Told) -> None:
    told.comes_to("on trial")
    other = bytes(32)
    assert told.course.take(Deployment("board", other, "failed", 1, 1, "no")) == []
    assert told.course.take(Deployment("pump", CONTENT, "failed", 1, 1, "no")) == []
    assert told.report.stage == "on trial"
    told.course.take(Scores("board", "motion", b"otherone", 1, True, "i8", (1.0,)))
    assert told.report.other == 1


def test_a_damaged_file_is_dropped(tmp_path: Path) -> None:
    file = KeptFile(tmp_path, "bridge.sock", "board")
    file.keep(KEPT)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    assert file.load() is None


def test_agreement_forgets_what_is_older_than_its_window() -> None:
    agreement = Agreement(least_rows=2, window_rows=4, bits_share=1.0, bound=1.0)
    wrong = Compared(bits_equal=False, difference=None)
    near, lost = Compared(bits_equal=True, difference=0.5), Compared(True, float("nan"))
    seen: list[str] = []
    for each in (wrong, near, near, near, near, lost, near, near, near, near):
        agreement.take(each)
        seen.append(agreement.verdict)
    # What is not a number is over every bound.
    assert seen == ["open", *["disagrees"] * 3, "agrees", *["disagrees"] * 4, "agrees"]


def test_a_device_needs_the_source_of_its_stream() -> None:
    source = FirmwareSettings(
        socket="bridge.sock", device="board", stream="motion", channel=(FirmwareChannel(name="a"),)
    )
    assert not list(problems([TABLE], [source]))
    other = msgspec.structs.replace(TABLE, stream="slow", window_rows=2)
    assert [key for key, _ in problems([TABLE, other], [source])] == [
        "device[1].device",
        "device[1].window_rows",
        "device[1].stream",
    ]


def test_metrics_say_how_far_apart_scores_are_and_no_score() -> None:
    report = DeviceReport(
        name="board",
        stage="confirmed",
        compared=30,
        rows=8,
        bits_equal=7,
        largest=0.05,
        bound=0.1,
        score=0.4321,
        rejections=2,
    )
    status = Status(agent="a", site="s", federation="f", pid=1, devices=[report])
    text = "\n".join(status_lines(status, "journeyman 1"))
    for line in (
        'journeyman_agent_device_confirmed{device="board"} 1',
        'journeyman_agent_device_compared_scores_total{device="board"} 30',
        'journeyman_agent_device_differing_scores{device="board"} 1',
        'journeyman_agent_device_difference_ratio{device="board"} 0.5',
        'journeyman_agent_device_rejections_total{device="board"} 2',
    ):
        assert line in text
    assert "0.4321" not in text

"""The parts of `journeyman demo --mcu`; `benchmarks/mcu_demo.py` runs it whole."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.config import read_agent_settings
from agent.devices import DeviceReport
from firmware_bridge.settings import read_bridge_settings
from shopfloor import emulated_board, main
from shopfloor.emulated_board import DEVICE
from shopfloor.mcu.plant import AGENTS, BOARD_AGENT, lay_out, write_bridge
from shopfloor.mcu.report import verdict, write_report
from shopfloor.mcu.run import McuRecord, Moment, line_of
from shopfloor.mcu.signals import machine_samples

GOOD = DeviceReport(
    name="board", version=9, stage="confirmed", compared=60, rows=60, bits_equal=60,
    largest=0.02, mean=0.01, bound=0.1, score=0.5, gateway_score=0.51, judges="both",
)  # fmt: skip


def record_of(**changes: object) -> McuRecord:
    early = Moment(10.0, 9, msgspec.structs.replace(GOOD, compared=15, rows=15, bits_equal=15))
    return McuRecord(40, [early, Moment(60.0, 12, msgspec.structs.replace(GOOD, **changes))])


def test_a_run_is_shown_when_a_trained_version_agreed_for_long_enough() -> None:
    assert record_of().is_shown
    assert record_of().problem == ""
    assert "60 of 60 scores are bit-exact" in verdict(record_of())
    assert not record_of(compared=54).is_shown
    assert not McuRecord(40).is_shown


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"version": 0}, "no trained version was confirmed"),
        ({"stage": "on trial"}, "no trained version was confirmed"),
        ({"bits_equal": 59}, "1 scores differ from int8"),
        ({"rejections": 1, "reason": "taken back: why"}, "taken back: why"),
        ({"compared": 39}, "only 39 scores were compared"),
        ({"largest": 0.2}, "float differs by 0.2, more than the bound"),
    ],
)
def test_a_run_that_did_not_show_it_says_why(changes: dict[str, object], problem: str) -> None:
    record = record_of(**changes)
    assert problem in record.problem
    assert verdict(record) == f"NOT SHOWN: {record.problem}"


def test_the_report_has_both_scores_and_no_markup_of_others(tmp_path: Path) -> None:
    record = record_of()
    record.log = ["board: <script>"]
    write_report(record, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("<polyline") == 2
    assert "<script>" not in text
    assert line_of(record.moments[-1]).endswith("score 0.5000 on the board, 0.5100 here")


def test_every_file_of_a_run_is_one_that_its_program_takes(tmp_path: Path) -> None:
    plant = lay_out(tmp_path / "run", 0)
    write_bridge(plant, "/dev/pts/7")
    (line,) = read_bridge_settings(plant.bridge).line
    fields = [channel.name for channel in line.device[0].stream[0].channel]
    for agent in AGENTS:
        settings = read_agent_settings(plant.agent(agent))
        assert [channel.name for channel in settings.channels] == fields
        assert bool(settings.device) == (agent == BOARD_AGENT)


def test_without_an_emulator_the_demo_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emulated_board, "missing_tools", lambda _: ["qemu-system-arm"])
    assert main.main(["demo", "--mcu", "--out", str(tmp_path)]) == 1
    assert "apt install qemu-system-arm" in capsys.readouterr().err


def test_the_other_sites_machine_moves_as_the_boards_does(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: run tests/install.sh .venv/bin/python as root")
    library = tmp_path / "machine.so"
    source = DEVICE / "ports" / "mps2_an385" / "machine.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    machine = ctypes.CDLL(str(library))
    values = (ctypes.c_int16 * 3)()
    board = np.empty((8192, 3))
    for number in range(len(board)):
        machine.machine_sample(number, values)
        board[number] = list(values)
    other = machine_samples(8192, 1)
    np.testing.assert_allclose(other.std(axis=0), (board / 1024).std(axis=0), rtol=0.05)
    np.testing.assert_allclose(
        np.abs(other).max(axis=0), np.abs(board / 1024).max(axis=0), atol=0.2
    )

"""The run: three gateways learn, and the served model runs on a Cortex-M3 beside the first.

    board (QEMU) ─pty─ journeyman-bridge ─ gateway-1 ─┐
                 recorded signals ──────── gateway-2 ─┼─ broker ─ coordinator
                 recorded signals ──────── gateway-3 ─┘

It ends by itself: when a version that was trained here is confirmed on the board and enough of its
scores were compared, or when the time is over.
"""

import asyncio
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.devices import DeviceReport
from agent.status import Status, read_status
from shopfloor.broker import broker_command
from shopfloor.emulated_board import FIRMWARE, board_command, build
from shopfloor.mcu.plant import AGENTS, BOARD_AGENT, McuPlant, write_bridge
from shopfloor.processes import Child, ChildError, Processes, python, until

_READY_S: Final = 60.0
_LOOK_S: Final = 1.0
_TELL_S: Final = 5.0
TRAINED: Final = 5
"""The first version that counts as trained here: version 0 has random weights."""
_PTY: Final = re.compile(r"/dev/pts/\d+")


@dataclass(frozen=True)
class Moment:
    """What was seen at one time of the run."""

    t_s: float
    serve_version: int | None
    device: DeviceReport


@dataclass
class McuRecord:
    """What the run was.

    Attributes:
      moments: the board's, once a second.
      wanted: scores of a confirmed, trained model that have to be compared.
      log: of the agent with the board, about its device.
    """

    wanted: int
    moments: list[Moment] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def last(self) -> DeviceReport | None:
        """The board at the end."""
        return self.moments[-1].device if self.moments else None

    @property
    def problem(self) -> str:
        """Why the run did not show what it is for; empty where it did."""
        last = self.last
        is_trained = last is not None and (last.version or 0) >= TRAINED
        if last is None or not is_trained or last.stage != "confirmed":
            state = "no word of the board" if last is None else last.state
            return f"no trained version was confirmed on the board: {state}"
        if last.bits_equal < last.rows or last.rejections:
            return last.reason or f"{last.rows - last.bits_equal} scores differ from int8"
        if last.compared < self.wanted:
            return f"only {last.compared} scores were compared"
        if last.largest > last.bound:
            return f"float differs by {last.largest:.4g}, more than the bound of {last.bound:.4g}"
        return ""

    @property
    def is_shown(self) -> bool:
        """Whether a trained version runs, confirmed, with enough compared scores since."""
        last = self.last
        if last is None or last.stage != "confirmed" or (last.version or 0) < TRAINED:
            return False
        version = [each.device for each in self.moments if each.device.version == last.version]
        since = [device for device in version if device.stage == "confirmed"]
        return last.compared - since[0].compared >= self.wanted


def line_of(moment: Moment) -> str:
    """A moment in one line for people."""
    device = moment.device
    served = "nothing served" if moment.serve_version is None else f"serves v{moment.serve_version}"
    text = f"{moment.t_s:4.0f} s  {served}"
    if device.version is None or not device.stage:
        return f"{text}  board: {device.state}"
    text += f"  board: v{device.version} {device.stage}"
    if not device.rows:
        return text
    text += f", {device.bits_equal} of {device.rows} scores bit-exact with int8"
    text += f", float within {device.largest:.4f} (bound {device.bound:.4f})"
    if device.score is not None and device.gateway_score is not None:
        text += f"; score {device.score:.4f} on the board, {device.gateway_score:.4f} here"
    return text


@dataclass
class McuDemo:
    """One run."""

    plant: McuPlant
    processes: Processes
    record: McuRecord
    tell: Callable[[str], None]

    async def start(self, firmware: Path) -> None:
        """Start everything, the board first.

        Args:
          firmware: the ELF file.

        Raises:
          ChildError: something did not get ready.
        """
        plant, start = self.plant, self.processes.start
        command = broker_command(plant.directory, plant.broker_port, "auto")
        start("broker", command)
        board = start("board", board_command(firmware, "pty", memory=plant.memory))
        await until(lambda: bool(_line(board)), "the board's line", _READY_S)
        write_bridge(plant, _line(board))
        start("bridge", python("firmware_bridge.main", "run", plant.bridge))
        socket = plant.directory / "bridge.sock"
        await until(socket.exists, "the bridge answers", _READY_S)
        coordinator = python("coordinator.main", "run", plant.coordinator)
        start("coordinator", coordinator, restarts=True)
        for agent in AGENTS:
            start(agent, python("agent.main", "run", plant.agent(agent)), restarts=True)
        self.tell("the board runs, and three gateways learn")

    async def watch(self, longest_s: float) -> None:
        """Look until it is shown, or the time is over."""
        began_s, told_s, stage = time.monotonic(), -_TELL_S, ""
        while (t_s := time.monotonic() - began_s) < longest_s and not self.record.is_shown:
            status = self._status()
            if status is not None and status.devices:
                moment = Moment(t_s, status.serve_version, status.devices[0])
                self.record.moments.append(moment)
                if t_s - told_s >= _TELL_S or moment.device.stage != stage:
                    told_s, stage = t_s, moment.device.stage
                    self.tell(line_of(moment))
                if moment.device.rejections:
                    return
            await asyncio.sleep(_LOOK_S)

    def _status(self) -> Status | None:
        return read_status(self.plant.directory / BOARD_AGENT)


def _line(board: Child) -> str:
    found = _PTY.search(board.last_words())
    return found.group() if found else ""


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def run_mcu_demo(
    plant: McuPlant,
    longest_s: float = 170.0,
    wanted: int = 40,
    tell: Callable[[str], None] = _say,
) -> McuRecord:
    """Run it.

    Args:
      plant: laid out.
      longest_s: from the start of the gateways.
      wanted: scores to compare after the confirmation.
      tell: takes lines for people.

    Raises:
      ChildError: a program ended or did not get ready; all others are stopped.
      BoardError: the firmware can not be built, or a tool is missing.
    """
    tell("building the firmware for the Cortex-M3 (mps2-an385)")
    firmware = await asyncio.to_thread(build, FIRMWARE)
    processes = Processes(plant.directory)
    demo = McuDemo(plant, processes, McuRecord(wanted), tell)
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(processes.watch(), name="watch processes")
            await demo.start(firmware)
            await demo.watch(longest_s)
            watching.cancel()
    except* ChildError as group:
        raise group.exceptions[0] from None
    finally:
        processes.stop()
    log = (plant.directory / f"{BOARD_AGENT}.log").read_text(errors="replace")
    demo.record.log = [line for line in log.splitlines() if "board: " in line]
    return demo.record

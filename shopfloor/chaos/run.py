"""One run of the chaos suite: start, strike until enough happened, heal, drain, stop, reckon."""

import asyncio
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from asyncua import Client, ua

from agent.status import read_status
from coordinator.app import set_training
from shopfloor.chaos.accounts import last_version
from shopfloor.chaos.groundwork import lay_out
from shopfloor.chaos.judge import judge
from shopfloor.chaos.layout import Layout
from shopfloor.chaos.report import FAULT_LOG, Outcome
from shopfloor.chaos.schedule import AGENTS, COORDINATOR, HELPERS, kinds_of, schedule
from shopfloor.chaos.stage import Stage
from shopfloor.chaos.strikes import Strikes
from shopfloor.ledger import Ledger
from shopfloor.machine import NAMESPACE_URI
from shopfloor.ports import answers_at
from shopfloor.processes import until
from wire.errors import SettingsError
from wire.messages import TERMINAL

DRAIN_LIMIT_S: Final = 240.0
_READY_S: Final = 60.0
_LOOK_S: Final = 0.5
_PLAIN_LINE_S: Final = 30.0


@dataclass(frozen=True)
class Options:
    """What a person may choose.

    Attributes:
      faults: how many have to happen.
      kinds: which may; None: all there are.
      secure: empty: plain updates.  Else masked ones and three helpers, the last of which is
        `restored` from an old copy in the midst, or `down` throughout.
    """

    faults: int
    seed: int
    out: Path
    kinds: tuple[str, ...] | None = None
    secure: Literal["", "restored", "down"] = ""

    @property
    def helpers(self) -> tuple[str, ...]:
        """Helpers that run."""
        return {"": (), "restored": HELPERS, "down": HELPERS[:-1]}[self.secure]


class Progress:
    """One line that changes at a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._last_s = -_PLAIN_LINE_S

    def tell(self, line: str) -> None:
        """Say how it goes."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[2K{line[:width]}", end="", flush=True)
        elif time.monotonic() - self._last_s >= _PLAIN_LINE_S:
            self._last_s = time.monotonic()
            print(line, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._live:
            print()


async def run_chaos(options: Options) -> Outcome:
    """Do a run and say what came of it.

    Raises:
      ChildError: the programs did not get ready.
      sqlite3.DatabaseError: a program left a file that can not be read.
      OSError: the directory can not be written, or mosquitto is not installed.
    """
    began_s = time.monotonic()
    layout = lay_out(options.out, options.seed, is_secure=bool(options.secure))
    progress = Progress()
    async with Stage(layout, options.seed) as stage:
        await _start(stage, options.helpers)
        strikes = Strikes(stage)
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(stage.keep_running(), name="keep running")
                struck_s = await _strike(options, stage, strikes, progress)
                strikes.heal()
                open_at_end = await _drain(stage, progress)
                keeping.cancel()
        finally:
            progress.end()
            strikes.heal()
    return Outcome(
        wanted=options.faults,
        seed=options.seed,
        directory=layout.directory,
        tallies=strikes.tallies,
        verdict=judge(layout),
        starts={name: each.starts for name, each in stage.programs.items()},
        fell={name: tuple(each.fell) for name, each in stage.programs.items()},
        struck_s=struck_s,
        wall_s=time.monotonic() - began_s,
        open_at_end=open_at_end,
        secure=options.secure,
    )


async def _start(stage: Stage, helpers: Sequence[str]) -> None:
    layout = stage.layout
    stage.start_broker_and_machine()
    await until(lambda: answers_at(layout.broker_port), "the broker answers", _READY_S)
    await until(lambda: "ready" in _said(stage, "machine"), "the machine is ready", _READY_S)
    stage.start_programs(helpers)
    await until(lambda: "ready" in _said(stage, "observer"), "the observer is ready", _READY_S)
    await until(
        lambda: all(_status(layout, agent)[0] == "subscribed" for agent in AGENTS),
        "the agents are subscribed to the machine",
        _READY_S,
    )
    await until(
        lambda: all("connected as" in _said(stage, name) for name in helpers),
        "the helpers are connected",
        _READY_S,
    )
    await _start_production(layout.machine_url)


async def _strike(options: Options, stage: Stage, strikes: Strikes, progress: Progress) -> float:
    """Let faults happen until there were enough; return the seconds up to the last one."""
    began_s = time.monotonic()
    late_s = 0.0
    with (stage.layout.directory / FAULT_LOG).open("w", buffering=1) as log:
        rules = kinds_of(options.helpers)
        for fault in schedule(options.seed, options.kinds or tuple(rules), rules):
            while (wait_s := began_s + late_s + fault.at_s - time.monotonic()) > 0:
                await asyncio.sleep(min(wait_s, _LOOK_S))
                progress.tell(_line(stage, strikes, options, began_s))
            for each in (*strikes.put_off(), fault):
                target = strikes.strike(each)
                last_s = time.monotonic() - began_s
                if target or each is fault:
                    log.write(f"{last_s:9.3f} {each.kind:<16} {target or '-':<12} {each}\n")
            if strikes.happened >= options.faults:
                await strikes.finish()
                late_s = time.monotonic() - began_s - fault.at_s
                if strikes.happened >= options.faults:
                    return last_s
    raise RuntimeError("the schedule has no end")


def _line(stage: Stage, strikes: Strikes, options: Options, began_s: float) -> str:
    counts: Counter[str] = Counter()
    produced = 0
    for agent in AGENTS:
        _, made, outcomes, _ = _status(stage.layout, agent)
        produced += made
        counts.update(outcomes)
    told = ", ".join(f"{counts[name]} {name}" for name in ("folded", "refused", "dropped"))
    return (
        f"[chaos] {strikes.happened} of {options.faults} faults in "
        f"{time.monotonic() - began_s:.0f} s; {produced} updates in outboxes, {told}, "
        f"{produced - sum(counts[name] for name in TERMINAL)} open"
    )


async def _drain(stage: Stage, progress: Progress) -> str:
    """Close training and wait until every outbox is empty; return what did not happen in time."""
    deadline_s = time.monotonic() + DRAIN_LIMIT_S
    set_training(stage.layout.config(COORDINATOR), "closed")
    ledger = Ledger(stage.layout.witness)
    while reason := _unsettled(stage, ledger):
        left_s = deadline_s - time.monotonic()
        if left_s < 0:
            return reason
        progress.tell(f"[chaos] draining, at most {left_s:.0f} s more; {reason}")
        await asyncio.sleep(_LOOK_S)
    return ""


def _unsettled(stage: Stage, ledger: Ledger) -> str:
    """What is still open, empty when nothing is and the observer has seen the last head."""
    layout = stage.layout
    for agent in AGENTS:
        if not stage.programs[agent].is_running:
            return f"{agent} is being started again"
        if _status(layout, agent)[3] != "training is closed":
            return f"{agent} has not heard that training is closed"
        if number := _open(layout, agent):
            return f"{agent} has {number} updates without outcome"
    ledger.read_new()
    if ledger.head is None or ledger.head.train[0] != last_version(layout.store):
        return "the observer has not seen the last version's head"
    return ""


def _open(layout: Layout, agent: str) -> int:
    """Updates of an agent that have no outcome yet."""
    _, produced, outcomes, _ = _status(layout, agent)
    return produced - sum(outcomes.get(name, 0) for name in TERMINAL)


def _status(layout: Layout, agent: str) -> tuple[str, int, dict[str, int], str]:
    """Source, updates produced, outcomes and what learning does, as the agent last wrote it."""
    try:
        status = read_status(layout.state(agent))
    except SettingsError:
        status = None
    if status is None:
        return "", 0, {}, ""
    return status.source, status.produced, status.outcomes, status.learning


def _said(stage: Stage, name: str) -> str:
    return stage.log(name).read_text(errors="replace")


async def _start_production(url: str) -> None:
    """Call the machine's method StartProduction, as an operator would."""
    async with Client(url) as client:
        index = await client.get_namespace_index(NAMESPACE_URI)
        machine = client.get_node(f"ns={index};s=Machine")
        await machine.call_method(ua.QualifiedName("StartProduction", index))

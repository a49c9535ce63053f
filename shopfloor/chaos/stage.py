"""The running plant: processes, links, disks and clocks that can be made to fail.

    machine ─OPC UA─ gateway-1 .. 4 ─link 1 .. 4─┐
                                                 ├─ broker ─ observer
                         coordinator ─── link 5 ─┤
                    notary, union, insurer ─ 6 .. 8 (secure mode)

Programs, broker, machine and observer are processes of their own; the links run here, because the
tape is in them and because they tell when a program is connected again.  `strikes.py` does the
harm.
"""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from shopfloor.chaos.conversation import Conversation, Disturbance
from shopfloor.chaos.layout import FEDERATION, ROWS_PER_S, Layout, broker_command
from shopfloor.chaos.programs import Program, program
from shopfloor.chaos.schedule import AGENTS, BROKER, COORDINATOR
from shopfloor.chaos.tape import Tape
from shopfloor.faults.shim import Control, build, environment
from shopfloor.links import FlakyLink, Link
from shopfloor.processes import python


class Stage:
    """Everything that runs; use as an async context manager, it ends all at the end.

    Attributes:
      programs: by name; also the machine and the observer, which no fault touches.
      links: by the name of the program that connects through it.
      disturbances: what the links do to messages.
      controls: clock and disk of agents and coordinator.
      on_connected: told the name of a program that the broker let in.
    """

    def __init__(self, layout: Layout, seed: int) -> None:
        self.layout = layout
        self.tape = Tape(layout.tape, FEDERATION)
        self.programs: dict[str, Program] = {}
        self.disturbances = {name: Disturbance() for name in layout.link_ports}
        self.controls: dict[str, Control] = {}
        self.on_connected: Callable[[str], None] = lambda _name: None
        self._rng = random.Random(f"links:{seed}")
        self.links = {name: self._link(name) for name in layout.link_ports}

    async def __aenter__(self) -> Self:
        for link in self.links.values():
            await link.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in reversed(self.programs.values()):
            each.stop()
        for link in self.links.values():
            await link.__aexit__()
        for control in self.controls.values():
            control.close()
        self.tape.close()

    def _link(self, name: str) -> FlakyLink:
        def carrier() -> Conversation:
            return Conversation(
                self.disturbances[name],
                self._rng,
                self.tape.saw,
                lambda: self.on_connected(name),
                limit_bytes=self.layout.packet_bytes,
            )

        link = Link(name, self.layout.link_ports[name], self.layout.broker_port)
        return FlakyLink(link, carrier=carrier)

    def log(self, name: str) -> Path:
        """What a program printed."""
        return self.layout.directory / f"{name}.log"

    def start_broker_and_machine(self) -> None:
        """Start what everything else connects to."""
        layout = self.layout
        self._add(BROKER, broker_command(layout))
        self._add(
            "machine",
            python(
                "shopfloor.machine",
                *("--table", layout.directory / "machine.csv", "--port", layout.machine_port),
                *("--rows-per-s", ROWS_PER_S, "--parent-pid", os.getpid()),
            ),
        )

    def start_programs(self, helpers: Sequence[str]) -> None:
        """Start observer, coordinator, agents and these helpers."""
        layout = self.layout
        self._add(
            "observer",
            python(
                "shopfloor.observer",
                *("--port", layout.broker_port, "--federation", FEDERATION),
                *("--out", layout.witness, "--parent-pid", os.getpid()),
            ),
        )
        shim = build(layout.directory / "shim")
        modules = dict.fromkeys(helpers, "coordinator.helper.main")
        modules |= {COORDINATOR: "coordinator.main", **dict.fromkeys(AGENTS, "agent.main")}
        for name, module in modules.items():
            control = self.controls[name] = Control.create(layout.directory / f"{name}.faults")
            command = python(module, "run", layout.config(name))
            self._add(name, command, environment(shim, control, layout.state(name)))

    def _add(self, name: str, command: list[str], added: dict[str, str] | None = None) -> None:
        started = program(name, command, self.layout.directory, added)
        started.start()
        self.programs[name] = started

    async def keep_running(self) -> None:
        """Start again whatever ends, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for each in self.programs.values():
                tasks.create_task(each.keep(), name=f"keep {each.name}")

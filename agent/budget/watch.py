"""Holds training to the gateway's budget: looks every few seconds, and interrupts what goes on.

Responsible for the training child alone.  A child that is interrupted gives a checkpoint, from
which its training goes on; who asked for the training waits for the budget and asks again.  When
memory is short the child ends, because its memory is what helps.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent.budget.budget import Budget
from agent.budget.machine import read_machine
from agent.budget.readings import Readings
from agent.learning.limits import priority_of

logger = logging.getLogger(__name__)

_LOOK_S = 2.0
_GRACE_S = 10.0
"""On a processor that others want, an idle child takes seconds to end its step."""


class Interruptible(Protocol):
    """What trains."""

    @property
    def pid(self) -> int | None:
        """Id of the task that trains; None while there is none."""

    def interrupt(self, grace_s: float) -> None:
        """End the training that goes on, if any, with a checkpoint."""

    async def close(self) -> None:
        """Give its memory back; the next request begins anew."""


@dataclass
class BudgetWatch:
    """The agent's task that looks.

    Attributes:
      budget: decides.
      process: what trains.
      read: reads the machine, given the id of what trains.
      look_s: between two looks.
    """

    budget: Budget
    process: Interruptible
    read: Callable[[int | None], Readings] = read_machine
    look_s: float = _LOOK_S
    _priority: str = ""
    _seen: int | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(self.look_s)

    async def _look(self) -> None:
        task, was = self.process.pid, self.budget.reason
        # In a thread, because sensors may take their time, and scores do not wait.
        self.budget.look(await asyncio.to_thread(self.read, task))
        reason = self.budget.reason
        if bool(reason) != bool(was):
            logger.info("training is withheld: %s", reason) if reason else logger.info(
                "training may go on; it was withheld: %s", was
            )
        if reason:
            self.process.interrupt(_GRACE_S)
            if self.budget.kind == "free memory" and self.process.pid is not None:
                await self.process.close()
        self._say_priority(task)

    def _say_priority(self, task: int | None) -> None:
        """Log once what priority training got; a child of the last look has lowered its own."""
        if task is not None and task == self._seen:
            priority = priority_of(task)
            if priority and priority != self._priority:
                self._priority = priority
                logger.info("training runs with priority %s", priority)
        self._seen = task

"""What each fault does to the running plant, and whether it really happened.

Invariant: what is counted did happen.  A kill found a running process, a cut found a link that was
up, a disk refused at least one operation, at least one message came twice.  What turned out to
have done nothing is taken back from the count.
"""

import asyncio
import errno
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from shopfloor.chaos.accounts import bury, read_outbox
from shopfloor.chaos.helpers import OldCopy
from shopfloor.chaos.schedule import BROKER, HELPERS, Fault
from shopfloor.chaos.stage import Stage

_ERRORS: Final = {"disk-full": errno.ENOSPC, "disk-read-only": errno.EROFS}
_SHARE: Final = 0.5
"""Share of the messages that a disturbed link repeats or lets others overtake."""
_OLD_S: Final = 5.0
"""Age of a copy of a disk that is worth restoring."""
_TOLD_S: Final = 5.0
"""A broker that runs so long has been told how often each helper promised."""


@dataclass
class Tally:
    """What became of the faults of one kind.

    Attributes:
      happened: how many did.
      missed: how many found no target, or did nothing.
      recovered_s: for each after which its target worked again: seconds from the fault to then.
    """

    happened: int = 0
    missed: int = 0
    recovered_s: list[float] = field(default_factory=list)


@dataclass
class _Harm:
    """A fault whose target does not work again yet."""

    fault: Fault
    target: str
    struck_s: float
    is_over: bool


class Strikes:
    """Does faults to a stage and undoes them."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.tallies: dict[str, Tally] = {}
        self._open: list[_Harm] = []
        self._undoing: dict[asyncio.Task[None], Callable[[], None]] = {}
        self._copied_s: dict[str, float] = {}
        self._busy: set[tuple[str, str]] = set()
        self._put_off: list[Fault] = []
        self._old_copy = OldCopy(stage.layout, stage.log(HELPERS[-1]))
        self._broker_struck_s = time.monotonic()
        stage.on_connected = self._connected
        self._ways: dict[str, Callable[[_Harm], bool]] = {
            "kill-agent": self._kill_agent,
            "kill-coordinator": self._kill,
            "kill-broker": self._kill_broker,
            "wipe-broker": self._kill_broker,
            "cut": self._cut,
            "blackhole": self._cut,
            "slow": self._slow_down,
            "repeat": self._disturb,
            "reorder": self._disturb,
            "clock": self._jump,
            "disk-full": self._fail_disk,
            "disk-read-only": self._fail_disk,
            "restore-card": self._restore_card,
            "wipe-card": self._wipe_card,
            "kill-helper": self._kill,
            "restore-helper": self._restore_helper,
        }

    @property
    def happened(self) -> int:
        """How many faults happened so far."""
        return sum(tally.happened for tally in self.tallies.values())

    def strike(self, fault: Fault) -> str | None:
        """Let a fault happen to the first of its targets that it can happen to; return which."""
        tally = self.tallies.setdefault(fault.kind, Tally())
        for target in fault.targets:
            harm = _Harm(fault, target, time.monotonic(), is_over=False)
            if self._ways[fault.kind](harm):
                tally.happened += 1
                return target
        tally.missed += 1
        if fault.kind == "restore-helper" and not self._old_copy.is_used:
            self._put_off = [fault]  # until there is something to restore from
        return None

    def put_off(self) -> list[Fault]:
        """What could not happen when it came, and is to be tried again."""
        if HELPERS[-1] in self._stage.programs:
            self._old_copy.take()
        found, self._put_off = self._put_off, []
        return found

    async def finish(self) -> None:
        """Wait until every fault that lasts is over."""
        while self._undoing:
            await asyncio.wait(set(self._undoing))

    def heal(self) -> None:
        """Undo everything now: links up, disks writable, clocks right."""
        for task, undo in list(self._undoing.items()):
            task.cancel()
            undo()
        self._undoing.clear()
        for control in self._stage.controls.values():
            control.jump(0.0)

    # Processes and disks of killed processes

    def _kill(self, harm: _Harm, meanwhile: Callable[[], None] | None = None) -> bool:
        if not self._stage.programs[harm.target].kill(harm.fault.lasts_s, meanwhile):
            return False
        harm.is_over = True
        self._open.append(harm)
        return True

    def _kill_agent(self, harm: _Harm) -> bool:
        return self._kill(harm, lambda: self._copy_card(harm.target))

    def _kill_broker(self, harm: _Harm) -> bool:
        is_wiped = harm.fault.kind == "wipe-broker"
        if is_wiped and self._old_copy.is_unnoticed:
            return False
        if not self._kill(harm, (lambda: self._empty(harm.target)) if is_wiped else None):
            return False
        self._broker_struck_s = time.monotonic()
        return True

    def _restore_helper(self, harm: _Harm) -> bool:
        """Once, and while the broker can tell that the copy is old (`wire/SECURE.md`)."""
        is_told = time.monotonic() - self._broker_struck_s > _TOLD_S
        if not is_told or self._stage.links[harm.target].is_down or not self._old_copy.is_ripe:
            return False
        self._old_copy.is_used = self._kill(harm, self._old_copy.restore)
        return self._old_copy.is_used

    def _wipe_card(self, harm: _Harm) -> bool:
        def wipe() -> None:
            self._bury(harm.target)
            self._empty(harm.target)

        return self._kill(harm, wipe)

    def _restore_card(self, harm: _Harm) -> bool:
        agent, now_s = harm.target, time.monotonic()
        if now_s - self._copied_s.get(agent, now_s) < _OLD_S:
            return False

        def restore() -> None:
            self._bury(agent)
            self._empty(agent)
            layout = self._stage.layout
            shutil.copytree(layout.copy(agent), layout.state(agent), dirs_exist_ok=True)
            del self._copied_s[agent]

        return self._kill(harm, restore)

    def _copy_card(self, agent: str) -> None:
        """Keep a copy of a stopped agent's disk, unless there is one that may still get old."""
        if agent in self._copied_s:
            return
        layout = self._stage.layout
        shutil.rmtree(layout.copy(agent), ignore_errors=True)
        shutil.copytree(layout.state(agent), layout.copy(agent))
        self._copied_s[agent] = time.monotonic()

    def _bury(self, agent: str) -> None:
        layout = self._stage.layout
        bury(read_outbox(agent, layout.outbox(agent)), layout.buried)

    def _empty(self, name: str) -> None:
        directory = self._stage.layout.state(name)
        shutil.rmtree(directory)
        directory.mkdir()

    # Links

    def _cut(self, harm: _Harm) -> bool:
        link = self._stage.links[harm.target]
        if link.is_down or not self._stage.programs[harm.target].is_running:
            return False
        link.cut("reset" if harm.fault.kind == "cut" else "blackhole")
        self._open.append(harm)

        def undo() -> None:
            link.restore()
            harm.is_over = True

        self._undo_later(harm, undo)
        return True

    def _slow_down(self, harm: _Harm) -> bool:
        link = self._stage.links[harm.target]
        if link.is_down or not self._begin("slow", harm):
            return False
        link.throttle(harm.fault.amount, harm.fault.delay_s)
        before = link.up_bytes + link.down_bytes

        def undo() -> None:
            link.throttle(0.0, 0.0)
            self._end("slow", harm, did_something=link.up_bytes + link.down_bytes > before)

        self._undo_later(harm, undo)
        return True

    def _disturb(self, harm: _Harm) -> bool:
        kind = harm.fault.kind
        disturbance = self._stage.disturbances[harm.target]
        if self._stage.links[harm.target].is_down or not self._begin(kind, harm):
            return False
        disturbance.share[kind] = _SHARE
        before = disturbance.done[kind]

        def undo() -> None:
            disturbance.share[kind] = 0.0
            self._end(kind, harm, did_something=disturbance.done[kind] > before)

        self._undo_later(harm, undo)
        return True

    # Clocks and disks

    def _jump(self, harm: _Harm) -> bool:
        if not self._stage.programs[harm.target].is_running:
            return False
        self._stage.controls[harm.target].jump(harm.fault.amount)
        self._recovered(harm)
        return True

    def _fail_disk(self, harm: _Harm) -> bool:
        control = self._stage.controls[harm.target]
        if not self._stage.programs[harm.target].is_running or not self._begin("disk", harm):
            return False
        before = control.failed
        control.fail(_ERRORS[harm.fault.kind])

        def undo() -> None:
            control.heal()
            self._end("disk", harm, did_something=control.failed > before)

        self._undo_later(harm, undo)
        return True

    # What is going on

    def _begin(self, what: str, harm: _Harm) -> bool:
        """Note that something of a target is disturbed; False when it already is."""
        if (what, harm.target) in self._busy:
            return False
        self._busy.add((what, harm.target))
        return True

    def _end(self, what: str, harm: _Harm, *, did_something: bool) -> None:
        self._busy.discard((what, harm.target))
        tally = self.tallies[harm.fault.kind]
        if did_something:
            self._recovered(harm)
        else:
            tally.happened -= 1
            tally.missed += 1

    def _undo_later(self, harm: _Harm, undo: Callable[[], None]) -> None:
        async def later() -> None:
            await asyncio.sleep(harm.fault.lasts_s)
            self._undoing.pop(task, None)
            undo()

        task = asyncio.create_task(later(), name=f"undo {harm.fault.kind} of {harm.target}")
        self._undoing[task] = undo

    def _connected(self, name: str) -> None:
        """The broker let a program in: what had cut it off is over."""
        for harm in list(self._open):
            if harm.is_over and harm.target in (name, BROKER):
                self._open.remove(harm)
                self._recovered(harm)

    def _recovered(self, harm: _Harm) -> None:
        seconds = time.monotonic() - harm.struck_s
        self.tallies[harm.fault.kind].recovered_s.append(seconds)

"""The coordinator's orders to this agent: taken once, where the site allows them, and answered.

    command ─► allowed? new? ─► pause, resume, train: done at once
                           └──► configure: on trial ─► healthy in time? ─► done
                                                                  └──────► undone: as before

What was ordered last and what became of it is durable (`orders.json`), so that an order is done
once, however often it is sent, and a paused agent stays paused through restarts.  A process that
ends during a trial, killed by its watchdog or by hand, ends the trial too.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agent.config import OrderKind
from agent.remote import RemoteTables, Which
from wire.errors import SettingsError, one_line
from wire.files import read_small, replace_file
from wire.messages import Command, OrderName, Outcome

logger = logging.getLogger(__name__)

FILE_NAME = "orders.json"
_MAX_BYTES = 4096
_LOOK_S = 0.5
_SETTLE_S = 10.0
"""Healthy for so long without a break counts as healthy."""
_LONGEST_REASON = 500


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """`orders.json`."""

    outcome: Outcome | None = None
    is_paused: bool = False


@dataclass
class Operator:
    """What orders changed, for those who train.

    Attributes:
      paused: no training begins.
      hurry: set when the next training is not to wait; whoever begins one clears it.
    """

    paused: bool = False
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


class Orders:
    """Owner of `orders.json`, and of what is on trial.

    Args:
      state: the agent's state directory, locked by this process.
      remote: the settings that orders changed.
      allow: of `[remote]`; may be set at any time.
      operator: told of what was ordered.

    Attributes:
      outcome: of the last order, to be told to the coordinator.
      changed: set whenever `outcome` is another.
    """

    def __init__(
        self, state: Path, remote: RemoteTables, allow: tuple[OrderKind, ...], operator: Operator
    ) -> None:
        self.allow = allow
        self.changed = asyncio.Event()
        self._path, self._remote, self._operator = state / FILE_NAME, remote, operator
        self._waiting: asyncio.Queue[Command] = asyncio.Queue(1)
        self._kept = _read(self._path)
        operator.paused = self._kept.is_paused
        self._settle_what_was_cut_short()

    @property
    def outcome(self) -> Outcome | None:
        """What became of the last order; None before the first."""
        return self._kept.outcome

    @property
    def said(self) -> str:
        """The same for people; empty before the first."""
        outcome = self.outcome
        if outcome is None:
            return ""
        return f"{outcome.number}, {outcome.status}{': ' if outcome.reason else ''}{outcome.reason}"

    def take(self, command: Command) -> None:
        """Take a verified order; an order that was taken before is only answered again."""
        outcome = self.outcome
        if outcome is not None and 0 < command.number <= outcome.number:
            self.changed.set()
            return
        kind: OrderKind = "pause" if command.name == "resume" else command.name
        if kind not in self.allow:
            reason = f'this site does not take "{kind}": [remote] allow'
            self._note(Outcome(number=command.number, status="refused", reason=reason))
        elif command.name == "configure":
            self._configure_soon(command)
        else:
            self._do(command.name)
            self._note(Outcome(number=command.number))
        logger.info("told to %s: order %s", command.name, self.said)

    async def run(self, apply: Callable[[Which], str], unhealthy: Callable[[], str]) -> None:
        """Configure as ordered, until cancelled.

        Args:
          apply: makes the agent run by the file and these remote tables; returns in words what
            changed.

            Raises SettingsError: they do not go together.
          unhealthy: why the agent is not healthy now; empty when it is.
        """
        while True:
            command = await self._waiting.get()
            try:
                self._note(Outcome(number=command.number, status="trial", reason="begins"))
                self._remote.begin(command.number, command.tables)
                said = apply("on trial")
            except SettingsError as error:
                self._remote.end()
                # Of the file, whose path is nobody else's business, only the key that was ordered.
                said = f"{error.key}: {error.reason}" if error.key else error.reason
                self._note(Outcome(number=command.number, status="refused", reason=_cut(said)))
                logger.warning("order %s refused: %s", command.number, error)
                continue
            self._note(Outcome(number=command.number, status="trial", reason=_cut(said)))
            wrong = await _wait_for_health(unhealthy, command.deadline_s)
            if wrong:
                # What is wrong names sources and machines: that stays in the gateway's log.
                logger.error("not healthy within %d s: %s", command.deadline_s, wrong)
                seconds = command.deadline_s
                self._end_trial(f"not healthy within {seconds} s; its log says why")
                apply("in force")
            else:
                self._remote.keep()
                self._note(Outcome(number=command.number, reason=_cut(said)))
                logger.info("order %s", self.said)

    def _settle_what_was_cut_short(self) -> None:
        """Decide a trial that the last process did not: it is over, unless it was kept already."""
        outcome = self.outcome
        if outcome is None or outcome.status != "trial":
            self._remote.end()
        elif self._remote.order == outcome.number:
            self._note(msgspec.structs.replace(outcome, status="done"))
        else:
            self._end_trial("the agent ended while it was on trial")

    def _do(self, name: OrderName) -> None:
        if name == "train":
            self._operator.hurry.set()
        else:
            self._operator.paused = self._kept.is_paused = name == "pause"

    def _configure_soon(self, command: Command) -> None:
        if self._waiting.full() or (self.outcome is not None and self.outcome.status == "trial"):
            reason = "other settings are on trial; order it again afterwards"
            self._note(Outcome(number=command.number, status="refused", reason=reason))
            return
        self._waiting.put_nowait(command)

    def _end_trial(self, reason: str) -> None:
        self._remote.end()
        number = self.outcome.number if self.outcome is not None else 0
        self._note(Outcome(number=number, status="undone", reason=_cut(reason)))
        logger.error("order %s; configured as before", self.said)

    def _note(self, outcome: Outcome) -> None:
        self._kept.outcome = outcome
        try:
            replace_file(self._path, msgspec.json.encode(self._kept))
        except SettingsError as error:  # a full disk: the order holds until the next start
            logger.warning("an order is not remembered: %s", error)
        self.changed.set()


async def _wait_for_health(unhealthy: Callable[[], str], deadline_s: float) -> str:
    """Wait until the agent was healthy for some seconds; return why it was not."""
    clock = asyncio.get_running_loop()
    ends_s, well_s, settle_s = clock.time() + deadline_s, None, min(_SETTLE_S, deadline_s / 2)
    while True:
        await asyncio.sleep(_LOOK_S)
        wrong, now_s = unhealthy(), clock.time()
        well_s = None if wrong else well_s if well_s is not None else now_s
        if well_s is not None and now_s - well_s >= settle_s:
            return ""
        if now_s >= ends_s:
            return wrong or "it was not so for long enough"


def _read(path: Path) -> _Kept:
    """What was kept; nothing of a file that is damaged."""
    if not path.exists():
        return _Kept()
    try:
        return msgspec.json.decode(read_small(path, _MAX_BYTES, "orders"), type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError, SettingsError) as error:
        logger.warning("%s is set aside: %s", path, error)
        path.replace(path.with_suffix(".damaged"))
        return _Kept()


def _cut(text: object) -> str:
    return one_line(str(text))[:_LONGEST_REASON]

"""Modbus as a source: polls the units of one line, for ever.

Every poll of every channel yields a sample, changed or not: Good with the gateway's time at which
the answer came, or Bad with the reason as its StatusCode, also while a unit is quarantined or the
line is down.  Polls that had to be left out for want of time are a Gap with their number.

Only function codes 1 to 4 are ever sent: nothing is written to a device.
"""

import asyncio
import random
from collections.abc import Sequence

from agent.sensors.modbus.line import Answer, Data, Line, Lost, Refused, Silent
from agent.sensors.modbus.reads import Read, halves
from agent.sensors.modbus.registers import BIT_TABLES, REGISTER_BYTES, value_of
from agent.sensors.modbus.schedule import Ask, Pass, Patience, Schedule, Wait
from agent.sensors.modbus.settings import ModbusSettings, meaning_of, plan, unit_of
from agent.sensors.modbus.statuses import (
    BAD_NO_COMMUNICATION,
    NOBODY_THERE,
    TOO_MUCH_AT_ONCE,
    refusal,
)
from agent.sensors.source import Blocks, SourceContext, SourceReport
from agent.sensors.steady_clock import SteadyClock
from agent.signals.block import EMPTY, Block, Gap, block_of
from wire.reconnecting import Reconnecting

_ALIVE_S = 1.0
"""At least this often a block comes, an empty one if need be."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.2, 5.0
_FEWEST_SILENCES = 2
"""Before a line on which no unit answers is opened anew: a TCP connection may be half open, a USB
adapter stuck.  All attempts of all units, if that is more; twice as many each time that it was in
vain, up to four times."""
_VAIN_FACTOR = 4
_LATE = "poll interval"
_LATE_WEIGHT = 0.02
_TOO_LATE, _PUNCTUAL = 0.2, 0.05
"""Shares of late polls, over about the last fifty, at which the line is called too slow, and at
which it no longer is."""


async def modbus_blocks(
    settings: ModbusSettings, context: SourceContext, report: SourceReport
) -> Blocks:
    """Blocks of one line until cancelled; see `Source` for what is promised.

    Args:
      settings: without `problems`.
      context: the agent's; Modbus keeps no files.
      report: what people see: problems are named by unit, by channel or by line.
    """
    del context
    polling = _Polling(settings, report)
    try:
        await polling.begin()
        while True:
            block = await polling.step()
            if block is not None:
                yield block
    finally:
        await polling.end()


class _Polling:
    """The line, its schedule, and what is known about each channel."""

    def __init__(self, settings: ModbusSettings, report: SourceReport) -> None:
        self._settings, self._report = settings, report
        self._clock = SteadyClock()
        self._line = Line(settings, self._clock)
        self._reads = plan(settings)
        self._units = {read.unit_id: unit_of(settings, read.unit_id) for read in self._reads}
        self._timeout_s = {
            unit_id: unit.timeout_s or settings.timeout_s for unit_id, unit in self._units.items()
        }
        rng = random.Random()  # noqa: S311 (spreads waits, keeps no secret)
        patience = {
            unit_id: Patience(
                settings.retries if unit.retries is None else unit.retries, self._timeout_s[unit_id]
            )
            for unit_id, unit in self._units.items()
        }
        self._schedule: Schedule[Read] = Schedule(patience, settings.quarantine_s, rng)
        self._attempts = max(_FEWEST_SILENCES, sum(1 + each.retries for each in patience.values()))
        self._reconnecting = Reconnecting(_FIRST_RETRY_S, _LONGEST_RETRY_S, rng)
        self._meanings = [meaning_of(channel) for channel in settings.channel]
        self._last_us = [0] * len(settings.channel)
        self._opening: asyncio.Task[str] | None = None
        self._open_at_s = self._opened_s = self._yielded_s = 0.0
        self._was_open = False
        self._silences, self._deaf_after = 0, self._attempts
        self._late = 0.0

    async def begin(self) -> None:
        """Try to open the line, so that the first samples are not Bad for want of a moment."""
        now = self._now_s()
        self._yielded_s = self._opened_s = now
        self._start_opening()
        await self._pause(now + _FIRST_RETRY_S)
        now = self._now_s()
        for read in self._reads:
            self._schedule.add(read, read.unit_id, read.interval_s, now)

    async def end(self) -> None:
        """Close the line."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait((self._opening,))
        self._line.close()

    async def step(self) -> Block | None:
        """One turn: a request, a due poll that can not be asked, or some waiting."""
        self._look_after_line()
        now = self._now_s()
        turn = self._schedule.next(now, is_open=self._was_open)
        if isinstance(turn, Wait):
            await self._pause(min(turn.until_s, self._yielded_s + _ALIVE_S))
            return EMPTY if self._is_time_to_yield() else None
        if isinstance(turn, Pass):
            block: Block | None = self._bad(turn.job, turn.missed, BAD_NO_COMMUNICATION)
        else:
            block = await self._ask(turn)
        if block is not None:
            self._yielded_s = self._now_s()
        elif self._is_time_to_yield():
            block = EMPTY
        return block

    async def _ask(self, ask: Ask[Read]) -> Block | None:
        read = ask.job
        self._report.count("requests")
        answer: Answer = await self._line.ask(read, self._timeout_s[read.unit_id])
        now = self._now_s()
        match answer:
            case Data():
                return self._good(read, self._answered(ask, now), answer)
            case Refused(code) if code not in NOBODY_THERE:
                return self._refused(read, self._answered(ask, now), code, now)
            case Refused() | Silent():
                return self._silent(ask, answer, now)
            case Lost():
                self._line.close()
                self._look_after_line()
                over = self._schedule.lost(ask, now)
                return self._bad(read, over.missed, BAD_NO_COMMUNICATION)

    def _answered(self, ask: Ask[Read], now: float) -> int:
        missed = self._schedule.answered(ask, now)
        if not self._silences:  # else it was a unit that does not answer that made this one late
            self._note_lateness(missed)
        self._silences, self._deaf_after = 0, self._attempts
        self._report.state = "reading"
        self._report.problems.pop(self._name_of(ask.job), None)
        return missed

    def _silent(self, ask: Ask[Read], answer: Refused | Silent, now: float) -> Block | None:
        read = ask.job
        over = self._schedule.silent(ask, now)
        self._silences += 1
        self._report.count("silences")
        reason = f"no answer within {self._timeout_s[read.unit_id]} s"
        if isinstance(answer, Refused):
            reason = refusal(answer.code)[1]
        elif answer.is_noisy:
            self._report.count("bad_frames")
            reason = "damaged or foreign answers: check baud rate, parity, wiring and unit ids"
        if self._schedule.is_deaf and self._silences >= self._deaf_after:
            self._silences = 0
            self._deaf_after = min(2 * self._deaf_after, _VAIN_FACTOR * self._attempts)
            self._line.close()
        if over is None:
            return None
        if self._schedule.is_deaf:
            self._report.state = "no device answers"
        most = self._settings.quarantine_s
        self._report.problems[self._name_of(read)] = (
            f"{reason}; quarantined, tried again at least every {most:g} s"
        )
        return self._bad(read, over.missed, BAD_NO_COMMUNICATION)

    def _refused(self, read: Read, missed: int, code: int, now: float) -> Block | None:
        """An exception: cut the read if that may help, else its channels are Bad."""
        self._report.count("exceptions")
        parts = halves(read) if code in TOO_MUCH_AT_ONCE else None
        if parts is None:
            status, reason = refusal(code)
            for span in read.spans:
                channel = self._settings.channel[span.channel].name
                self._report.problems[channel] = f"{self._name_of(read)}, {read}: {reason}"
            return self._bad(read, missed, status)
        self._schedule.remove(read)
        for part in parts:
            self._schedule.add(part, part.unit_id, part.interval_s, now - missed * part.interval_s)
        return None

    def _good(self, read: Read, missed: int, data: Data) -> Block:
        width = 1 if read.table in BIT_TABLES else REGISTER_BYTES
        values: list[float] = []
        statuses: list[int] = []
        for span in read.spans:
            start = (span.address - read.address) * width
            raw = data.raw[start : start + span.count * width]
            value, status = value_of(raw, self._meanings[span.channel])
            values.append(value)
            statuses.append(status)
            self._report.problems.pop(self._settings.channel[span.channel].name, None)
        return self._block(read, missed, values, statuses, data.stamp_us)

    def _bad(self, read: Read, missed: int, status: int) -> Block:
        count = len(read.spans)
        return self._block(read, missed, [0.0] * count, [status] * count, self._clock.now_us())

    def _block(
        self,
        read: Read,
        missed: int,
        values: Sequence[float],
        statuses: Sequence[int],
        stamp_us: int,
    ) -> Block:
        channels = [span.channel for span in read.spans]
        gaps: tuple[Gap, ...] = ()
        if missed:
            self._report.count("missed_polls", missed)
            gaps = tuple(
                Gap(channel, self._last_us[channel], stamp_us, "polled too late", missed)
                for channel in channels
                if self._last_us[channel]
            )
            self._report.count("gaps", len(gaps))
        for channel in channels:
            self._last_us[channel] = stamp_us
        return block_of(channels, values, statuses, [stamp_us] * len(channels), gaps=gaps)

    def _look_after_line(self) -> None:
        """Notice a line that was lost; open it again, in waits that grow, for ever."""
        now = self._now_s()
        if self._opening is not None:
            if not self._opening.done():
                return
            reason = self._opening.result()
            self._opening = None
            if reason:
                self._report.state = f"can not open {self._settings.where}: {reason}"
                self._open_at_s = now + self._reconnecting.wait_s(0.0)
                return
            self._was_open, self._opened_s = True, now
            self._report.state = "connected, no answer yet"
            self._schedule.reopened(now)
        if self._line.is_open:
            return
        if self._was_open:
            self._was_open = False
            self._report.count("reconnects")
            self._report.state = f"lost {self._settings.where}, opening it again"
            self._open_at_s = now + self._reconnecting.wait_s(now - self._opened_s)
        if now >= self._open_at_s:
            self._start_opening()

    def _start_opening(self) -> None:
        # In a task, because an unreachable host takes seconds and Bad samples come meanwhile.
        self._opening = asyncio.create_task(self._line.open(), name="modbus open")

    async def _pause(self, until_s: float) -> None:
        """Wait, but no longer than until the line has something to say."""
        now = self._now_s()
        if self._opening is not None:
            await asyncio.wait((self._opening,), timeout=max(0.0, until_s - now))
            return
        if not self._was_open:
            until_s = min(until_s, self._open_at_s)
        await asyncio.sleep(max(0.0, until_s - now))

    def _is_time_to_yield(self) -> bool:
        now = self._now_s()
        if now < self._yielded_s + _ALIVE_S:
            return False
        self._yielded_s = now
        return True

    def _note_lateness(self, missed: int) -> None:
        self._late += _LATE_WEIGHT * ((missed > 0) - self._late)
        if self._late > _TOO_LATE:
            self._report.problems[_LATE] = (
                f"{self._settings.where} can not keep it, {self._late:.0%} of the polls come late: "
                "raise poll_interval_ms, or read fewer registers"
            )
        elif self._late < _PUNCTUAL:
            self._report.problems.pop(_LATE, None)

    def _name_of(self, read: Read) -> str:
        return self._units[read.unit_id].name

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

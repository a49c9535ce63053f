"""Checks items that are silent, so that none is dead without being noticed.

Two questions, again and again: does the server still know the item, and did its node's value change
while the item said nothing?  Values are compared, not timestamps, because some servers stamp a Read
with its own time.  An item with a deadband may be silent although its value changes.
"""

import asyncio
from contextlib import suppress

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from agent.sensors.opcua.items import vanished_items
from agent.sensors.opcua.publishing import Publishing
from agent.sensors.opcua.resolving import Limits, read_values
from agent.sensors.opcua.roster import Roster
from agent.sensors.opcua.session import FastSession
from agent.sensors.opcua.settings import OpcUaSettings
from agent.sensors.opcua.timeline import Timeline
from agent.sensors.opcua.values import Values

_Seen = dict[int, tuple[object, int]]
"""Value and status of nodes when they were last read, by channel."""


class Audit:
    """Audits the items of one source.

    Args:
      settings: of the source.
      timeline: says which channels are silent.
      values: says which give what they should not.
      publishing: has the subscriptions.
      roster: has dead items made again.
    """

    def __init__(
        self,
        settings: OpcUaSettings,
        timeline: Timeline,
        values: Values,
        publishing: Publishing,
        roster: Roster,
    ) -> None:
        self._settings, self._timeline, self._values = settings, timeline, values
        self._publishing, self._roster = publishing, roster
        self._mismatched: set[int] = set()

    async def run(self, session: FastSession, limits: Limits) -> None:
        """Audit for ever."""
        seen: _Seen = {}
        heard_us = self._timeline.last_us.copy()
        while True:
            await asyncio.sleep(self._settings.audit_s)
            silent = self._timeline.last_us == heard_us
            heard_us = self._timeline.last_us.copy()
            self._report_mismatches(silent)
            await self._find_vanished(session, silent, limits)
            seen = await self._find_dead(session, silent, seen, limits)

    def _report_mismatches(self, silent: NDArray[np.bool_]) -> None:
        """Report channels whose values are not as configured, until they are."""
        found = self._values.mismatches.copy()
        self._values.mismatches.clear()
        for channel, problem in found.items():
            self._roster.remark(channel, problem)
        mended = {each for each in self._mismatched - found.keys() if not silent[each]}
        for channel in mended - self._roster.missing.keys():
            self._roster.remark(channel, "")
        self._mismatched = (self._mismatched | found.keys()) - mended

    async def _find_vanished(
        self, session: FastSession, silent: NDArray[np.bool_], limits: Limits
    ) -> None:
        for subscription in list(self._publishing.subscriptions.values()):
            quiet = {c: item for c, item in subscription.item_ids.items() if silent[c]}
            with suppress(ua.UaStatusCodeError):  # refused as a whole: publishing notices why
                vanished = await vanished_items(
                    session, subscription.id, quiet, limits.monitored_items
                )
                for channel, status in vanished.items():
                    self._roster.lose([channel], f"the server dropped the item ({status})")

    async def _find_dead(
        self, session: FastSession, silent: NDArray[np.bool_], before: _Seen, limits: Limits
    ) -> _Seen:
        """Find items whose node changed unnoticed; return what the silent nodes say now."""
        channels = [
            channel
            for channel in np.flatnonzero(silent).tolist()
            if channel in self._roster.node_ids
            and channel not in self._roster.missing
            and not self._settings.channel[channel].deadband
        ]
        nodes = [self._roster.node_ids[channel] for channel in channels]
        last_us = self._timeline.last_us.copy()
        try:
            values = await read_values(session, nodes, limits.reads)
        except ua.UaStatusCodeError:
            return {}
        now: _Seen = {}
        for channel, value in zip(channels, values, strict=True):
            status = 0 if value.StatusCode is None else int(value.StatusCode.value)
            now[channel] = (None if value.Value is None else value.Value.Value, status)
            is_still_silent = self._timeline.last_us[channel] == last_us[channel]
            if channel in before and before[channel] != now[channel] and is_still_silent:
                self._roster.lose([channel], "the value changed, and the item did not say so")
                del now[channel]
        return now

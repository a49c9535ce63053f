"""The agent's way: its OPC UA source, then rows.  `python -m benchmarks.ingest.ours PLAN`.

Prints JSON: what came, and the CPU time of this process from the first block to the last.
"""

import asyncio
import contextlib
import json
import logging
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from agent.sensors.opcua import OpcUaChannel, OpcUaSettings, opcua_blocks
from agent.sensors.opcua.security import SecuritySettings
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import Block
from agent.signals.cutting import Cutting, RowCutter
from agent.signals.rows import Rows
from benchmarks.ingest.plan import NAMESPACE, SPREAD, SPREAD_BITS, Plan, plan_from


@dataclass
class Tally:
    """What came.

    Attributes:
      values: how many.
      total: their sum, exact.
      misplaced: values that were not their item's, or came twice.
      gaps: that the source marked.
      rows: cut from them.
      row_total: sum of all values in rows.
      measured: values after the first message.
      cpu_s: of this process for them.
      rss_mb: most memory at a time.
    """

    values: int = 0
    total: int = 0
    misplaced: int = 0
    gaps: int = 0
    rows: int = 0
    row_total: int = 0
    measured: int = 0
    cpu_s: float = 0.0
    rss_mb: float = 0.0


class _Checking:
    """Checks each value as it comes; this is part of what is measured."""

    def __init__(self, plan: Plan) -> None:
        self._has_come = np.zeros((plan.cycles, plan.items), np.bool_)
        self.tally = Tally()

    def take(self, block: Block, rows: Rows) -> None:
        """Count a block and the rows that it completed."""
        tally = self.tally
        code = block.value.astype(np.int64)
        cycle = code >> SPREAD_BITS
        is_wrong = (code & (SPREAD - 1) != block.channel) | self._has_come[cycle, block.channel]
        self._has_come[cycle, block.channel] = True
        tally.misplaced += int(np.count_nonzero(is_wrong))
        tally.values += len(block)
        tally.total += int(code.sum())
        tally.gaps += len(block.gaps)
        tally.rows += len(rows)
        tally.row_total += int(rows.values.sum())


def settings_of(plan: Plan) -> OpcUaSettings:
    """How the agent is configured for a plan."""
    return OpcUaSettings(
        endpoint=plan.endpoint,
        namespace_uri=NAMESPACE,
        publishing_interval_ms=1000.0 / plan.messages_hz,
        history=False,
        silence_s=60.0,
        audit_s=3600.0,
        security=SecuritySettings(policy="Basic256Sha256", mode="SignAndEncrypt", trust="any"),
        channel=tuple(OpcUaChannel(name=f"t{at}", node=f"s=T{at}") for at in range(plan.items)),
    )


def context_of(plan: Plan) -> SourceContext:
    """Where the agent has its files."""
    return SourceContext(Path(plan.directory), Path(plan.directory) / "agent", "ingest")


def use_one_core() -> None:
    """Keep this process on the first of its cores."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def peak_rss_mb() -> float:
    """Most memory that this process had at a time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


async def receive(plan: Plan) -> Tally:
    """Take all values of a plan."""
    report = SourceReport("ingest")
    checking, begin_s = _Checking(plan), 0.0
    tally = checking.tally
    cutter = RowCutter(Cutting(channels=plan.items, period_us=plan.period_us))
    blocks = opcua_blocks(settings_of(plan), context_of(plan), report)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(plan.patience_s):
            async for block in blocks:
                checking.take(block, cutter.push(block, time.monotonic()))
                if tally.values and not begin_s:  # the first message is done
                    begin_s, tally.measured = time.process_time(), -tally.values
                if tally.values >= plan.values:
                    break
    tally.cpu_s = time.process_time() - begin_s
    tally.measured += tally.values
    tally.rss_mb = peak_rss_mb()
    if tally.values < plan.values:
        print(f"given up: {report}", file=sys.stderr)
    await blocks.aclose()
    return tally


if __name__ == "__main__":
    use_one_core()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    print(json.dumps(asdict(asyncio.run(receive(plan_from(sys.argv[1]))))), flush=True)

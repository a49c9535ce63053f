"""The agent's source and rows on a live server: `python -m benchmarks.ingest.peer PLAN`.

The server's values count 1, 2, 3, ..., so what is missing of an item is where its values skip.
Runs until the plan's number of values came, and prints JSON like `ours`.
"""

import asyncio
import contextlib
import json
import logging
import sys
import time
from dataclasses import asdict

import numpy as np

from agent.sensors.opcua import opcua_blocks
from agent.sensors.source import SourceReport
from agent.signals.cutting import Cutting, RowCutter
from benchmarks.ingest.ours import Tally, context_of, peak_rss_mb, settings_of, use_one_core
from benchmarks.ingest.plan import Plan, plan_from


async def receive(plan: Plan) -> Tally:
    """Take as many values as the plan has."""
    tally, begin_s = Tally(), 0.0
    last = np.full(plan.items, np.nan)
    cutter = RowCutter(Cutting(channels=plan.items, period_us=plan.period_us))
    blocks = opcua_blocks(settings_of(plan), context_of(plan), SourceReport("ingest"))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(plan.patience_s):
            async for block in blocks:
                rows = cutter.push(block, time.monotonic())
                for_each = np.bincount(block.channel, minlength=plan.items)
                expected = last + for_each
                last[block.channel] = block.value  # the last of each stays
                skipped = np.nan_to_num(last - expected)
                tally.misplaced += int(np.abs(skipped).sum())
                tally.values += len(block)
                tally.rows += len(rows)
                if tally.values > plan.items and not begin_s:  # all have their first value
                    begin_s, tally.measured = time.process_time(), -tally.values
                if tally.values >= plan.values:
                    break
    tally.cpu_s = time.process_time() - begin_s
    tally.measured += tally.values
    tally.rss_mb = peak_rss_mb()
    await blocks.aclose()
    return tally


if __name__ == "__main__":
    use_one_core()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    print(json.dumps(asdict(asyncio.run(receive(plan_from(sys.argv[1]))))), flush=True)

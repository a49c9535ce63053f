"""The OPC UA source: blocks of one server, for ever.

Every sample has the server's source timestamp and StatusCode.  The source never writes to the
server.  Invariant: it raises for nothing that a server or a network does; that is in the report,
and in the gaps of its blocks.
"""

import asyncio
from typing import Final

from agent.sensors.opcua.link import GOODBYE_S
from agent.sensors.opcua.pending import Pending
from agent.sensors.opcua.settings import OpcUaSettings
from agent.sensors.opcua.supervisor import Supervisor
from agent.sensors.source import Blocks, SourceContext, SourceReport

_END_S: Final = GOODBYE_S / 4


async def opcua_blocks(
    settings: OpcUaSettings, context: SourceContext, report: SourceReport
) -> Blocks:
    """Yield blocks until closed or cancelled; the first, empty one says `subscribed`."""
    pending = Pending(len(settings.channel), settings.max_pending_samples, report)
    supervisor = Supervisor(settings, context, report, pending)
    running = asyncio.create_task(supervisor.run(), name=report.name)
    running.add_done_callback(lambda _: pending.close())
    try:
        while True:
            try:
                block = await pending.get()
            except EOFError:
                await running  # raises what ended it
                return
            yield block
    finally:
        await _end(running)


async def _end(running: "asyncio.Task[None]") -> None:
    """Cancel until it ends: before Python 3.12, connecting can swallow one (cpython #86296)."""
    while not running.done():
        running.cancel()
        await asyncio.wait([running], timeout=GOODBYE_S + _END_S)

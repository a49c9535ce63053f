"""The OPC UA source against asyncua's server, which forgets sessions together with connections."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC
from pathlib import Path

from asyncua import ua
from asyncua.server.server import Server

from shopfloor.ports import free_port
from tests.agent.opcua_plant import (
    PLANT_URI,
    Plant,
    Wire,
    collecting,
    plant_settings,
    until,
    until_more,
)

HZ = 50


@asynccontextmanager
async def counting(port: int, *names: str, since_s: float) -> AsyncIterator[None]:
    """An asyncua server whose variables count from `since_s`; Kept has a history."""
    server = Server()
    await server.init()
    server.set_endpoint(Plant.endpoint_at(port))
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace(PLANT_URI)
    line = await server.nodes.objects.add_object(_node_id("Line1", index), "Line1")
    nodes = [await line.add_variable(_node_id(name, index), name, 0.0) for name in names]
    first = int((time.time() - since_s) * HZ)

    async def write(tick: int) -> None:
        at = ua.DateTime.fromtimestamp(since_s + tick / HZ, UTC)
        for node in nodes:
            await node.write_value(ua.DataValue(ua.Variant(float(tick)), None, at, at))

    async def count() -> None:
        tick = first
        while True:
            while tick < int((time.time() - since_s) * HZ):
                tick += 1
                await write(tick)
            await asyncio.sleep(0.5 / HZ)

    await write(first)  # what a client sees that comes before the counter starts

    async with server:
        if "Kept" in names:
            await server.historize_node_data_change(nodes[names.index("Kept")])
        counter = asyncio.create_task(count())
        try:
            yield
        finally:
            counter.cancel()
            with suppress(asyncio.CancelledError):
                await counter


def _node_id(name: str, index: int) -> ua.NodeId:
    return ua.NodeId.from_string(f"ns={index};s={name}")


def test_after_a_cut_history_is_read_and_the_rest_is_marked(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            counting(port, "Count", "Kept", since_s=time.time()),
            Wire(port).up() as wire,
            collecting(
                plant_settings(Plant.endpoint_at(wire.port), "Count", "Kept"), tmp_path
            ) as taken,
        ):
            await until_more(taken, "Count", "Kept", number=20)
            wire.cut()
            await until(lambda: taken.report.state.startswith("lost"), taken)
            await asyncio.sleep(1.0)
            wire.mend()
            await until_more(taken, "Count", "Kept", number=20)
        assert not taken.missing("Kept")
        assert not taken.repeated("Kept")
        assert not taken.gaps("Kept")
        spans = {(gap.from_us, gap.until_us) for gap in taken.gaps("Count")}
        times = dict(zip(taken.values("Count"), taken.times_us("Count"), strict=True))
        assert {(times[a], times[b]) for a, b in taken.missing("Count")} <= spans

    asyncio.run(scenario())


def test_a_tag_that_is_missing_after_a_restart_flows_when_it_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, since_s = free_port(), time.time()
        settings = plant_settings(Plant.endpoint_at(port), "Count", "Late")
        async with collecting(settings, tmp_path) as taken:
            async with counting(port, "Count", "Late", since_s=since_s):
                await until_more(taken, "Count", "Late")
            await until(lambda: taken.report.state.startswith("lost"), taken)
            async with counting(port, "Count", since_s=since_s):
                await until_more(taken, "Count")
                assert set(taken.report.problems) == {"Late"}
            async with counting(port, "Count", "Late", since_s=since_s):
                await until_more(taken, "Count", "Late")
                assert not taken.report.problems
        assert len(taken.gaps("Count")) == 2
        assert len(taken.gaps("Late")) == 1

    asyncio.run(scenario())

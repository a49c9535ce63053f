"""The agent's OPC UA server, read by a client that shares no code with it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua

from agent.serve.outputs import Outputs
from agent.serve.score import STATUS_INPUTS_UNCERTAIN, STATUS_NO_SCORE, Driver
from agent.serve.settings import OpcUaServerSettings, ScoresTable
from shopfloor.ports import free_port
from tests.agent.scores_peers import (
    PROBABILITY,
    WEAR,
    Answer,
    Program,
    node_script,
    running,
    score,
    until,
)

FIRST_US = 1_700_000_000_000_000
EVERYTHING = [
    *("Score", "Decision", "DecisionCode", "Alarm", "Confidence", "LastScored", "Scored"),
    *("Alarms", "Threshold", "Model", "Bundle", "ModelVersion", "Serving", "Health"),
]
DRIVERS = ["Drivers", "DriverShares", "DriverValues", "DriverUnits"]


def _table(port: int, **keys: Any) -> ScoresTable:
    opcua = OpcUaServerSettings(listen=f"opc.tcp://127.0.0.1:{port}")
    return ScoresTable(opcua=opcua, **keys)


@pytest.fixture(scope="module")
def plc(node_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A PLC that is not connected yet."""
    with node_script(node_program, "reader.cjs", str(tmp_path_factory.mktemp("plc"))) as program:
        yield program


@asynccontextmanager
async def served(plc: Program, folder: Path, **keys: Any) -> AsyncIterator[Outputs]:
    """Outputs whose OPC UA server the PLC is connected to."""
    port = free_port()
    async with running(_table(port, **keys), folder) as outputs:
        await until(lambda: outputs.reports[0].state.startswith("listening"))
        plc.forget_changes()
        url = f"opc.tcp://127.0.0.1:{port}"
        assert await plc.ask("connect", endpoint=url, policy="None") == {"ok": True}
        try:
            yield outputs
        finally:
            await plc.ask("disconnect")


async def _read(plc: Program, *names: str) -> dict[str, Answer]:
    answer = await plc.ask("read", nodes=[f"s={name}" for name in names])
    return dict(zip(names, answer["values"], strict=True))


def test_a_plc_sees_every_node_with_value_time_and_quality(tmp_path: Path, plc: Program) -> None:
    async def main() -> None:
        async with served(plc, tmp_path) as outputs:
            outputs.take([score(0.25, 0), score(0.75, 1)])
            outputs.take([score(41.5, 5, WEAR, decision="41.5", confidence=float("nan"))])
            await until(lambda: outputs.reports[0].sent == 3)
            await _see(plc)

    asyncio.run(main())


async def _see(plc: Program) -> None:
    assert (await plc.ask("browse", node="i=85"))["names"] == ["Server", "Journeyman"]
    assert (await plc.ask("browse", node="s=/"))["names"] == ["Health", "press", "wear"]
    assert (await plc.ask("browse", node="s=press"))["names"] == EVERYTHING + DRIVERS
    shown = await _read(plc, *(f"press/{name}" for name in EVERYTHING))
    assert {name.partition("/")[2]: each["value"] for name, each in shown.items()} == {
        "Score": 0.75,
        "Decision": "alarm",
        "DecisionCode": 1,
        "Alarm": True,
        "Confidence": 0.5,
        "LastScored": "2023-11-14T22:13:21.000Z",
        "Scored": 2,
        "Alarms": 1,
        "Threshold": 0.5,
        "Model": "press",
        "Bundle": "ab" * 32,
        "ModelVersion": 7,
        "Serving": "global",
        "Health": "ok",
    }
    assert {each["status"] for each in shown.values()} == {"Good"}
    for name in ("Score", "Decision", "Alarm", "LastScored", "Alarms"):
        assert shown[f"press/{name}"]["source_us"] == FIRST_US + 1_000_000
    units = await _read(plc, "press/Score/EURange", "wear/Score/EngineeringUnits")
    assert units["press/Score/EURange"]["value"] == {"low": 0, "high": 1}
    unit = units["wear/Score/EngineeringUnits"]["value"]
    assert unit["unitId"] == 0x4D494E  # MIN
    assert unit["displayName"]["text"] == "min"
    wear = await _read(plc, "wear/Confidence", "wear/Threshold", "wear/Score")
    assert wear["wear/Confidence"]["status"] == "BadNotSupported"
    assert wear["wear/Threshold"]["status"] == "BadNotSupported"
    assert wear["wear/Score"]["value"] == 41.5


def test_what_drove_an_alarm_stays_for_a_plc_that_looks_later(tmp_path: Path, plc: Program) -> None:
    async def main() -> None:
        names = [f"press/{name}" for name in DRIVERS]
        async with served(plc, tmp_path) as outputs:
            outputs.take([score(0.25)])
            await until(lambda: outputs.reports[0].sent == 1)
            before = await _read(plc, *names)
            assert {each["status"] for each in before.values()} == {"BadWaitingForInitialData"}
            drivers = (Driver("tool_wear", 0.75, 215.0, "min"), Driver("wave", 0.125))
            outputs.take([score(0.75, 1, drivers=drivers), score(0.25, 2)])
            await until(lambda: outputs.reports[0].sent == 3)
            after = await _read(plc, *names)
            assert [each["value"] for each in after.values()] == [
                ["tool_wear", "wave"],
                {"0": 0.75, "1": 0.125},
                {"0": 215.0, "1": None},
                ["min", ""],
            ]
            assert {each["source_us"] for each in after.values()} == {FIRST_US + 1_000_000}

    asyncio.run(main())


def test_a_subscribed_plc_gets_every_score_in_order_with_its_status(
    tmp_path: Path, plc: Program
) -> None:
    async def main() -> None:
        async with served(plc, tmp_path, stale_after_s=0.3) as outputs:
            outputs.take([score(0.0)])
            await until(lambda: outputs.reports[0].sent)
            asked = {"nodes": ["s=press/Score"], "interval_ms": 10}
            assert await plc.ask("subscribe", **asked) == {"ok": True}
            outputs.take([score(0.01 * step, step) for step in range(1, 60)])
            outputs.take([score(0.6, 60, status=STATUS_INPUTS_UNCERTAIN)])
            outputs.take([score(0.7, 61, status=STATUS_NO_SCORE)])
            await _follow(plc)
            outputs.take([score(0.8, 62)])
            seen = [(await plc.change())["change"] for _ in range(2)]
            assert [each["status"] for each in seen] == ["Good", "UncertainLastUsableValue"]
            assert [each["value"] for each in seen] == [0.8, 0.8]
            assert [each["source_us"] for each in seen] == [FIRST_US + 62_000_000] * 2

    asyncio.run(main())


async def _follow(plc: Program) -> None:
    """The stream, but for the mark of the very first score, which may have become stale."""
    changes: list[Answer] = []
    while len(changes) < 61:
        change = (await plc.change())["change"]
        if change["source_us"] != FIRST_US:
            changes.append(change)
    steps = [(each["source_us"] - FIRST_US) // 1_000_000 for each in changes]
    assert steps == list(range(1, 62))
    assert [each["value"] for each in changes[:59]] == [0.01 * step for step in range(1, 60)]
    assert {each["status"] for each in changes[:59]} == {"Good"}
    assert (changes[59]["status"], changes[59]["value"]) == ("UncertainSubNormal", 0.6)
    assert (changes[60]["status"], changes[60]["value"]) == ("Bad", None)


def test_clients_never_write_call_add_or_delete(tmp_path: Path, plc: Program) -> None:
    async def main() -> None:
        async with served(plc, tmp_path) as outputs:
            outputs.take([score(0.25)])
            await until(lambda: outputs.reports[0].sent)
            for node, kind in (("s=press/Score", "Double"), ("i=2267", "Byte")):
                answer = await plc.ask("write", node=node, type=kind, value=1)
                assert answer == {"status": "BadNotWritable"}
            assert await plc.ask("call", node="i=2253") == {"status": "BadMethodInvalid"}
            assert (await _read(plc, "press/Score"))["press/Score"]["value"] == 0.25
            await _change_the_address_space(outputs.reports[0].name.removeprefix("opcua "))

    asyncio.run(main())


async def _change_the_address_space(url: str) -> None:
    """Asyncua's own administrator is nobody here, and anonymous may not do what he could."""
    admin = Client(url)
    admin.set_user("admin")
    admin.set_password("admin")
    with pytest.raises(ua.uaerrors.BadIdentityTokenRejected):
        await admin.connect()
    async with Client(url) as client:
        node = client.get_node("ns=1;s=press/Score")
        with pytest.raises(ua.UaStatusCodeError):
            await client.nodes.objects.add_object(1, "Mine")
        with pytest.raises(ua.UaStatusCodeError):
            await client.delete_nodes([node])
        with pytest.raises(ua.uaerrors.BadNotWritable):
            await node.write_attribute(
                ua.AttributeIds.DisplayName, ua.DataValue(ua.Variant("Mine"))
            )
        assert await node.read_value() == 0.25


def test_history_comes_in_pages_forwards_and_backwards(tmp_path: Path, plc: Program) -> None:
    async def main() -> None:
        async with served(plc, tmp_path) as outputs:
            outputs.take([score(0.01 * step, step) for step in range(10)])
            await until(lambda: outputs.reports[0].sent == 10)
            first, last = FIRST_US // 1000, FIRST_US // 1000 + 9_000
            forwards = await _pages(plc, first, last)
            assert forwards == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
            assert await _pages(plc, last, first) == [[9, 8, 7, 6], [5, 4, 3, 2], [1, 0]]
            answer = await plc.ask("history", node="s=press/Decision", start=first, end=last)
            assert answer["status"] == "BadHistoryOperationUnsupported"

    asyncio.run(main())


async def _pages(plc: Program, start: int, end: int) -> list[list[int]]:
    pages = []
    more = True
    while more:
        asked = {"node": "s=press/Score", "start": start, "end": end, "most": 4}
        answer = await plc.ask("history", **asked)
        assert answer["status"] == "Good"
        pages.append([(each["source_us"] - FIRST_US) // 1_000_000 for each in answer["values"]])
        more = answer["more"]
    return pages


def test_an_address_that_is_taken_is_reported_and_does_not_end_the_agent(tmp_path: Path) -> None:
    async def main() -> None:
        async with await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0) as other:
            port = other.sockets[0].getsockname()[1]
            async with running(_table(port), tmp_path) as outputs:
                report = outputs.reports[0]
                await until(lambda: "in use" in report.state)
                outputs.take([score(0.5)])
                outputs.health("still here")

    asyncio.run(main())


def test_health_is_on_a_node_of_the_agent_and_of_every_model(tmp_path: Path) -> None:
    async def main() -> None:
        port = free_port()
        async with running(_table(port), tmp_path) as outputs:
            await until(lambda: outputs.reports[0].state.startswith("listening"))
            outputs.health("the disk is full")
            outputs.take([score(0.5, origin=PROBABILITY)])
            await until(lambda: outputs.reports[0].sent)
            async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
                for name in ("", "press"):
                    node = client.get_node(f"ns=1;s={name}/Health")
                    assert await node.read_value() == "the disk is full"

    asyncio.run(main())

"""Structures that only the server knows are read by their description, from any bytes."""

import asyncio
import selectors
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.opcua import OpcUaChannel, OpcUaSettings
from agent.sensors.opcua.structures import Structure, StructureField, decode_structure
from shopfloor.ports import free_port
from tests.agent.opcua_plant import DEADLINE_S, PLANT_URI, collecting, until

DOUBLE, INT16, TEXT = 11, 4, 12
POINT = Structure(
    (StructureField("X", DOUBLE, 0, is_optional=False), StructureField("Y", INT16, 0, True)),
)
FIELDS = {
    "Serial": 7.0,
    "Axes.1.Rms": 1.5,
    "Axes.1.Peak": 2.5,
    "Main.Rms": 3.5,
    "Mode": 1.0,
    "Loads.2": 30.0,
}


def test_optional_fields_are_there_or_not() -> None:
    x = b"\0\0\0\0\0\0\xf8\x3f"
    assert decode_structure(POINT, b"\0\0\0\0" + x) == {"X": 1.5}
    assert decode_structure(POINT, b"\1\0\0\0" + x + b"\5\0") == {"X": 1.5, "Y": 5}


def test_a_union_has_one_of_its_fields() -> None:
    fields = tuple(StructureField(name, INT16, 0, is_optional=False) for name in "AB")
    union = Structure(fields, is_union=True)
    assert decode_structure(union, b"\2\0\0\0\7\0") == {"B": 7}
    assert decode_structure(union, b"\0\0\0\0") == {}
    with pytest.raises(LookupError):
        decode_structure(union, b"\3\0\0\0\7\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_a_lookup_error(data: bytes) -> None:
    whole = Structure(
        (
            StructureField("Points", POINT, 1, is_optional=False),
            StructureField("Text", TEXT, 0, is_optional=False),
            StructureField("Matrix", INT16, 2, is_optional=False),
        )
    )
    try:
        fields = decode_structure(whole, data)
    except LookupError:
        return
    assert set(fields) == {"Points", "Text", "Matrix"}


def test_fields_of_a_servers_own_structure_are_channels(repository: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tests.agent.opcua_structure_server", str(port)]
    fields = [*FIELDS, "Main.Nothing"]
    channels = tuple(OpcUaChannel(name=f, node="s=Spindle", field=f) for f in fields)
    settings = OpcUaSettings(
        endpoint=f"opc.tcp://127.0.0.1:{port}/plant",
        namespace_uri=PLANT_URI,
        publishing_interval_ms=50.0,
        audit_s=0.5,
        channel=channels,
    )

    async def scenario() -> None:
        async with collecting(settings, tmp_path) as taken:
            await until(lambda: bool(taken.report.problems), taken)
            assert {name: taken.values(name)[:1] for name in FIELDS} == {
                name: [value] for name, value in FIELDS.items()
            }
            assert set(taken.report.problems) == {"Main.Nothing"}
            assert "without the field 'Nothing'" in taken.report.problems["Main.Nothing"]

    with subprocess.Popen(
        command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(server.stdout, selectors.EVENT_READ)
                assert selector.select(DEADLINE_S)
            assert server.stdout.readline() == b"READY\n"
            asyncio.run(scenario())
        finally:
            server.kill()

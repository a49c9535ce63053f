"""One simulated milling machine: an OPC UA server that plays a table, one row per product.

Responsible for the address space, the clock of the simulated plant, sensor faults and pacing.
Refuses to write from outside, and never exposes the failure modes, which no sensor measures.

Invariants: all variables of one product carry one source timestamp; timestamps ascend, one
simulated minute per product; `ProductCount` is written last, so a client that sees count n has
been sent all of product n; nothing is produced before `StartProduction` is called, so a client
that subscribes first misses nothing.

A missing reading is Bad (`BadSensorFailure`, no value); a reading that repeats the last one is
Uncertain (`UncertainLastUsableValue`): OPC 10000-8, table of status codes for data access.
Units follow UNECE recommendation 20 as OPC 10000-8, 5.6.3 encodes them.
"""

import argparse
import asyncio
import errno
import logging
import math
import sys
from dataclasses import dataclass
from datetime import UTC, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Final

import numpy as np
from asyncua import ua
from asyncua.common.node import Node
from asyncua.server.server import Server
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from numpy.typing import NDArray

from shopfloor.lifetime import add_parent_option, run_until_told_to_stop
from shopfloor.milling import INPUTS, Table, TableError, read_ai4i

NAMESPACE_URI: Final = "urn:journeyman:shopfloor:milling"
SIMULATED_START: Final = ua.DateTime(2020, 1, 6, 6, 0, tzinfo=UTC)
PRODUCT_INTERVAL: Final = timedelta(minutes=1)

_UNITS_NAMESPACE: Final = "http://www.opcfoundation.org/UA/units/un/cefact"
_BURST_ROWS: Final = 16
"""Rows written before the loop serves the network again: about 3 ms."""
_SHORTEST_SLEEP_S: Final = 0.02
"""Products due within it go out together: at 300 a second 0.31 ms CPU each, 0.35 at 5 ms."""


class Fault(IntEnum):
    """What is wrong with one reading."""

    NONE = 0
    MISSING = 1
    STALE = 2


@dataclass(frozen=True)
class AnalogChannel:
    """One measured variable: its node's name, its table column, unit and range."""

    name: str
    column: str
    unit_code: str
    unit_symbol: str
    unit_name: str
    low: float
    high: float


CHANNELS: Final = (
    AnalogChannel("AirTemperature", INPUTS[0], "KEL", "K", "kelvin", 280.0, 330.0),
    AnalogChannel("ProcessTemperature", INPUTS[1], "KEL", "K", "kelvin", 280.0, 340.0),
    AnalogChannel("RotationalSpeed", INPUTS[2], "RPM", "r/min", "revolutions per minute", 0, 3000),
    AnalogChannel("Torque", INPUTS[3], "NU", "N·m", "newton metre", 0.0, 100.0),
    AnalogChannel("ToolWear", INPUTS[4], "MIN", "min", "minute [unit of time]", 0.0, 300.0),
)

_DATA_TYPES: Final = {
    "ProductQuality": ua.VariantType.String,
    "MachineFailure": ua.VariantType.Boolean,
    "ProductCount": ua.VariantType.UInt32,
}
VARIABLES: Final = (*(channel.name for channel in CHANNELS), *_DATA_TYPES)
"""String NodeIds of what each product is written to, in this order."""


class FixedDataValue(ua.DataValue):
    """A DataValue that nobody changes once it is written, so that copying it is not needed.

    asyncua's server deep-copies each value for each monitored item, which takes 33 us where
    all else takes 27.  The copy guards against a caller who changes the value; we never do.
    """

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, object]) -> "FixedDataValue":
        return self


def draw_faults(rows: int, bad_share: float, seed: int) -> NDArray[np.uint8]:
    """Choose which readings go wrong: half of them missing, half stale.

    Args:
      rows: number of products.
      bad_share: expected share of readings with a fault, 0 to 1.
      seed: any integer >= 0.

    Returns:
      `Fault` values, uint8, shape (rows, channels).  The first reading of a channel is never
      stale, because there is no last one to repeat: there it is missing.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.random((rows, len(CHANNELS)))
    faults = np.full(drawn.shape, Fault.NONE, dtype=np.uint8)
    faults[drawn < bad_share] = Fault.STALE
    faults[drawn < bad_share / 2] = Fault.MISSING
    first = faults[:1]
    first[first == Fault.STALE] = Fault.MISSING
    return faults


def readings_of(table: Table, faults: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what the sensors report, float64, shape (N, channels).

    NaN where the reading is missing; where it is stale, the last reading that was not missing
    (which for a channel that has never worked is none: NaN, and reported as missing).
    """
    readings = table.inputs()
    readings[faults == Fault.MISSING] = np.nan
    for row, channel in np.argwhere(faults == Fault.STALE):
        before = faults[:row, channel] == Fault.NONE
        last = np.flatnonzero(before)
        readings[row, channel] = readings[last[-1], channel] if len(last) else np.nan
    return readings


class Machine:
    """The nodes of one machine in a server, and the writing of products to them."""

    def __init__(self, server: Server, namespace_index: int) -> None:
        self._server = server
        self._node_ids = [_node_id(name, namespace_index) for name in VARIABLES]
        self._state = _node_id("State", namespace_index)
        self._namespace_index = namespace_index
        self._start = asyncio.Event()

    async def add_nodes(self, name: str) -> None:
        """Add the object, its variables and its method to the server's address space."""
        index = self._namespace_index
        machine = await self._server.nodes.objects.add_object(
            _node_id("Machine", index), ua.QualifiedName("Machine", index)
        )
        description = ua.LocalizedText(f"Milling machine {name}")
        await machine.write_attribute(
            AttributeIds.Description, ua.DataValue(ua.Variant(description))
        )
        for channel in CHANNELS:
            await _add_analog_item(machine, index, channel)
        for variable, data_type in _DATA_TYPES.items():
            await _add_variable(machine, index, variable, data_type)
        await _add_variable(machine, index, "State", ua.VariantType.String)
        await machine.add_method(
            _node_id("StartProduction", index),
            ua.QualifiedName("StartProduction", index),
            self._start_production,
        )
        await self._write_state("idle")

    async def produce(self, table: Table, faults: NDArray[np.uint8], rows_per_s: float) -> None:
        """Wait for `StartProduction`, then write every row of `table` once, at `rows_per_s`.

        The pace is kept against the clock, not against the last row: after a pause, rows that
        are due follow each other at once, in bursts between which clients are served.
        """
        readings = readings_of(table, faults)
        await self._start.wait()
        await self._write_state("producing")
        clock = asyncio.get_running_loop().time
        start_s = clock()
        written = 0
        while written < len(table):
            due = min(int((clock() - start_s) * rows_per_s) + 1, len(table))
            burst_end = min(due, written + _BURST_ROWS)
            for row in range(written, burst_end):
                await self._write_product(table, readings, faults, row)
            written = burst_end
            if written < due:
                await asyncio.sleep(0)
            else:
                wait_s = start_s + written / rows_per_s - clock()
                await asyncio.sleep(max(wait_s, _SHORTEST_SLEEP_S))
        await self._write_state("finished")

    async def _start_production(self, _parent: ua.NodeId) -> list[ua.Variant]:
        """OPC UA method: start, if idle.  Calling again is harmless, so a client may retry."""
        self._start.set()
        return []

    async def _write_product(
        self,
        table: Table,
        readings: NDArray[np.float64],
        faults: NDArray[np.uint8],
        row: int,
    ) -> None:
        source = SIMULATED_START + row * PRODUCT_INTERVAL
        server = ua.DateTime.now(UTC)
        values: list[tuple[ua.Variant, ua.StatusCode]] = [
            _reading(value, fault)
            for value, fault in zip(readings[row].tolist(), faults[row].tolist(), strict=True)
        ]
        rest = (str(table.quality[row]), bool(table.machine_failure[row]), row + 1)
        for value, data_type in zip(rest, _DATA_TYPES.values(), strict=True):
            values.append((ua.Variant(value, data_type), _GOOD))
        for node_id, (variant, status) in zip(self._node_ids, values, strict=True):
            await self._server.write_attribute_value(
                node_id, FixedDataValue(variant, status, source, server)
            )

    async def _write_state(self, state: str) -> None:
        now = ua.DateTime.now(UTC)
        variant = ua.Variant(state, ua.VariantType.String)
        await self._server.write_attribute_value(
            self._state, FixedDataValue(variant, _GOOD, now, now)
        )


_GOOD: Final = ua.StatusCode(ua.UInt32(StatusCodes.Good))
_MISSING: Final = ua.StatusCode(ua.UInt32(StatusCodes.BadSensorFailure))
_STALE: Final = ua.StatusCode(ua.UInt32(StatusCodes.UncertainLastUsableValue))
_WAITING: Final = ua.StatusCode(ua.UInt32(StatusCodes.BadWaitingForInitialData))


def _node_id(name: str, namespace_index: int) -> ua.NodeId:
    return ua.NodeId(ua.String(name), ua.Int16(namespace_index))


def _reading(value: float, fault: int) -> tuple[ua.Variant, ua.StatusCode]:
    if math.isnan(value):
        return ua.Variant(None, ua.VariantType.Null), _MISSING
    return ua.Variant(value, ua.VariantType.Double), _STALE if fault == Fault.STALE else _GOOD


async def _add_variable(machine: Node, index: int, name: str, data_type: ua.VariantType) -> Node:
    """Add a read-only variable that has no value yet (`BadWaitingForInitialData`)."""
    initial = {ua.VariantType.String: "", ua.VariantType.Boolean: False}.get(data_type, 0)
    node = await machine.add_variable(
        _node_id(name, index), ua.QualifiedName(name, index), initial, data_type
    )
    await node.write_value(ua.DataValue(ua.Variant(None, ua.VariantType.Null), _WAITING))
    return node


async def _add_analog_item(machine: Node, index: int, channel: AnalogChannel) -> None:
    """Add a variable of AnalogItemType (OPC 10000-8, 5.3.2.3) with its unit and range."""
    node = await _add_variable(machine, index, channel.name, ua.VariantType.Double)
    await node.delete_reference(
        ObjectIds.BaseDataVariableType, ObjectIds.HasTypeDefinition, bidirectional=False
    )
    await node.add_reference(
        ObjectIds.AnalogItemType, ObjectIds.HasTypeDefinition, bidirectional=False
    )
    unit = ua.EUInformation(
        NamespaceUri=_UNITS_NAMESPACE,
        UnitId=int.from_bytes(channel.unit_code.encode("ascii"), "big"),
        DisplayName=ua.LocalizedText(channel.unit_symbol),
        Description=ua.LocalizedText(channel.unit_name),
    )
    for name, value in (
        ("EngineeringUnits", unit),
        ("EURange", ua.Range(channel.low, channel.high)),
    ):
        await node.add_property(
            _node_id(f"{channel.name}.{name}", index), ua.QualifiedName(name, 0), value
        )


async def serve(options: argparse.Namespace, table: Table) -> None:
    """Serve one machine until cancelled; the last product stays readable when all are made.

    Raises:
      OSError: if the port is taken.
    """
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{options.port}/machine")
    server.set_server_name(f"Milling machine {options.name}")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    server.allow_remote_admin(False)
    machine = Machine(server, await server.register_namespace(NAMESPACE_URI))
    await machine.add_nodes(options.name)
    faults = draw_faults(len(table), options.bad_share, options.seed)
    async with server:
        print(f"ready opc.tcp://127.0.0.1:{options.port}/machine", flush=True)
        await machine.produce(table, faults, options.rows_per_s)
        await asyncio.Event().wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shopfloor.machine", description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="CSV in the AI4I 2020 layout")
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    parser.add_argument("--rows-per-s", type=float, required=True, help="products per real second")
    parser.add_argument("--name", default="L", help="name of the machine, shown to clients")
    parser.add_argument("--seed", type=int, default=0, help="chooses the faulty readings")
    parser.add_argument("--bad-share", type=float, default=0.0, help="share of faulty readings")
    add_parent_option(parser)
    return parser


def main() -> int:
    """Run the program; returns its exit status."""
    parser = _parser()
    options = parser.parse_args()
    if not 0.0 < options.rows_per_s < float("inf"):
        parser.error(f"--rows-per-s must be positive, not {options.rows_per_s}")
    if not 0.0 <= options.bad_share <= 1.0:
        parser.error(f"--bad-share must be between 0 and 1, not {options.bad_share}")
    # asyncua's INFO lines cost 40 % more CPU (measured); its traceback of a taken port says
    # less than the line below.
    logging.getLogger("asyncua").setLevel(logging.WARNING)
    logging.getLogger("asyncua.server.server").setLevel(logging.CRITICAL)
    try:
        table = read_ai4i(options.table)
        asyncio.run(run_until_told_to_stop(serve(options, table), options.parent_pid))
    except TableError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        print(f"port {options.port} is taken on 127.0.0.1: choose another --port", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

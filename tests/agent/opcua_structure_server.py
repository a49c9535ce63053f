"""An OPC UA server with structures of its own, in a process of its own.

asyncua keeps such types for its whole process, so a client in the same one would know them already.
Usage: python -m tests.agent.opcua_structure_server PORT; ends when its standard input does.
"""

import asyncio
import sys

from asyncua import ua
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field
from asyncua.server.server import Server


async def serve(port: int) -> None:
    """Serve `s=Spindle`, a structure with structures, an enumeration and an array in it."""
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace("urn:journeyman:plant")
    mode = await new_enum(server, index, "Mode", ["Stop", "Run"])
    axis, _ = await new_struct(
        server,
        index,
        "Axis",
        [
            new_struct_field("Name", ua.VariantType.String),
            new_struct_field("Rms", ua.VariantType.Double),
            new_struct_field("Peak", ua.VariantType.Float, optional=True),
        ],
    )
    spindle, _ = await new_struct(
        server,
        index,
        "Spindle",
        [
            new_struct_field("Serial", ua.VariantType.UInt16),
            new_struct_field("Axes", axis, array=True),
            new_struct_field("Main", axis),
            new_struct_field("Mode", mode),
            new_struct_field("Loads", ua.VariantType.Int32, array=True),
        ],
    )
    await server.load_data_type_definitions()
    value = ua.Spindle(  # type: ignore[attr-defined]
        Serial=7,
        Axes=[ua.Axis(Name="x", Rms=0.5), ua.Axis(Name="y", Rms=1.5, Peak=2.5)],  # type: ignore[attr-defined]
        Main=ua.Axis(Name="z", Rms=3.5),  # type: ignore[attr-defined]
        Mode=ua.Mode.Run,  # type: ignore[attr-defined]
        Loads=[10, 20, 30],
    )
    await server.nodes.objects.add_variable(
        ua.NodeId.from_string(f"ns={index};s=Spindle"),
        "Spindle",
        value,
        datatype=spindle.nodeid,
    )
    async with server:
        print("READY", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))

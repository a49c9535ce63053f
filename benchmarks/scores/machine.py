"""A simulated machine: an OPC UA server whose variables change together, as a PLC's scan gives.

    python -m benchmarks.scores.machine PORT HZ

98 measured values, a fault flag and a counter of cycles, which is written last; all of a cycle with
one source timestamp: the machine's clock just before, whose microseconds below a millisecond are
the number of the cycle.  Prints `ready` when it listens.
"""

import asyncio
import sys
import time

import numpy as np
from asyncua import Server, ua

from agent.serve.address_space import AddressSpace
from agent.serve.guarded import GuardedServer
from agent.serve.history import ScoreHistory
from agent.serve.score import time_of

NAMESPACE = "urn:journeyman:bench:machine"
MEASURED = tuple(f"x{number:02d}" for number in range(98))
FAULT, CYCLE = "fault", "cycle"
CHANNELS = (*MEASURED, FAULT, CYCLE)
CYCLES = 1000
"""From so many on their numbers begin again."""
_MACHINE = "Machine"


def stamped(cycle: int) -> int:
    """Now in microseconds, at most 2 ms too early, and with the number of a cycle in it."""
    return (time.time_ns() // 1_000_000 - 1) * CYCLES + cycle % CYCLES


async def serve(port: int, hz: float) -> None:
    """Serve for ever."""
    internal = GuardedServer(lambda _: "", ScoreHistory(0))
    server = Server(internal)
    await server.init()
    await server.set_application_uri(NAMESPACE)
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}")
    server.set_identity_tokens([ua.AnonymousIdentityToken])
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    space = AddressSpace(internal, 1)
    space.add_object(_MACHINE, _MACHINE, "")
    for name in CHANNELS:
        space.add_variable(_MACHINE, name, "Double", "")
    async with server:
        print("ready", flush=True)
        await _cycle(space, hz)


async def _cycle(space: AddressSpace, hz: float) -> None:
    """Write a cycle after the other, each on time."""
    rng, due_s, cycle = np.random.default_rng(0), time.monotonic(), 0
    while True:
        cycle += 1
        values = [*rng.normal(size=len(MEASURED)), float(rng.random() < 0.1), float(cycle)]
        now = time_of(stamped(cycle))
        for name, value in zip(CHANNELS, values, strict=True):
            await space.write(f"{_MACHINE}/{name}", float(value), ua.VariantType.Double, now)
        due_s += 1 / hz
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))

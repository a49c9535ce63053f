"""What a connected agent with nothing to do sends and receives, in bytes a day by counted packets.

The real agent program with a machine that is away, beside the real coordinator: keep-alives and
nothing else.  Packets are counted on the loopback interface with all their IP and TCP headers,
acknowledgments too.  Each agent has a listener of its own, so a packet is its by its port.
"""

import socket
import struct
import time
from dataclasses import dataclass

from benchmarks.delivery.publishers import Observer
from benchmarks.testbed import (
    BenchmarkError,
    Testbed,
    mlp_bundle,
    real_disk,
    testbed,
    wait_for,
)
from coordinator.store import Store
from shopfloor.ports import free_port
from shopfloor.processes import Child, python

TARGET_BYTES = 1_000_000
_DAY_S = 86_400
_SETTLE_S = 5.0
_ETH_P_ALL = 0x0003
_PACKET_OUTGOING = 4
"""Loopback shows each packet twice, going out and coming in (packet(7))."""
_ETHERNET_BYTES = 14
_TCP = 6
_ALL = 65_536


@dataclass(frozen=True)
class Idle:
    """Bytes a day of IP packets, both ways; None where packets can not be counted."""

    plain: float | None
    tls: float | None
    keepalive_s: int
    packets: int
    """Counted for the plain one."""
    seconds: float


def measure(seconds: float) -> Idle:
    """Count for so long, one agent without TLS and one with it, at the same time.

    Raises:
      BenchmarkError: an agent did not connect or did not stay connected.
    """
    with testbed(real_disk(), mlp_bundle) as bed:
        port, plain, tls = free_port(), free_port(), free_port()
        plain_listener = f"listener {plain} 127.0.0.1\n"
        bed.start_broker(port, plain_listener + bed.tls_listener(tls))
        bed.write_coordinator(port, "")
        observer = Observer.connect(port)
        bed.start_coordinator()
        observer.wait_online()
        agents = [_start(bed, "press-1", plain, ""), _start(bed, "press-2", tls, "tls")]
        _wait_online(bed, agents)
        time.sleep(_SETTLE_S)
        counted = _count({plain, tls}, seconds)
        if len(_online(bed)) != len(agents):
            raise BenchmarkError("an agent went offline while it was idle")
    if counted is None:
        return Idle(None, None, 20, 0, seconds)
    a_day = {at: size * _DAY_S / seconds for at, (_, size) in counted.items()}
    return Idle(a_day[plain], a_day[tls], 20, counted[plain][0], seconds)


def _start(bed: Testbed, agent: str, port: int, kind: str) -> Child:
    config = bed.write_agent(agent, port)
    if kind == "tls":
        config = bed.write_agent(agent, port, bed.tls_client(agent))
    return bed.processes.start(agent, python("agent.main", "run", config))


def _wait_online(bed: Testbed, agents: list[Child]) -> None:
    wait_for(lambda: len(_online(bed)) == len(agents), "the agents' births", *agents)


def _online(bed: Testbed) -> list[str]:
    store = Store(bed.store)
    try:
        return [agent for agent, _, status in store.agents() if status == "online"]
    finally:
        store.close()


def _count(ports: set[int], seconds: float) -> dict[int, tuple[int, int]] | None:
    """Packets and their IP bytes by port; None without the right to see packets (CAP_NET_RAW)."""
    try:
        seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    except PermissionError:
        return None
    counted = dict.fromkeys(ports, (0, 0))
    with seen:
        seen.bind(("lo", 0))
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            seen.settimeout(left_s)
            try:
                data, address = seen.recvfrom(_ALL)
            except TimeoutError:
                break
            size, port = _read(data, ports)
            if address[2] == _PACKET_OUTGOING and port:
                packets, total = counted[port]
                counted[port] = packets + 1, total + size
    return counted


def _read(frame: bytes, ports: set[int]) -> tuple[int, int]:
    """IP length of a TCP packet of one of these ports, and the port; (0, 0) for another."""
    ip = frame[_ETHERNET_BYTES:]
    if len(ip) < 40 or ip[0] >> 4 != 4 or ip[9] != _TCP:
        return 0, 0
    header = (ip[0] & 15) * 4
    source, target = struct.unpack("!HH", ip[header : header + 4])
    port = source if source in ports else target
    return (int.from_bytes(ip[2:4], "big"), port) if port in ports else (0, 0)

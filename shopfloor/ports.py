"""TCP ports of this machine for programs that are about to be started."""

import random
import socket
from typing import Final

_PORTS: Final = (12_000, 31_999)
"""Below what Linux gives to outgoing connections (32768 and up), so that none of those takes the
port of a program that has not started yet, or is down for a moment."""
_WAIT_S: Final = 0.2


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now; all are held until all are known, so they differ."""
    holders: list[socket.socket] = []
    try:
        while len(holders) < number:
            holders.append(socket.socket())
            try:
                holders[-1].bind(("127.0.0.1", random.SystemRandom().randint(*_PORTS)))
            except OSError:  # somebody's
                holders.pop().close()
        return [int(holder.getsockname()[1]) for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]


def answers_at(port: int) -> bool:
    """Whether somebody accepts connections on this port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(_WAIT_S)
        return probe.connect_ex(("127.0.0.1", port)) == 0

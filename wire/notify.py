"""Tells the service manager how the agent is: ready, working, stopping.

The protocol of sd_notify(3): one datagram of `NAME=value` lines to the unix socket that systemd
names in NOTIFY_SOCKET. Written out because it is twenty lines and a dependency is not.

Refuses: sockets of other families (systemd offers AF_VSOCK to virtual machines only).
Invariant: outside of systemd nothing is sent and nothing fails.
"""

import os
import socket

# systemd reads its socket between its other work; a full one must not stop acquisition for long.
_SEND_TIMEOUT_S = 1.0
_MICROSECONDS_PER_SECOND = 1_000_000


def notify(state: str) -> bool:
    """Send a state such as `READY=1`, `WATCHDOG=1` or `STATUS=3 sources`.

    Args:
      state: assignments, one a line; a STATUS text must not contain a line break of its own.

    Returns:
      Whether somebody was told: False outside of systemd.

    Raises:
      ValueError: NOTIFY_SOCKET is neither a path nor an abstract name.
      OSError: the service manager cannot be reached; it will notice by its watchdog.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address[0] not in "/@":
        raise ValueError(f"NOTIFY_SOCKET={address!r} is neither a path nor an abstract name (@...)")
    if address[0] == "@":
        address = "\0" + address[1:]  # unix(7), abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.settimeout(_SEND_TIMEOUT_S)
        connection.sendto(state.encode(), address)
    return True


def watchdog_interval_s() -> float | None:
    """Return within how many seconds systemd expects each WATCHDOG=1; None when it expects none.

    Send at half of it, as sd_watchdog_enabled(3) advises, and only while work makes progress.

    Raises:
      ValueError: WATCHDOG_USEC or WATCHDOG_PID is not a positive number.
    """
    interval_us = _positive_number("WATCHDOG_USEC")
    if interval_us is None:
        return None
    # Inherited by a child (the training process), the watchdog is not the child's.
    pid = _positive_number("WATCHDOG_PID")
    if pid is not None and pid != os.getpid():
        return None
    return interval_us / _MICROSECONDS_PER_SECOND


def _positive_number(name: str) -> int | None:
    text = os.environ.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise ValueError(f"{name}={text!r} is not a positive number")
    return int(text)

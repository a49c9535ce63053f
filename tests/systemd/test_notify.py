"""sd_notify against real unix datagram sockets."""

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from wire.notify import notify, watchdog_interval_s


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """The service manager's end: a socket that is not bound yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        yield listener


def test_a_state_reaches_a_socket_with_a_path(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    assert notify("READY=1\nSTATUS=3 sources, lien établi")
    assert manager.recv(4096) == "READY=1\nSTATUS=3 sources, lien établi".encode()


def test_a_state_reaches_an_abstract_socket(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"journeyman-test-{uuid.uuid4()}"
    manager.bind(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    assert notify("WATCHDOG=1")
    assert manager.recv(4096) == b"WATCHDOG=1"


def test_outside_of_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")


def test_a_manager_that_is_gone_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with pytest.raises(OSError, match="No such file"):
        notify("READY=1")


def test_a_manager_that_does_not_read_cannot_stop_the_agent_for_long(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with manager.dup() as filler:  # nobody reads, so that the queue is full in the end
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler.sendto(b"WATCHDOG=1", path)
    with pytest.raises(TimeoutError):
        notify("WATCHDOG=1")


def test_a_socket_of_another_family_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "vsock:2:1234")
    with pytest.raises(ValueError, match="vsock:2:1234"):
        notify("READY=1")


def test_the_watchdog_interval_is_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert watchdog_interval_s() == 60.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_interval_s() == 60.0


def test_a_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    assert watchdog_interval_s() is None


def test_without_a_watchdog_there_is_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert watchdog_interval_s() is None


@pytest.mark.parametrize("text", ["soon", "0", "-5", "1.5", "²"])
def test_a_malformed_watchdog_interval_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", text)
    with pytest.raises(ValueError, match="WATCHDOG_USEC"):
        watchdog_interval_s()

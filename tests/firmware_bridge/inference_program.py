"""The device's kernels, compiled: on the host under sanitizers, and as firmware in QEMU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from shopfloor.emulated_board import (
    CHECK_ON_BOARD,
    CHECK_ON_HOST,
    Kernels,
    kernels_on_board,
    kernels_on_host,
    missing_tools,
)


def skip_without_tools(target: str) -> None:
    """Skip the test where a compiler or the emulator is missing."""
    missing = missing_tools(target)
    if missing:
        words = ", ".join(missing)
        pytest.skip(f"{words} not installed: run tests/install.sh .venv/bin/python")


@contextmanager
def on_host() -> Iterator[Kernels]:
    """The kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""
    skip_without_tools(CHECK_ON_HOST)
    with kernels_on_host() as kernels:
        yield kernels


@contextmanager
def on_cortex_m3(options: Sequence[str] = ()) -> Iterator[Kernels]:
    """The kernels as firmware on an emulated Cortex-M3."""
    skip_without_tools(CHECK_ON_BOARD)
    with kernels_on_board(options) as kernels:
        yield kernels

"""Feeds the service manager's watchdog while every watched task makes progress, and only then.

What stalls is logged once, with the line at which each task of the process waits: after the
restart that follows nothing else would tell.  Run it beside the tasks, on their event loop: a loop
that is blocked feeds nothing either.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from wire.progress import Progress

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
_MOST_TASKS = 100
_DEEPEST = 50


async def keep_watch(
    progress: Progress, tell: Callable[[str], object], every_s: float = _LOOK_S
) -> None:
    """Look after the tasks until cancelled.

    Args:
      progress: of the tasks; nobody else looks.
      tell: `wire.notify.notify`.  A service manager that can not be reached (OSError) will see
        that by its watchdog.
      every_s: between two looks.
    """
    known: set[str] = set()
    while True:
        stalled = progress.look(time.monotonic())
        names = {stall.name for stall in stalled}
        if names - known:
            _log_stall("; ".join(map(str, stalled)))
        elif known and not names:
            logger.warning("every task makes progress again; the watchdog is fed")
        known = names
        if not stalled:
            with suppress(OSError):
                tell("WATCHDOG=1")
        await asyncio.sleep(every_s)


def _log_stall(stalled: str) -> None:
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())[:_MOST_TASKS]
    waits = "; ".join(f"{task.get_name()} waits at {_place(task)}" for task in tasks)
    logger.error("no progress, so the watchdog is not fed: %s.  Tasks: %s", stalled, waits)


def _place(task: "asyncio.Task[Any]") -> str:
    """The innermost line of a task that can be seen: `connection.py:142`."""
    waits: object = task.get_coro()
    frame: FrameType | None = None
    for _ in range(_DEEPEST):
        inner = getattr(waits, "cr_frame", None) or getattr(waits, "ag_frame", None)
        frame = inner or frame
        waits = getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None)
        if waits is None:
            break
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "its end"

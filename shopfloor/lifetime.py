"""How long a program of the simulated plant lives: until told to stop, or until its parent is gone.

The demo starts these programs and must leave none behind, even when it is killed and can
clean up nothing.  So each child asks who its parent is: an orphan is given to another process.
Asking beats Linux's parent-death signal here, which is sent when the *thread* that started the
child ends, and which other systems lack.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Coroutine

PARENT_POLL_S = 0.5


def add_parent_option(parser: argparse.ArgumentParser) -> None:
    """Add `--parent-pid` to the options of a program."""
    parser.add_argument(
        "--parent-pid",
        type=int,
        metavar="PID",
        help="stop when PID is no longer the parent of this process",
    )


async def run_until_told_to_stop(work: Coroutine[None, None, None], parent_pid: int | None) -> None:
    """Run `work` until it ends, until SIGTERM or SIGINT, or until the parent is gone.

    Work that is stopped is cancelled and may clean up; work that fails raises here.  Must run
    in the main thread's loop; both signals stay taken over.
    """
    worker = asyncio.create_task(work, name="work")
    told = asyncio.create_task(_told_to_stop(parent_pid), name="told to stop")
    await asyncio.wait({worker, told}, return_when=asyncio.FIRST_COMPLETED)
    for task in (worker, told):
        task.cancel()
    await asyncio.wait({worker, told})
    if not worker.cancelled():
        worker.result()


async def _told_to_stop(parent_pid: int | None) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    while parent_pid is None or os.getppid() == parent_pid:
        try:
            async with asyncio.timeout(None if parent_pid is None else PARENT_POLL_S):
                await told.wait()
        except TimeoutError:
            continue
        return

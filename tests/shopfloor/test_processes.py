"""What becomes of a run when one of its processes dies."""

import asyncio
import sys
from pathlib import Path

import pytest

from shopfloor.processes import Child, ChildError, Processes, until

FAIL = [sys.executable, "-c", "import sys; sys.exit('no port')"]
LIVE = [sys.executable, "-c", "import time; time.sleep(60)"]


async def watched_until_dead(processes: Processes, child: Child) -> None:
    """Watch until the child is dead and was looked at twice more."""
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(processes.watch())
        await until(lambda: not child.pid, "the child is dead", 60)
        await asyncio.sleep(0.3)
        watching.cancel()


def test_the_run_goes_on_without_a_process_that_may_fail(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    other = processes.start("other", LIVE)
    page = processes.start("page", FAIL, may_fail=True)
    asyncio.run(watched_until_dead(processes, page))
    assert page.pid == 0
    assert other.pid != 0
    assert "no port" in page.last_words()
    processes.stop()
    assert other.pid == 0


def test_the_death_of_a_process_that_must_live_ends_the_run_and_names_its_log(
    tmp_path: Path,
) -> None:
    processes = Processes(tmp_path)
    links = processes.start("links", FAIL)
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(watched_until_dead(processes, links))
    [error] = caught.value.exceptions
    assert isinstance(error, ChildError)
    assert str(links.log) in str(error)
    assert "no port" in str(error)

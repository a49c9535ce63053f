"""What tests of the scores' outputs share: scores, running outputs, and programs that read them."""

import asyncio
import json
import queue
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.sensors.opcua.settings import OpcUaSettings
from agent.sensors.source import SourceContext
from agent.serve.outputs import Outputs
from agent.serve.score import Origin, Score
from agent.serve.settings import ScoresTable

DEADLINE_S = 30.0
NODE_OPCUA = Path(__file__).resolve().parent.parent / "node_opcua"
PROBABILITY = Origin("press", "ab" * 32, 7, "global", "", 0.5, (0.0, 1.0))
WEAR = Origin("wear", "cd" * 32, 3, "ditto", "min")
Answer = dict[str, Any]


def score(value: float, at: int = 0, origin: Origin = PROBABILITY, **fields: Any) -> Score:
    """A score of a row, so many seconds after a certain time."""
    is_alarm = value >= origin.threshold
    made = {
        "decision": "alarm" if is_alarm else "normal",
        "code": int(is_alarm),
        "is_alarm": is_alarm,
        "confidence": abs(2 * value - 1),
    }
    return Score(origin, 1_700_000_000_000_000 + at * 1_000_000, value, **{**made, **fields})


def context_in(folder: Path) -> SourceContext:
    """Where an agent gw-1 keeps its files."""
    return SourceContext(folder, folder / "state", "gw-1")


@asynccontextmanager
async def running(
    table: ScoresTable, folder: Path, sources: tuple[OpcUaSettings, ...] = ()
) -> AsyncIterator[Outputs]:
    """Outputs that run; at the end they must stop when told to."""
    outputs = Outputs(table, context_in(folder), "lyon", sources)
    task = asyncio.create_task(outputs.run())
    try:
        yield outputs
    finally:
        assert not task.done(), task.exception()
        task.cancel()
        async with asyncio.timeout(5):
            with suppress(asyncio.CancelledError):
                await task


async def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so; how long that takes is not judged."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.02)


class Program:
    """A program of tests/node_opcua that takes one JSON command a line; of no event loop."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._answers: queue.Queue[Answer] = queue.Queue()
        self._changes: queue.Queue[Answer] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.certificate = Path(self._next(self._answers)["certificate"])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            (self._changes if "change" in answer else self._answers).put(answer)

    def _next(self, answers: "queue.Queue[Answer]") -> Answer:
        return answers.get(timeout=DEADLINE_S)

    def forget_changes(self) -> None:
        while not self._changes.empty():
            self._changes.get_nowait()

    async def ask(self, do: str, **parameters: object) -> Answer:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode({"do": do, **parameters}) + b"\n")
        self._process.stdin.flush()
        return await asyncio.to_thread(self._next, self._answers)

    async def change(self) -> Answer:
        """The next change of a subscribed node."""
        return await asyncio.to_thread(self._next, self._changes)


@contextmanager
def node_script(node: str, script: str, *arguments: str) -> Iterator[Program]:
    """Start a script of tests/node_opcua, and wait until it is ready."""
    if not (NODE_OPCUA / "node_modules" / "node-opcua").is_dir():
        pytest.skip("node-opcua is not installed: run tests/install.sh .venv/bin/python")
    command = [node, str(NODE_OPCUA / script), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield Program(process)
        finally:
            process.kill()

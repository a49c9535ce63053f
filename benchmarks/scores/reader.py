"""The PLC simulator: subscribes to one node and says when each value came.

node-opcua where it is installed, else asyncua's own client, in a process of its own either way:

    python -m benchmarks.scores.reader URL NODE
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

from asyncua import Client, ua
from asyncua.common.node import Node

from benchmarks.testbed import ROOT, BenchmarkError

PUBLISHING_MS = 10
_NODE_OPCUA = ROOT / "tests" / "node_opcua"
_STARTS_WITHIN_S = 60.0
_MILLISECOND_US = 1000
"""What node-opcua's clock may have cut off, and what counts against us."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Arrival:
    """One value: its source timestamp and when it was here; microseconds since 1970."""

    source_us: int
    at_us: int

    @property
    def latency_ms(self) -> float:
        """From the source to here."""
        return (self.at_us - self.source_us) / 1000


class Reader:
    """A program that subscribed; what it says is read by a thread."""

    def __init__(self, name: str, output: IO[bytes]) -> None:
        self.name = name
        self._said: Queue[dict[str, Any]] = Queue()
        Thread(target=self._listen, args=(output,), daemon=True).start()

    def _listen(self, output: IO[bytes]) -> None:
        for line in output:
            self._said.put(json.loads(line))

    def answer(self, timeout_s: float = _STARTS_WITHIN_S) -> dict[str, Any]:
        """What it says next.

        Raises:
          BenchmarkError: nothing, for so long.
        """
        try:
            return self._said.get(timeout=timeout_s)
        except Empty:
            raise BenchmarkError(f"{self.name} said nothing for {timeout_s:g} s") from None

    def arrivals(self, seconds: float) -> list[Arrival]:
        """Values of the next seconds."""
        while not self._said.empty():
            self._said.get_nowait()
        until_s, found = time.monotonic() + seconds, []
        while time.monotonic() < until_s:
            said = self.answer()
            if said["change"]["status"].startswith("Good"):
                found.append(Arrival(said["change"]["source_us"], said["at_us"]))
        return found


@contextmanager
def reader(url: str, node: str) -> Iterator[Reader]:
    """Start a reader that has subscribed to a node of a server's own namespace."""
    program = shutil.which("node")
    if program is None or not (_NODE_OPCUA / "node_modules").is_dir():
        with _started([sys.executable, "-m", "benchmarks.scores.reader", url, node]) as (_, output):
            yield Reader("asyncua's client", output)
        return
    with tempfile.TemporaryDirectory() as pki:
        command = [program, str(_NODE_OPCUA / "reader.cjs"), pki]
        with _started(command) as (commands, output):
            made = Reader("node-opcua", output)
            made.answer()
            asked = {"do": "subscribe", "nodes": [node], "interval_ms": PUBLISHING_MS}
            for command_line in ({"do": "connect", "endpoint": url, "policy": "None"}, asked):
                commands.write(json.dumps(command_line).encode() + b"\n")
                commands.flush()
                answer = made.answer()
                if "error" in answer:
                    raise BenchmarkError(f"the reader can not {command_line['do']}: {answer}")
            yield made


@contextmanager
def _started(command: list[str]) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise BenchmarkError(f"{command[0]} has no pipes")
        try:
            yield process.stdin, process.stdout
        finally:
            process.kill()


class _Printer:
    """Prints what the node-opcua reader prints."""

    def datachange_notification(self, node: Node, value: object, data: Any) -> None:  # noqa: ANN401
        del node
        at_us = time.time_ns() // 1000
        shown = data.monitored_item.Value
        source_us = (shown.SourceTimestamp - _EPOCH) // timedelta(microseconds=1)
        change = {"value": value, "status": shown.StatusCode.name, "source_us": source_us}
        print(json.dumps({"change": change, "at_us": at_us}), flush=True)


async def _subscribe(url: str, node: str) -> None:
    async with Client(url) as client:
        subscription = await client.create_subscription(PUBLISHING_MS, _Printer())
        changes = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
        request = ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(
                NodeId=ua.NodeId.from_string(f"ns=1;{node}"), AttributeId=ua.AttributeIds.Value
            ),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(
                ClientHandle=1, SamplingInterval=0.0, Filter=changes, QueueSize=1000
            ),
        )
        await subscription.create_monitored_items([request])
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_subscribe(*sys.argv[1:3]))

"""The demo: three factories learn together while their links fail.

    machine L ─OPC UA─ gateway-l ─flaky link─┐    ┌──── observer (writes the ledger)
    machine M ─OPC UA─ gateway-m ─flaky link─┼─ broker ─ coordinator ─ page, for a browser
    machine H ─OPC UA─ gateway-h ─flaky link─┘

Every box is a process of its own and the product's own program.  The demo starts them, lets the
machines produce, closes training after a while, waits until every update has its outcome, judges
the served model on rows that nobody saw, and writes the report.
"""

import asyncio
import importlib.util
import os
import random
import time
from dataclasses import dataclass, field

from asyncua import Client, ua

from coordinator.app import set_training
from shopfloor.broker import broker_command
from shopfloor.ledger import Ledger
from shopfloor.link_log import LinkLog
from shopfloor.live import LiveTerminal
from shopfloor.machine import NAMESPACE_URI
from shopfloor.plant import FEDERATION, Plant
from shopfloor.ports import answers_at
from shopfloor.processes import Child, ChildError, Processes, python, until
from shopfloor.record import RunRecord
from shopfloor.watch import Watch

_READY_S = 60.0
_PAGE_S = 20.0
_DRAIN_LIMIT_S = 120.0
_LOOK_S = 0.5
_LINK_BYTES_S = 200_000
_BAD_SHARE = 0.002
"""Share of faulty readings of the generated machines; a replayed file is replayed as it is."""


@dataclass
class Demo:
    """One run of the demo: its processes and what is done to them."""

    plant: Plant
    processes: Processes
    watch: Watch
    view: LiveTerminal
    _killable: dict[str, Child] = field(default_factory=dict)

    async def start(self) -> None:
        """Start all processes; returns when every agent is subscribed to its machine."""
        self._start_broker_and_machines()
        port = self.plant.broker_port
        await until(lambda: answers_at(port), "the broker answers", _READY_S)
        self._start_observer_and_links()
        for name in ("observer", "links"):
            await until(lambda name=name: self._is_ready(name), f"{name} ready", _READY_S)  # type: ignore[misc]
        config = self.plant.coordinator_config
        self._killable["the coordinator"] = self.processes.start(
            "coordinator", python("coordinator.main", "run", config), restarts=True
        )
        for name, config in self.plant.helpers:
            self._killable[f"helper {name}"] = self.processes.start(
                f"helper-{name}", python("coordinator.helper.main", "run", config), restarts=True
            )
        for site in self.plant.sites:
            self._killable[f"the agent of {site.name}"] = self.processes.start(
                site.agent, python("agent.main", "run", site.config), restarts=True
            )
        page = self._start_page()
        await until(self.watch.is_subscribed, "agents subscribed to their machines", _READY_S)
        self.view.tell(await _where(page, self.plant.page_port))

    def _start_page(self) -> Child | None:
        """Start the page beside the coordinator where the web extra is installed."""
        if not all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn")):
            return None
        command = python("coordinator.main", "web", self.plant.coordinator_config)
        return self.processes.start("page", command, may_fail=True)

    def _start_broker_and_machines(self) -> None:
        plant, options, start = self.plant, self.plant.options, self.processes.start
        command = broker_command(plant.directory, plant.broker_port, options.broker)
        start("broker", command)
        for site in plant.sites:
            start(
                f"machine-{site.name.lower()}",
                python(
                    "shopfloor.machine",
                    *("--table", plant.directory / "sites" / f"{site.name}.csv"),
                    *("--port", site.machine_port, "--name", site.name, "--seed", options.seed),
                    *("--rows-per-s", len(site.train) / options.stream_s),
                    *("--bad-share", 0.0 if options.data else _BAD_SHARE),
                    *("--parent-pid", os.getpid()),
                ),
            )

    def _start_observer_and_links(self) -> None:
        plant, options, port = self.plant, self.plant.options, self.plant.broker_port
        self.processes.start(
            "observer",
            python(
                "shopfloor.observer",
                *("--port", port, "--federation", FEDERATION),
                *("--out", self.watch.ledger.directory, "--parent-pid", os.getpid()),
            ),
        )
        links = [f"{site.name}:{site.link_port}:{port}" for site in plant.sites]
        self.processes.start(
            "links",
            python(
                "shopfloor.links",
                *(word for link in links for word in ("--link", link)),
                *("--seed", options.seed, "--down-share", options.down_share),
                *("--mean-down-s", options.mean_down_s, "--rate-bytes-s", _LINK_BYTES_S),
                *("--log", self.watch.links.path, "--parent-pid", os.getpid()),
            ),
        )

    def _is_ready(self, name: str) -> bool:
        return "ready" in (self.plant.directory / f"{name}.log").read_text(errors="replace")

    async def learn(self) -> None:
        """Let the machines produce and the factories learn until training closes."""
        options = self.plant.options
        self.watch.begin()
        for site in self.plant.sites:
            await start_production(site.machine_url)
        moments = ",".join(f"{options.stream_s * part / 4:.2f}" for part in (1, 2, 3, 4))
        self.processes.start(
            "baselines",
            python(
                "shopfloor.baselines",
                *(self.plant.directory, "--seed", options.seed),
                *("--stream-s", options.stream_s, "--moments", moments),
            ),
            ends=True,
        )
        self.watch.phase = "learning"
        kills = kill_times(options.seed, options.kills, options.learn_s, list(self._killable))
        while self.watch.t_s < options.learn_s:
            while kills and self.watch.t_s >= kills[0][0]:
                self._kill(kills.pop(0)[1])
            await self._look()
        set_training(self.plant.coordinator_config, "closed")

    def _kill(self, name: str) -> None:
        process = self._killable[name].process
        if process is not None and process.poll() is None:
            process.kill()
            self.watch.tell(f"kill -9 of {name}")

    async def drain(self) -> None:
        """Wait until every update has its outcome and the last average was judged.

        Raises:
          ChildError: it did not happen in time.
        """
        self.watch.phase = "draining outboxes"
        deadline = time.monotonic() + _DRAIN_LIMIT_S
        while not self.watch.is_settled():
            if time.monotonic() > deadline:
                reason = f"the outboxes did not drain within {_DRAIN_LIMIT_S:g} s; see the logs in "
                raise ChildError(reason + str(self.plant.directory))
            await self._look()
        await self._look()

    async def _look(self) -> None:
        view = self.watch.look()
        if self.plant.options.strategy == "fedavg":
            for line in self.watch.new_rounds():
                self.watch.message = line
                print(line, flush=True)
        self.view.update(view)
        await asyncio.sleep(_LOOK_S)


def kill_times(seed: int, number: int, learn_s: float, names: list[str]) -> list[tuple[float, str]]:
    """When to kill whom: `number` moments by the seed, the processes in turn."""
    rng = random.Random(seed)
    times = sorted(rng.uniform(0.15, 0.95) * learn_s for _ in range(number))
    return [(at, names[index % len(names)]) for index, at in enumerate(times)]


async def run_demo(plant: Plant, *, headless: bool) -> RunRecord:
    """Run the demo on a laid-out plant; `headless` prints plain lines instead of the live view.

    Raises:
      ChildError: a process of the demo ended or never got ready; all others are stopped.
    """
    processes = Processes(plant.directory)
    watch = Watch(
        plant, Ledger(plant.directory / "witness"), LinkLog(plant.directory / "links.jsonl")
    )
    try:
        with LiveTerminal(plain=headless) as view:
            demo = Demo(plant, processes, watch, view)
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(processes.watch(), name="watch processes")
                await demo.start()
                await demo.learn()
                await demo.drain()
                watching.cancel()
    except* ChildError as group:
        raise group.exceptions[0] from None
    finally:
        processes.stop()
    watch.look()
    watch.write_scores()
    return watch.record()


async def _where(page: Child | None, port: int) -> str:
    """Where to watch the run in a browser, or why nowhere; the run goes on without a page."""
    if page is None:
        return "No page to watch: pip install 'journeyman[web]'"
    try:
        await until(lambda: not page.pid or answers_at(port), "the page answers", _PAGE_S)
    except ChildError:
        return f"warning: the page is slow to start; it will be http://127.0.0.1:{port}/"
    if not page.pid:
        return f"warning: no page to watch, because it did not start; see {page.log}"
    return f"Watch it: http://127.0.0.1:{port}/"


async def start_production(url: str) -> None:
    """Call the machine's method StartProduction, as an operator would."""
    client = Client(url)
    client.session_timeout = 60_000
    async with client:
        index = await client.get_namespace_index(NAMESPACE_URI)
        machine = client.get_node(f"ns={index};s=Machine")
        await machine.call_method(ua.QualifiedName("StartProduction", index))
    # asyncua's disconnect swallows a cancellation that arrives while it waits for its own tasks;
    # a Ctrl-C at that moment would be lost.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError

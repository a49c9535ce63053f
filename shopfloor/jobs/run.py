"""One job's run: real programs learn it, links fail, and what every site serves is judged.

    gateway-a (replays its rows) ─flaky link─┐    ┌──── observer (writes the ledger)
    gateway-b                    ─flaky link─┼─ broker ─ coordinator
    ...                          ─flaky link─┘

    learning ─► training closed ─► every update has its outcome ─► sites choose what they serve
             ─► a site's data move, and the coordinator says so

Every box is a process of its own and the product's own program.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from agent.outbox import Entry, Outbox
from agent.status import Status, read_status
from coordinator.app import set_training
from coordinator.config import DATABASE
from coordinator.store import Store
from shopfloor.broker import broker_command
from shopfloor.jobs.baselines import RESULT
from shopfloor.jobs.moving import moved_rows
from shopfloor.jobs.plant import JobPlant, JobSite, write_agent, write_rows
from shopfloor.ledger import HeadFact, Ledger, UpdateId
from shopfloor.link_log import LinkLog
from shopfloor.plant import FEDERATION
from shopfloor.ports import answers_at
from shopfloor.processes import Child, ChildError, Processes, python, until
from wire.messages import TERMINAL

_READY_S = 60.0
_SETTLE_S = 300.0
_CHOOSE_S = 900.0
_DRIFT_S = 120.0
_LOOK_S = 0.5
_LINK_BYTES_S = 2_000_000

Say = Callable[[str], None]


@dataclass
class JobRun:
    """A run while it goes on, and what it leaves.

    Attributes:
      say: takes lines for a person.
      drift_s: from the first moved row to the alarm; None without one.
      alarm: the coordinator's words.
    """

    plant: JobPlant
    processes: Processes
    ledger: Ledger
    links: LinkLog
    say: Say
    started: float = 0.0
    drift_s: float | None = None
    alarm: str = ""
    _agents: dict[str, Child] = field(default_factory=dict)

    @property
    def t_s(self) -> float:
        """Seconds since learning began."""
        return time.time() - self.started if self.started else 0.0

    # Beginning

    async def start(self) -> None:
        """Start all programs; returns when every member is connected."""
        plant = self.plant
        options, start, port = plant.options, self.processes.start, plant.broker_port
        start("broker", broker_command(plant.directory, port, options.broker))
        await until(lambda: answers_at(port), "the broker answers", _READY_S)
        parent = ("--parent-pid", os.getpid())
        witness = ("--port", port, "--federation", FEDERATION, "--out", self.ledger.directory)
        start("observer", python("shopfloor.observer", *witness, *parent))
        links = [f"{site.name}:{site.link_port}:{port}" for site in plant.sites]
        start(
            "links",
            python(
                "shopfloor.links",
                *(word for link in links for word in ("--link", link)),
                *("--seed", options.seed, "--down-share", options.down_share),
                *("--mean-down-s", options.mean_down_s, "--rate-bytes-s", _LINK_BYTES_S),
                *("--log", self.links.path, *parent),
            ),
        )
        for name in ("observer", "links"):
            await until(lambda name=name: self._is_ready(name), f"{name} ready", _READY_S)  # type: ignore[misc]
        config = plant.coordinator_config
        start("coordinator", python("coordinator.main", "run", config), restarts=True)
        self.started = time.time()
        self.links.begin(self.started)
        for site in plant.members:
            self._start_agent(site)

    def _is_ready(self, name: str) -> bool:
        return "ready" in (self.plant.directory / f"{name}.log").read_text(errors="replace")

    def _start_agent(self, site: JobSite) -> None:
        command = python("agent.main", "run", site.config)
        self._agents[site.name] = self.processes.start(site.agent, command, restarts=True)

    def start_baselines(self) -> None:
        """Train alone and in one place, beside the run, with the time that nobody else wants."""
        plant, options = self.plant, self.plant.options
        words = ["--job", plant.task.name, "--seed", options.seed]
        words += ["--data", options.data] if options.data is not None else []
        words += ["--newcomer", options.newcomer] if options.newcomer else []
        command = python("shopfloor.jobs.baselines", plant.directory, *words)
        self.processes.start("baselines", command, ends=True)

    # Learning

    async def learn(self) -> None:
        """Let the sites learn until enough versions are made, then close training."""
        plant, told = self.plant, -1
        while self.t_s < plant.options.limit_s:
            self.look()
            version = self.head.train[0] if self.head else 0
            if version >= plant.versions:
                break
            if version // 10 > told:
                told = version // 10
                self.say(self._progress(version))
            await asyncio.sleep(_LOOK_S)
        set_training(plant.coordinator_config, "closed")
        self.say(f"{self.t_s:5.0f} s  training closed; every update gets its outcome")
        await until(self._is_settled, "every update has its outcome", _SETTLE_S)

    def _progress(self, version: int) -> str:
        statuses = self.statuses()
        rows = sum(status.rows for status in statuses.values())
        made = sum(status.produced for status in statuses.values())
        down = [site.name for site in self.plant.members if self.links.is_down(site.name)]
        words = f"{self.t_s:5.0f} s  version {version} of {self.plant.versions}"
        words += f"  {rows} rows at {len(statuses)} sites  {made} updates"
        return words + (f"  down: {', '.join(down)}" if down else "")

    @property
    def head(self) -> HeadFact | None:
        """The newest head that the witness saw."""
        return self.ledger.head

    def look(self) -> None:
        """Read what is new."""
        self.ledger.read_new()
        self.links.read_new()

    def statuses(self) -> dict[str, Status]:
        """What the agents say of themselves."""
        found = {site.name: read_status(site.state) for site in self.plant.sites}
        return {name: status for name, status in found.items() if status is not None}

    def _is_settled(self) -> bool:
        self.look()
        statuses = self.statuses()
        for site in self.plant.members:
            status = statuses.get(site.name)
            if status is None or status.learning != "training is closed":
                return False
            if sum(status.outcomes.get(name, 0) for name in TERMINAL) != status.produced:
                return False
        head = self.head
        return head is not None and head.training == "closed" and head.candidate is None

    # What each site serves

    async def choose(self) -> None:
        """Start the agents again with models of their own allowed; wait until all have chosen."""
        await self._start_again(self.plant.members, is_choosing=True)
        newcomer = [site for site in self.plant.sites if site not in self.plant.members]
        for site in newcomer:
            self._start_agent(site)
        self.say(f"{self.t_s:5.0f} s  each site tries models of its own beside the federation's")
        members = self.plant.members
        await until(lambda: all(map(self._has_chosen, members)), "sites chose", _CHOOSE_S)
        await until(lambda: all(map(self._serves, newcomer)), "the newcomer serves", _READY_S)

    async def _start_again(self, sites: tuple[JobSite, ...], *, is_choosing: bool) -> None:
        for site in sites:
            write_agent(self.plant, site, is_choosing=is_choosing)
            process = self._agents[site.name].process
            if process is not None and process.poll() is None:
                process.terminate()  # `Processes.watch` starts it again

    def _has_chosen(self, site: JobSite) -> bool:
        """Whether it chose, or told why it serves the federation's model without a choice."""
        self.look()
        status = self.statuses().get(site.name)
        said = status.personal if status is not None else ""
        is_left = said.endswith("the next choice comes later")
        is_left |= said.startswith("waiting for rows")
        return is_left or (site.state / "personal.model").exists()

    def _serves(self, site: JobSite) -> bool:
        self.look()
        status, head = self.statuses().get(site.name), self.head
        if status is None or head is None:
            return False
        return status.serve_version == head.serve[0]

    # A site's data move

    async def move(self, site: JobSite) -> None:
        """Let a site's machines go on with moved data, until the coordinator raises an alarm."""
        plant = self.plant
        columns = moved_rows(plant.task, plant.manifest, site.rows.train)
        write_rows(plant.directory, plant.task, plant.manifest, site.name, columns, part=2)
        since = time.time()
        self.say(f"{self.t_s:5.0f} s  the data of {site.name} move")
        await self._start_again((site,), is_choosing=False)
        while time.time() - since < _DRIFT_S:
            self.look()
            with contextlib.closing(self.open_store()) as store:
                self.alarm = store.alarm(site.agent, "drift")
            if self.alarm:
                self.drift_s = time.time() - since
                self.say(f"{self.t_s:5.0f} s  drift at {site.name}: {self.alarm}")
                return
            await asyncio.sleep(_LOOK_S)

    # What it leaves

    def open_store(self) -> Store:
        """The coordinator's store."""
        return Store(self.plant.coordinator_state / DATABASE)

    def produced(self) -> dict[UpdateId, Entry]:
        """Every update of every agent, from their outboxes."""
        found: dict[UpdateId, Entry] = {}
        for site in self.plant.sites:
            path = site.state / "outbox.db"
            if not path.exists():
                continue
            with contextlib.closing(Outbox(path, 1 << 40)) as outbox:
                for entry in outbox.account():
                    found[(site.agent, entry.incarnation, entry.sequence)] = entry
        return found

    def baselines(self) -> dict[str, np.ndarray]:
        """Answers of the models that were trained without a federation."""
        with np.load(self.plant.directory / RESULT) as arrays:
            return dict(arrays)


async def run_job(plant: JobPlant, say: Say) -> JobRun:
    """Run a job on a laid-out plant.

    Raises:
      ChildError: a program ended or something did not happen in time; all others are stopped.
    """
    processes = Processes(plant.directory)
    run = JobRun(
        plant,
        processes,
        Ledger(plant.directory / "witness"),
        LinkLog(plant.directory / "links.jsonl"),
        say,
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(processes.watch(), name="watch processes")
            await _stages(run)
            watching.cancel()
    except* ChildError as group:
        raise group.exceptions[0] from None
    finally:
        processes.stop()
    run.look()
    return run


async def _stages(run: JobRun) -> None:
    await run.start()
    run.start_baselines()
    await run.learn()
    await run.choose()
    result = run.plant.directory / RESULT
    run.say(f"{run.t_s:5.0f} s  waiting for training alone and in one place, to compare with")
    await until(result.exists, "the baselines are trained", 3600.0)
    if run.plant.options.drift:
        await run.move(run.plant.members[0])

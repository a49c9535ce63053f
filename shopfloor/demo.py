"""The demo: three factories learn together while their links fail.

    machine L ─OPC UA─ gateway-l ─flaky link─┐
    machine M ─OPC UA─ gateway-m ─flaky link─┤ broker ─ coordinator
    machine H ─OPC UA─ gateway-h ─flaky link─┘    └──── observer (writes the ledger)

Every box is a process of its own and the product's own program.  The demo starts them, lets the
machines produce, closes training after a while, waits until every update has its outcome, judges
the served model on rows that nobody saw, and writes the report.
"""

import asyncio
import os
import random
import socket
import time
from dataclasses import dataclass, field

import msgspec
from asyncua import Client, ua

from agent.outbox import Outbox
from agent.status import Status, read_status
from coordinator.app import DATABASE, set_training
from coordinator.store import Store
from shopfloor.baselines import RESULT, judge, load_model
from shopfloor.broker import broker_command
from shopfloor.ledger import Ledger, UpdateId, account, read_model
from shopfloor.link_log import LinkLog
from shopfloor.live import FleetView, LiveTerminal, SiteView
from shopfloor.machine import NAMESPACE_URI
from shopfloor.plant import FEDERATION, Plant, Site
from shopfloor.processes import Child, ChildError, Processes, python, until
from shopfloor.record import (
    BaselinePoint,
    Event,
    ModelQuality,
    QualityPoint,
    RunRecord,
    SiteSummary,
    UpdateCounts,
)
from wire.tensors import Params

_READY_S = 60.0
_DRAIN_S = 90.0
_VIEW_S = 0.5


@dataclass
class Run:
    """One run of the demo, from laid-out plant to record."""

    plant: Plant
    processes: Processes
    ledger: Ledger
    links: LinkLog
    events: list[Event] = field(default_factory=list)
    quality: list[QualityPoint] = field(default_factory=list)
    phase: str = "starting"
    started_wall: float = 0.0
    message: str = ""

    def __post_init__(self) -> None:
        self._model, self._start = load_model(self.plant.directory)
        self._held_out = {site.name: site.held_out for site in self.plant.sites}
        self._agents: dict[str, Child] = {}
        self._coordinator: Child | None = None
        self._judged: dict[str, ModelQuality] = {}
        self._printed = 0

    @property
    def t_s(self) -> float:
        """Seconds since production began."""
        return time.time() - self.started_wall if self.started_wall else 0.0

    async def start(self) -> None:
        """Start all processes and wait until every agent is subscribed to its machine."""
        plant, start = self.plant, self.processes.start
        directory, pid = plant.directory, os.getpid()
        start("broker", broker_command(directory, plant.broker_port))
        for site in plant.sites:
            rate = len(site.train) / plant.options.stream_s
            table = directory / "sites" / f"{site.name}.csv"
            bad = 0.0 if plant.options.data else 0.002
            start(
                f"machine-{site.name.lower()}",
                python("shopfloor.machine", "--table", table, "--port", site.machine_port)
                + ["--rows-per-s", str(rate), "--name", site.name, "--bad-share", str(bad)]
                + ["--seed", str(plant.options.seed), "--parent-pid", str(pid)],
            )
        await until(lambda: _answers(plant.broker_port), "the broker", _READY_S)
        witness = directory / "witness"
        start(
            "observer",
            python("shopfloor.observer", "--port", plant.broker_port, "--federation", FEDERATION)
            + ["--out", str(witness), "--parent-pid", str(pid)],
        )
        await until(lambda: self._says_ready("observer"), "the observer", _READY_S)
        options = plant.options
        links = [
            word
            for site in plant.sites
            for word in ("--link", f"{site.name}:{site.link_port}:{plant.broker_port}")
        ]
        start(
            "links",
            python("shopfloor.links", *links, "--seed", options.seed)
            + ["--down-share", str(options.down_share), "--mean-down-s", str(options.mean_down_s)]
            + ["--rate-bytes-s", "200000", "--log", str(self.links.path)]
            + ["--parent-pid", str(pid)],
        )
        self._coordinator = start(
            "coordinator",
            python("coordinator.main", "run", plant.coordinator_config),
            restarts=True,
        )
        await until(lambda: self._says_ready("links"), "the links", _READY_S)
        for site in plant.sites:
            self._agents[site.name] = start(
                site.agent, python("agent.main", "run", site.config), restarts=True
            )
        await until(self._all_subscribed, "agents subscribed to their machines", _READY_S)

    def _says_ready(self, name: str) -> bool:
        return "ready" in (self.plant.directory / f"{name}.log").read_text(errors="replace")

    def _all_subscribed(self) -> bool:
        statuses = [read_status(site.state) for site in self.plant.sites]
        return all(status is not None and status.source == "subscribed" for status in statuses)

    async def learn(self, view: LiveTerminal) -> None:
        """Let the machines produce and the factories learn until training closes."""
        options = self.plant.options
        self.started_wall = time.time()
        self.links.begin(self.started_wall)
        for site in self.plant.sites:
            await _start_production(site.machine_url)
        moments = [options.stream_s * part / 4 for part in (1, 2, 3, 4)]
        self.processes.start(
            "baselines",
            python("shopfloor.baselines", self.plant.directory, "--seed", options.seed)
            + ["--stream-s", str(options.stream_s)]
            + ["--moments", ",".join(f"{moment:.2f}" for moment in moments)],
            ends=True,
        )
        self.phase = "learning"
        kills = self._kill_times()
        while self.t_s < options.learn_s:
            if kills and self.t_s >= kills[0][0]:
                self._kill(kills.pop(0)[1])
            await self._show(view)
        set_training(self.plant.coordinator_config, "closed")

    async def drain(self, view: LiveTerminal) -> None:
        """Wait until every update has its outcome and the last average was judged."""
        self.phase = "draining outboxes"
        deadline = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline:
            await self._show(view)
            if self._is_settled() and (self.plant.directory / RESULT).exists():
                break
        await self._show(view)

    def _is_settled(self) -> bool:
        statuses = [read_status(site.state) for site in self.plant.sites]
        for status in statuses:
            if status is None or status.learning != "training is closed":
                return False
            if sum(_terminal(status).values()) != status.produced:
                return False
        head = self.ledger.heads[-1] if self.ledger.heads else {}
        return head.get("training") == "closed" and "candidate" not in head

    # Faults

    def _kill_times(self) -> list[tuple[float, str]]:
        rng = random.Random(self.plant.options.seed)  # noqa: S311  a schedule, not a secret
        victims = ["coordinator", *(site.name for site in self.plant.sites)]
        number, learn_s = self.plant.options.kills, self.plant.options.learn_s
        times = sorted(rng.uniform(0.15, 0.95) * learn_s for _ in range(number))
        return [(at, victims[index % len(victims)]) for index, at in enumerate(times)]

    def _kill(self, victim: str) -> None:
        child = self._coordinator if victim == "coordinator" else self._agents[victim]
        if child is not None and child.process is not None and child.pid:
            child.process.kill()
            name = "the coordinator" if victim == "coordinator" else f"the agent of {victim}"
            self._tell(f"kill -9 of {name}")

    def _tell(self, text: str) -> None:
        self.events.append(Event(round(self.t_s, 1), text))
        self.message = text

    # Watching

    async def _show(self, view: LiveTerminal) -> None:
        for fact in self.ledger.read_new():
            if fact["kind"] == "head":
                self._judge_head(fact)
        self.links.read_new()
        self._print_rounds()
        view.update(self._fleet())
        await asyncio.sleep(_VIEW_S)

    def _print_rounds(self) -> None:
        """Repeat the coordinator's evaluation after each synchronous round."""
        if self.plant.options.strategy != "fedavg":
            return
        log = self.plant.directory / "coordinator.log"
        lines = [line for line in log.read_text().splitlines() if line.startswith("round ")]
        for line in lines[self._printed :]:
            self.message = line
            print(line, flush=True)
        self._printed = len(lines)

    def _judge_head(self, fact: dict[str, object]) -> None:
        """Judge every average that a head names, on rows that no agent saw."""
        for name in ("serve", "candidate"):
            named = fact.get(name)
            if not isinstance(named, list) or named[1] in self._judged:
                continue
            version, digest = int(named[0]), str(named[1])
            params = self._params(version, digest)
            if params is None:
                continue
            result = self._judged[digest] = judge(self._model, params, self._held_out)
            t_s = max(0.0, float(str(fact["wall"])) - self.started_wall) if self.t_s else 0.0
            point = QualityPoint(t_s, version, result.pr_auc, result.roc_auc, result.per_site)
            self.quality.append(point)

    def _params(self, version: int, digest: str) -> Params | None:
        if version == 0:
            return self._start
        if not self.ledger.has_model(digest):
            return None
        return read_model(self.ledger, digest, self._model.manifest.shapes)

    def _fleet(self) -> FleetView:
        head = self.ledger.heads[-1] if self.ledger.heads else {}
        train, serve = _version(head, "train"), _version(head, "serve")
        options = self.plant.options
        return FleetView(
            t_s=self.t_s,
            total_s=options.learn_s + 15.0,
            phase=self.phase,
            sites=[self._site_view(site, train) for site in self.plant.sites],
            train_version=train,
            serve_version=serve,
            updates=self._counts(),
            pr_auc_history=[point.pr_auc for point in self.quality],
            message=self.message,
        )

    def _site_view(self, site: Site, train: int | None) -> SiteView:
        status = read_status(site.state) or Status(
            agent=site.agent, site=site.name, federation=FEDERATION, pid=0
        )
        base = status.train_version
        served = [point for point in self.quality if point.version == status.serve_version]
        return SiteView(
            site=site.name,
            rows=status.samples,
            windows=status.rows,
            outbox=status.produced - sum(_terminal(status).values()),
            link_up=not self.links.is_down(site.name),
            base_version=base,
            staleness=(train - base) if train is not None and base is not None else 0,
            served_version=status.serve_version,
            pr_auc=served[-1].per_site[site.name].pr_auc if served else None,
            score=status.score,
            produced=status.produced,
            folded=status.outcomes.get("folded", 0),
            note=status.learning if status.learning == "training" else "",
        )

    def _counts(self) -> UpdateCounts:
        statuses = [read_status(site.state) for site in self.plant.sites]
        known = [status for status in statuses if status is not None]
        outcomes = [_terminal(status) for status in known]
        return UpdateCounts(
            produced=sum(status.produced for status in known),
            **{name: sum(counts[name] for counts in outcomes) for name in _OUTCOMES},
        )

    # The end

    def record(self) -> RunRecord:
        """The record of a finished run."""
        baselines = msgspec.json.decode(
            (self.plant.directory / RESULT).read_bytes(), type=list[BaselinePoint]
        )
        end_s = self.t_s
        produced = self.produced()
        store = Store(self.plant.coordinator_state / DATABASE)
        told = account(set(produced), self.ledger)
        counts = UpdateCounts(
            produced=told.produced,
            **told.by_outcome,
            duplicates=store.counts()["duplicates"],
            lost=told.lost,
        )
        saved = store.load()
        versions = saved.version if saved else 0
        serve = saved.serve.version if saved else 0
        store.close()
        self._late_events()
        shares = {site.name: self.links.down_share(site.name, end_s) for site in self.plant.sites}
        return RunRecord(
            seed=self.plant.options.seed,
            data=self.plant.options.data.name if self.plant.options.data else "generated",
            strategy=self.plant.options.strategy,
            wall_s=round(end_s, 2),
            sites=[self._summary(site, produced, shares[site.name]) for site in self.plant.sites],
            quality=self.quality,
            baselines=baselines,
            outages=self.links.outages(end_s),
            traffic=self.links.traffic,
            updates=counts,
            bytes_per_update=self.ledger.bytes_up / max(1, told.produced),
            link_down_share=sum(shares.values()) / len(shares),
            versions=versions,
            serve_version=serve,
            events=sorted(self.events, key=lambda event: event.t_s),
        )

    def produced(self) -> dict[UpdateId, tuple[str, int, int]]:
        """Every update of every agent, from their outboxes: (status, base version, version)."""
        produced: dict[UpdateId, tuple[str, int, int]] = {}
        for site in self.plant.sites:
            outbox = Outbox(site.state / "outbox.db", 1 << 40)
            for sequence, status, base, version in outbox.account():
                produced[(site.agent, outbox.incarnation, sequence)] = (status, base, version)
            outbox.close()
        return produced

    def _summary(
        self, site: Site, produced: dict[UpdateId, tuple[str, int, int]], down_share: float
    ) -> SiteSummary:
        own = [value for key, value in produced.items() if key[0] == site.agent]
        folded = [value for value in own if value[0] == "folded"]
        stale = [version - 1 - base for _, base, version in folded]
        return SiteSummary(
            site=site.name,
            rows=len(site.train),
            failures=int(site.train.machine_failure.sum()),
            held_out_rows=len(site.held_out),
            held_out_failures=int(site.held_out.machine_failure.sum()),
            produced=len(own),
            folded=len(folded),
            staleness_mean=sum(stale) / len(stale) if stale else None,
            link_down_share=down_share,
        )

    def _late_events(self) -> None:
        """Tell of the updates that an outage held up longest."""
        ends_s = self.t_s
        for outage in sorted(self.links.outages(ends_s), key=lambda o: o.down_s - o.up_s)[:3]:
            length = outage.up_s - outage.down_s
            text = f"the link of {outage.site} was down for {length:.1f} s"
            self.events.append(Event(round(outage.down_s, 1), text))


_OUTCOMES = ("folded", "refused", "void", "dropped")


def _terminal(status: Status) -> dict[str, int]:
    return {name: status.outcomes.get(name, 0) for name in _OUTCOMES}


def _version(head: dict[str, object], name: str) -> int | None:
    named = head.get(name)
    return int(named[0]) if isinstance(named, list) else None


async def run_demo(plant: Plant) -> RunRecord:
    """Run the demo on a laid-out plant.

    Raises:
      ChildError: a process of the demo ended or never got ready; all others are stopped.
    """
    processes = Processes(plant.directory)
    run = Run(
        plant,
        processes,
        Ledger(plant.directory / "witness"),
        LinkLog(plant.directory / "links.jsonl"),
    )
    try:
        with LiveTerminal() as view:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(processes.watch(), name="watch")
                await run.start()
                await run.learn(view)
                await run.drain(view)
                watch.cancel()
    except* ChildError as group:
        raise group.exceptions[0] from None
    finally:
        processes.stop()
    run.ledger.read_new()
    return run.record()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def _start_production(url: str) -> None:
    """Call the machine's method StartProduction, as an operator would."""
    async with Client(url) as client:
        index = await client.get_namespace_index(NAMESPACE_URI)
        machine = client.get_node(ua.NodeId("Machine", index))
        await machine.call_method(f"{index}:StartProduction")

"""What an agent is made of: the only place that wires, by settings that may change.

sources ─ acquisition ─► rows ─► history (durable) ─► learn ─► outbox (durable) ─► connection
              │           └──► score what is served ─► outputs for PLCs and people    ║ MQTT
              └► samples (durable)        ▲ adoption ◄── head, bundle, model ◄────────╝
"""

import asyncio
import logging
import os
import random
from collections.abc import Sequence
from pathlib import Path

from agent.acquisition import Acquisition
from agent.adoption import Adoption
from agent.budget import Budget
from agent.config import AgentSettings, Identity
from agent.connection import SOFTWARE, Connection
from agent.delivery import Schedule
from agent.devices import source_of
from agent.devices.task import DeviceTask
from agent.egress import FILE_NAME as EGRESS
from agent.egress import Egress
from agent.explaining import Explaining
from agent.figures import MaskedFigures
from agent.health import Board, Progress, serve_health
from agent.history import History
from agent.labels import Labels
from agent.learner import Learner
from agent.learning.limits import IDLE, LOW
from agent.learning.place import training_place
from agent.local_tensors import LocalTensors
from agent.models import Models
from agent.orders import Operator, Orders
from agent.outbox import Outbox
from agent.own_privacy import open_privacy
from agent.personal import Personal
from agent.remote import RemoteTables
from agent.renewal import Renewal
from agent.reporting import Reporting
from agent.restartable import Restartable
from agent.samples import SampleStore
from agent.scoring import Scoring
from agent.sensors.source import SourceContext
from agent.serve import Outputs
from agent.serve.score import Score
from agent.signals.cutting import RowCutter
from agent.signals.quality import Quality
from agent.status import Status
from agent.turn import Turn
from agent.unfinished import Unfinished
from wire.codec import Counter
from wire.errors import SettingsError
from wire.signing import parse_public_key

logger = logging.getLogger(__name__)


class Parts:
    """The owners of one agent's files and work; nothing runs yet.

    Args:
      config: the configuration file.
      settings: what it says.
      identity: who the agent is.
      state: its state directory, locked by this process.

    Raises:
      DiskError: the directory can not be used.
    """

    def __init__(
        self, config: Path, settings: AgentSettings, identity: Identity, state: Path
    ) -> None:
        self.config, self.identity, self.state = config, identity, state
        self.remote, self.operator = RemoteTables(state), Operator()
        self.orders = Orders(state, self.remote, settings.remote.allow, self.operator)
        self.settings = settings = _over(self.remote, settings)
        self.names = names = [channel.name for channel in settings.channels]
        cutting = settings.cutting
        self.egress = Egress(state / EGRESS)
        self.labels = Labels(state / "labels.db", settings.labels, names, config.parent)
        self.history = _open_history(settings, state, names, self.labels)
        self.outbox = Outbox(state / "outbox.db", settings.outbox.quota_bytes)
        self.models = Models(state / "models.db")
        self.local_tensors = LocalTensors(state)
        self.adoption = Adoption(
            self.models,
            identity.trust,
            names,
            settings.training.scoring_backend,
            self.local_tensors,
            cutting.shapes,
        )
        self.turn = Turn(state, self.history.training_rows(), self.adoption.changed)
        self.progress = Progress()
        self.board = Board(self.progress, SOFTWARE, settings.metrics.channels)
        self.process = training_place(
            settings.training.process,
            settings.training.backend,
            memory_bytes=settings.training.memory_bytes,
            idle_s=settings.training.idle_s,
            nice=IDLE if settings.training.priority == "idle" else LOW,
        )
        self.budget = Budget(settings.training.budget)
        self.privacy = open_privacy(settings.privacy, self.outbox, state)
        self.personal = Personal(
            self.adoption,
            self.history,
            self.process,
            identity.agent,
            settings.personal,
            state,
            lambda: self.turn.is_training or self.operator.paused,
            lambda: self.budget.reason,
        )
        self.made = asyncio.Event()
        self.status = _first_status(identity)
        self.context = SourceContext(config.parent, state, identity.agent)
        self.outputs = self._new_outputs()
        units = [channel.unit for channel in settings.channels]
        self.explaining = Explaining(units, settings.scores)
        self.scoring = Scoring(
            self.adoption,
            self.personal,
            units,
            self.status,
            self._give_scores,
            self.explaining,
        )
        self.cutter = RowCutter(cutting)
        self.acquisition = self._new_acquisition()
        self.connection = self._new_connection()
        self.counter = Counter(self.outbox.next_session())
        self.learner = self._new_learner()
        self.devices = self._new_devices()
        self.score_out = Restartable(self._run_outputs)
        self.tell_health = Restartable(
            lambda: serve_health(self.board, self.settings.metrics, self.egress)
        )

    def apply(self, now: AgentSettings) -> None:
        """Give every owner its settings as they are now; `agent/reload.py` says which can be."""
        before, self.settings = self.settings, now
        for at, (old, new) in enumerate(zip(before.sources, now.sources, strict=True)):
            if old.settings != new.settings:
                self.acquisition.change(at, new)
        self.cutter.judge_by(now.cutting)
        training = now.training
        self.process.limit(memory_bytes=training.memory_bytes, idle_s=training.idle_s)
        self.budget.limit(training.budget)
        self.learner.pause_s, self.personal.table = training.pause_s, now.personal
        self.history.resize(now.history.capacity_rows, now.history.capacity_bytes)
        self.outbox.quota_bytes = now.outbox.quota_bytes
        self.learner.chunk_bytes = self.connection.chunk_bytes = now.outbox.chunk_bytes
        self.orders.allow = now.remote.allow
        self.explaining.table = now.scores
        if (now.scores, now.opcua_sources) != (before.scores, before.opcua_sources):
            self.outputs = self._new_outputs()
            self.score_out.restart()
        if now.metrics != before.metrics:
            self.tell_health.restart()
        if now.broker != before.broker:
            self.connection.use(now.broker)

    def _new_acquisition(self) -> Acquisition:
        settings = self.settings
        return Acquisition(
            settings.sources,
            self.context,
            self.cutter,
            SampleStore(self.state / "samples", self.names, settings.store),
            Quality(self.names, _clocks(settings)),
            self.status,
            self.progress,
        )

    def _new_connection(self) -> Connection:
        settings, root = self.settings, parse_public_key(self.settings.trust.root)
        return Connection(
            settings.broker,
            self.identity,
            self.outbox,
            Reporting(self.adoption, self.history, self.personal, MaskedFigures(self.identity)),
            self.turn,
            self.adoption,
            self.orders,
            self.status,
            Schedule(self.outbox.open_updates(), random.Random()),  # noqa: S311  jitter only
            self.made,
            Renewal(self.identity, root, self.state, self.status),
            self.progress,
            settings.outbox.chunk_bytes,
            meter_of=lambda broker: self.egress.broker(broker.host, broker.port),
            told=self._follow,
            on_mark=self.privacy.on_mark,
        )

    def _follow(self, identity: Identity) -> None:
        """Go on by a newer charter or credential: keys, names and files are the same."""
        self.identity = self.learner.identity = identity

    def _new_learner(self) -> Learner:
        settings = self.settings
        return Learner(
            self.adoption,
            self.history,
            self.outbox,
            self.process,
            self.identity,
            self.counter,
            self.operator,
            self.status,
            settings.training.pause_s,
            self.made,
            Unfinished(self.state),
            self.turn,
            chunk_bytes=settings.outbox.chunk_bytes,
            progress=self.progress,
            budget=self.budget,
            privacy=self.privacy,
        )

    def _new_devices(self) -> list[DeviceTask]:
        """Microcontrollers that run what is served; a checked file has a source for each."""
        settings, history = self.settings, self.history
        found = [(each, source_of(each, settings.firmware_sources)) for each in settings.device]
        return [
            DeviceTask(
                table,
                source,
                str(self.config.parent / table.socket),
                self.adoption,
                self.personal.serving,
                lambda stretches: history.read(held_out=False, in_stretches=stretches),
                self.state,
            )
            for table, source in found
            if source is not None
        ]

    def _new_outputs(self) -> Outputs:
        settings, site = self.settings, self.identity.credential.site
        return Outputs(settings.scores, self.context, site, settings.opcua_sources, self.egress)

    def _give_scores(self, scores: Sequence[Score]) -> None:
        self.outputs.take(scores)

    async def _run_outputs(self) -> None:
        await self.outputs.run()


def _over(remote: RemoteTables, settings: AgentSettings) -> AgentSettings:
    """The settings to begin with; what was ordered is left out if it no longer fits the file."""
    try:
        return remote.over(settings)
    except SettingsError as error:
        logger.error("what the coordinator ordered is left out: %s", error)  # noqa: TRY400
        return settings


def _open_history(
    settings: AgentSettings, state: Path, names: list[str], labels: Labels
) -> History:
    table = settings.history
    return History(
        state / "history.db",
        names,
        table.capacity_rows,
        table.holdout_share,
        shapes=settings.cutting.shapes,
        capacity_bytes=table.capacity_bytes,
        holdout_stretch_s=table.holdout_stretch_s,
        relabel=labels.relabel,
    )


def _first_status(identity: Identity) -> Status:
    return Status(
        agent=identity.agent,
        site=identity.credential.site,
        federation=identity.trust.federation,
        pid=os.getpid(),
    )


def _clocks(settings: AgentSettings) -> list[int]:
    """Which source's clock each channel has; labels have one of their own."""
    of = [at for at, source in enumerate(settings.sources) for _ in source.channels]
    return of + [len(settings.sources)] * (len(settings.channels) - len(of))

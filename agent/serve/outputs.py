"""Where scores leave the agent: the owner of all outputs.

`take` never waits: each output has an inbox of its own, bounded, and what does not fit is dropped
and counted.  No output ends the agent: a broker or a server that is away, an address that is
taken, a refused write are in the reports.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence

from agent.egress import Egress
from agent.sensors.opcua.settings import OpcUaSettings
from agent.sensors.source import SourceContext
from agent.serve.inbox import Inbox, OutputReport
from agent.serve.mqtt import MqttOutput, with_files_of
from agent.serve.score import Score
from agent.serve.settings import MqttSettings, OpcUaServerSettings, ScoresTable

Run = Callable[[], Coroutine[None, None, None]]


class Outputs:
    """All that is configured in `[scores]`.

    Args:
      settings: the table.
      context: folders and the agent's name.
      site: where the agent is.
      sources: the configured OPC UA sources; write-back uses their endpoints and security.
      egress: counts what is sent.

    Attributes:
      reports: what each output says about itself.
    """

    def __init__(
        self,
        settings: ScoresTable,
        context: SourceContext,
        site: str,
        sources: Sequence[OpcUaSettings] = (),
        egress: Egress | None = None,
    ) -> None:
        self._settings, self._context = settings, context
        self._egress = egress or Egress()
        self._inboxes: list[Inbox] = []
        self._runs: list[Run] = []
        self.reports: list[OutputReport] = []
        if settings.mqtt is not None:
            self._add_mqtt(settings.mqtt, site)
        if settings.opcua is not None:
            self._add_opcua(settings.opcua)
        for source in sources:
            self._add_write_back(source)

    def take(self, scores: Sequence[Score]) -> None:
        """Give these scores to every output; does not wait."""
        for inbox in self._inboxes:
            for score in scores:
                inbox.put(score)

    def health(self, text: str) -> None:
        """Say how the agent is: `ok`, or what is wrong, to whoever reads scores."""
        for inbox in self._inboxes:
            inbox.put_health(text)

    async def run(self) -> None:
        """Run all outputs until cancelled; return at once where there are none."""
        async with asyncio.TaskGroup() as tasks:
            for run in self._runs:
                tasks.create_task(run(), name=f"scores: {run.__qualname__}")

    def _add_mqtt(self, settings: MqttSettings, site: str) -> None:
        inbox, report = self._add(f"mqtt {settings.host}:{settings.port}")
        credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
        settings = with_files_of(settings, self._context.config_dir, credentials)
        output = MqttOutput(
            settings, inbox, report, self._egress, site=site, agent=self._context.agent
        )
        self._runs += [output.keep_connected, output.publish]

    def _add_opcua(self, settings: OpcUaServerSettings) -> None:
        from agent.serve.opcua_server import OpcUaOutput  # noqa: PLC0415 - some 15 MB

        inbox, report = self._add(f"opcua {settings.listen}")
        stale_after_s = self._settings.stale_after_s
        output = OpcUaOutput(
            settings, inbox, report, self._context, stale_after_s, self._egress.count_client
        )
        self._runs.append(output.run)

    def _add_write_back(self, source: OpcUaSettings) -> None:
        targets = [
            target
            for target in self._settings.write_back
            if target.enabled and target.endpoint == source.endpoint
        ]
        if targets:
            from agent.serve.write_back import WriteBackOutput  # noqa: PLC0415 - only where used

            inbox, report = self._add(f"write-back {source.endpoint}")
            output = WriteBackOutput(source, targets, inbox, report, self._context, self._egress)
            self._runs.append(output.run)

    def _add(self, name: str) -> tuple[Inbox, OutputReport]:
        report = OutputReport(name)
        inbox = Inbox(self._settings.queue, report)
        self.reports.append(report)
        self._inboxes.append(inbox)
        return inbox, report

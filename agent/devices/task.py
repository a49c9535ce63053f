"""The task for one `[[device]]`: it connects to the bridge, and brings the device what is served.

What the bridge, its lines and the device do ends in the report, never in an error of the agent.  A
new model is made when another is served, the last one has come to its end, and `rest_s` is over.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.devices.course import Course
from agent.devices.folding import LaterError, NotForDevicesError
from agent.devices.kept import Kept, KeptFile
from agent.devices.making import Beside, FloatModel, key_of, made
from agent.devices.report import DeviceReport
from agent.devices.settings import DeviceTable
from agent.own_model import Serving
from agent.sensors.firmware import FirmwareSettings
from agent.sensors.firmware.client import BridgeClient, BridgeLostError, bridge_client
from agent.sensors.firmware.settings import field_of
from agent.signals.rows import Rows
from wire.bridge import Devices, DeviceState, Scores
from wire.errors import WireError
from wire.reconnecting import Reconnecting

logger = logging.getLogger(__name__)

_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.2, 5.0
_LOOK_S: Final = 1.0
_AGAIN_S: Final = 5.0
"""After a try that failed for want of rows."""


class DeviceTask:
    """One device.

    Args:
      table: its settings.
      source: the `[[source.firmware]]` of the same stream, which names the channels.
      socket: the bridge's.
      adoption: the head in use.
      serving: which model scores while a head is in use.
      rows: of this agent, to choose int8 ranges by: for a model of windows, or of rows.
      state: the agent's state directory.
    """

    def __init__(
        self,
        table: DeviceTable,
        source: FirmwareSettings,
        socket: str,
        adoption: Adoption,
        serving: Callable[[Adopted], Serving],
        rows: Callable[[bool], Rows],
        state: Path,
    ) -> None:
        self._table, self._source, self._socket = table, source, socket
        self._adoption, self._serving, self._rows = adoption, serving, rows
        self.report = DeviceReport(name=table.device)
        last = KeptFile(state, table.socket, table.device)
        good = KeptFile(state, table.socket, table.device, "good")
        self._course = Course(table, self.report, last, good, self._beside)
        self._float: tuple[Kept, FloatModel] | None = None
        self._device: DeviceState | None = None
        self._rests_until_s = 0.0
        self._lacking = ""

    async def run(self) -> None:
        """Work for ever."""
        waits = Reconnecting(_FIRST_RETRY_S, _LONGEST_RETRY_S, random.Random())  # noqa: S311  jitter only
        while True:
            began_s = time.monotonic()
            try:
                async with bridge_client(self._socket) as client:
                    self._course.forget_bridge()
                    await self._serve(client)
            except (BridgeLostError, WireError) as error:
                self._device = None
                self.report.state = f"no bridge: {error}"
            await asyncio.sleep(waits.wait_s(time.monotonic() - began_s))

    async def _serve(self, client: BridgeClient) -> None:
        """Talk until the bridge is gone.

        Raises:
          BridgeLostError: it is.
          TooLargeError: the model is over the bridge's cap.
        """
        looked_s = 0.0
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    messages = await client.read()
            except TimeoutError:
                messages = []
            for message in messages:
                if isinstance(message, Devices):
                    self._see(message)
                for order in self._course.take(message):
                    await client.send(order)
            if time.monotonic() - looked_s >= _LOOK_S:
                looked_s = time.monotonic()
                self.report.state = await self._look(client)

    def _see(self, message: Devices) -> None:
        name = self._table.device
        self._device = next((each for each in message.devices if each.name == name), None)

    async def _look(self, client: BridgeClient) -> str:
        """Do what is to be done; return what is going on."""
        device, adopted = self._device, self._adoption.current
        if device is None:
            return f"the bridge has no device {self._table.device!r}"
        if device.state != "connected" or not device.id:
            return device.state
        # What is there already comes first: also the agreement of a model that runs is watched.
        offer = self._course.next_offer()
        if offer is not None:
            await client.send(offer)
            return "offered"
        if self._course.is_under_way:
            return self.report.stage or "at the gate"
        if adopted is None or adopted.unready:
            return adopted.unready if adopted is not None else "waiting for a model"
        return await self._renew(adopted, device)

    async def _renew(self, adopted: Adopted, device: DeviceState) -> str:
        """Make another model if another one is served; return what is going on."""
        serving, report = self._serving(adopted), self.report
        try:
            channels = self._channels(device)
        except NotForDevicesError as error:
            return str(error)
        key = key_of(adopted, serving, channels)
        if self._course.has_seen(key):
            words = [report.stage] if report.stage == "confirmed" else []
            words += [f"rejected: {report.reason}"] if report.reason else []
            return "; ".join(words)
        if time.monotonic() < self._rests_until_s:
            return self._lacking or f"{report.stage}; another version is served, it comes later"
        try:
            kept = await made(adopted, serving, channels, self._rows(adopted.in_stretches))
        except LaterError as error:
            self._rests_until_s = time.monotonic() + _AGAIN_S
            self._lacking = str(error)
            return self._lacking
        except NotForDevicesError as error:
            version = adopted.head.serve.version
            kept = Kept(key, adopted.head.bundle.digest, version, rejected=str(error)[:1000])
        self._lacking = ""
        self._course.renew(kept)
        self._rests_until_s = time.monotonic() + self._table.rest_s
        return f"rejected: {kept.rejected}" if kept.rejected else "exported"

    def _channels(self, device: DeviceState) -> list[str]:
        """The stream's channels by the federation's names, in its order.

        Raises:
          NotForDevicesError: one of them is none of the source's.
        """
        table = self._table
        stream = next((each for each in device.streams if each.name == table.stream), None)
        if stream is None:
            raise NotForDevicesError(f"{device.name} has no stream {table.stream!r}")
        names = {field_of(channel): channel.name for channel in self._source.channel}
        missing = [field for field in stream.channels if field not in names]
        if missing:
            raise NotForDevicesError(
                f"the device's model sees all of the stream, and [[source.firmware]] has no "
                f"{', '.join(missing)}"
            )
        return [names[field] for field in stream.channels]

    def _beside(self, said: Scores) -> Beside | None:
        """Compare with the float model of what the device was given."""
        kept, adopted = self._course.kept, self._adoption.current
        if kept is None or adopted is None or adopted.head.bundle.digest != kept.bundle:
            return None
        if self._float is None or self._float[0] is not kept:
            self._float = (kept, FloatModel(adopted.model, kept))
        return self._float[1].beside(said)

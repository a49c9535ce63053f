"""All devices of all lines: what agents are told about them, and what they may ask of them.

One place that knows a device by its name.  Events of lines become messages of `wire/bridge.py`,
orders of agents become deployments; no I/O.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from firmware_bridge.device import CONNECTED, Device
from firmware_bridge.events import Deployed, Event, Said, Sampled, Scored
from firmware_bridge.link import Link
from firmware_bridge.messages import SlotState as State
from firmware_bridge.place import Place
from firmware_bridge.reference import Reference
from firmware_bridge.settings import DeviceTable, LineTable
from firmware_bridge.streams import StreamMaker
from firmware_bridge.upload import Stage, Upload
from firmware_bridge.utc import UtcDifference
from wire.bridge import (
    Confirm,
    Deploy,
    Deployment,
    DeviceState,
    FromBridge,
    Rollback,
    Samples,
    SlotState,
    StreamState,
)


@dataclass(frozen=True)
class Known:
    """A configured device.

    Attributes:
      table: its configuration.
      line: name of its line.
      device: the talk with it.
      streams: what becomes of its samples.
      reference: what its model should say.
      problem: why its line is down; empty while it is up.
    """

    table: DeviceTable
    line: str
    device: Device
    streams: StreamMaker
    reference: Reference
    problem: Callable[[], str]

    @property
    def state(self) -> str:
        """`connected`, or why not."""
        return self.problem() or self.device.state


def make_devices(table: LineTable, byte_us: float, number: int) -> dict[int, Device]:
    """The devices of one line, by address.

    Args:
      table: the line's.
      byte_us: what a byte takes on it.
      number: of the first request.
    """
    return {
        each.address: Device(
            Place(each.address, bytes.fromhex(each.id), byte_us, table.poll_interval_ms * 1000),
            number,
        )
        for each in table.device
    }


class Devices:
    """The devices by name.

    Args:
      utc: of this gateway.
    """

    def __init__(self, utc: UtcDifference) -> None:
        self._utc = utc
        self._known: dict[str, Known] = {}
        self._of: dict[int, Known] = {}  # by identity of the Device
        self._told_stage: dict[str, Stage] = {}

    def add(self, table: LineTable, link: Link, problem: Callable[[], str]) -> None:
        """Take the devices of one line.

        Args:
          table: its configuration.
          link: its devices.
          problem: says why the line is down; empty while it is up.
        """
        for each in table.device:
            device = link.device(each.address)
            streams = StreamMaker(each, self._utc)
            known = Known(each, table.name, device, streams, Reference(), problem)
            self._known[each.name] = known
            self._of[id(device)] = known

    def __iter__(self) -> Iterator[Known]:
        return iter(self._known.values())

    def told(self, device: Device, event: Event) -> list[FromBridge]:
        """What agents get of an event."""
        known = self._of[id(device)]
        if isinstance(event, Sampled):
            return _sampled(known, event)
        if isinstance(event, Scored):
            scores = known.streams.scores(event)
            return [] if scores is None else [*known.reference.scored(event.score, scores)]
        if isinstance(event, Deployed):
            return [
                Deployment(
                    known.table.name,
                    event.sha256,
                    event.stage.value,
                    event.received_bytes,
                    event.size_bytes,
                    event.reason,
                )
            ]
        return []

    def log_line(self, device: Device, event: Event) -> str:
        """What the log gets of an event; empty for most."""
        name = self._of[id(device)].table.name
        if isinstance(event, Said):
            return f"{name} says: {event.text}"
        if isinstance(event, Sampled | Scored):
            return ""
        if isinstance(event, Deployed):
            told = self._told_stage.get(name)
            self._told_stage[name] = event.stage
            if told is event.stage:
                return ""
            reason = f" ({event.reason})" if event.reason else ""
            part = f"{event.received_bytes} of {event.size_bytes} bytes"
            return f"{name}: model {event.sha256.hex()[:16]} {event.stage.value}, {part}{reason}"
        return f"{name}: {event.state}"

    def states(self) -> tuple[DeviceState, ...]:
        """How all devices are."""
        return tuple(_state(known) for known in self)

    def order(self, order: Deploy | Confirm | Rollback) -> Deployment | None:
        """Carry out what an agent wants; gives the answer where it can not be."""
        known = self._known.get(order.device)
        if isinstance(order, Deploy):
            upload = Upload(order.content, order.trial_s)
        else:
            upload = Upload(b"", sha256=order.sha256)
        if known is None:
            reason = "there is no device of this name"
        else:
            reason = _not_possible(known.device, upload)
        if known is None or reason:
            return Deployment(order.device, upload.sha256, "failed", 0, upload.size_bytes, reason)
        if isinstance(order, Deploy):
            known.reference.learn(order.content)
        _carry_out(known.device, order, upload)
        return None


def _not_possible(device: Device, upload: Upload) -> str:
    """Why a device that was seen can not take a model; empty where it may."""
    seen = device.known
    if seen is None:
        return ""
    if not seen.has_slots:
        return "this device takes no models"
    if upload.size_bytes > seen.slot_bytes:
        return f"{upload.size_bytes} bytes; its slots have room for {seen.slot_bytes}"
    return ""


def _sampled(known: Known, event: Sampled) -> list[FromBridge]:
    """The samples, their gap before them, and behind them the scores of rows that they complete."""
    told: list[FromBridge] = [*known.streams.take(event)]
    if told and isinstance(samples := told[-1], Samples):
        told += known.reference.sampled(
            event.sensor, samples.array, is_after_reset=event.is_after_reset
        )
    return told


def _carry_out(device: Device, order: Deploy | Confirm | Rollback, upload: Upload) -> None:
    under_way = device.upload
    is_same = under_way is not None and under_way.sha256 == upload.sha256
    if isinstance(order, Deploy):
        if not is_same or under_way is None or under_way.has_ended:
            device.deploy(upload)
        return
    if not is_same or under_way is None or under_way.has_ended:
        device.deploy(upload)
    if isinstance(order, Confirm):
        device.confirm()
    elif isinstance(order, Rollback):
        device.leave()


def _state(known: Known) -> DeviceState:
    device, table = known.device, known.table
    seen, slots = device.known, device.slots
    return DeviceState(
        name=table.name,
        line=known.line,
        address=table.address,
        state=known.state,
        id=seen.id.hex() if seen else "",
        firmware=seen.firmware if seen else "",
        window=seen.window if seen else 0,
        slot_bytes=seen.slot_bytes if seen and seen.has_slots else 0,
        arena_bytes=seen.arena_bytes if seen else 0,
        ops=seen.ops if seen else 0,
        active=slots.active if slots else None,
        slots=tuple(
            SlotState(_words(each.state), each.size_bytes, each.received_bytes, each.sha256)
            for each in (slots.slots if slots else ())
        ),
        clock_error_us=device.clock.error_us if device.state == CONNECTED else None,
        drift_ppm=device.clock.drift_ppm,
        streams=tuple(
            StreamState(
                stream.name,
                tuple(channel.name for channel in stream.channel),
                tuple(channel.unit for channel in stream.channel),
            )
            for stream in table.stream
        ),
        figures=figures(known),
    )


def _words(state: State) -> str:
    return state.name.lower().replace("_", " ")


def figures(known: Known) -> dict[str, int]:
    """Counters of a device since the bridge started."""
    streams = known.streams
    return {
        **asdict(known.device.figures),
        "unknown_streams": streams.unknown,
        "misshapen": streams.misshapen,
        "samples": streams.samples,
        "gaps": streams.gaps,
        "lost_samples": streams.lost,
    }

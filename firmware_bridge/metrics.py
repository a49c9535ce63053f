"""What `/metrics` tells: lines, devices and clients in figures.  Pure.

Names and labels as in the agent's: no measured value, only how much there is of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from firmware_bridge.devices import Known, figures
from firmware_bridge.link import Link
from wire.exposition import Kind, Sample, family

_WELL: Final = "connected"
_HELP: Final = {
    "frames": "Frames that the device sent of its own accord.",
    "missing": "Frames that its numbering shows to be lost.",
    "malformed": "Payloads that are not what their type says.",
    "untimed": "Frames with samples that came before its clock was known.",
    "resets": "Resets that were seen.",
    "connections": "Times that it was connected.",
    "unexpected": "Answers to nothing.",
    "repeated": "Requests that were sent again.",
    "unknown_streams": "Frames of streams that are not configured.",
    "misshapen": "Frames with another number of channels than configured.",
    "samples": "Samples that came.",
    "gaps": "How often samples are or may be missing.",
    "lost_samples": "Samples that are known to be missing.",
}


def metric_lines(
    lines: Sequence[tuple[str, Link, bool, int]],
    devices: Iterable[Known],
    clients: int,
    client_dropped: int,
) -> Iterator[str]:
    """All families.

    Args:
      lines: name, link, whether its port is open, and how often it was reopened.
      devices: all.
      clients: that are connected.
      client_dropped: samples that they were too slow for.
    """
    yield from _lines(lines)
    yield from _devices(list(devices))
    yield from _family("clients", "gauge", "Agents that are connected.", [({}, clients)])
    text = "Samples that agents were too slow for."
    yield from _family("client_dropped_samples_total", "counter", text, [({}, client_dropped)])


def _family(name: str, kind: Kind, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    return family(f"journeyman_bridge_{name}", kind, text, samples)


def _lines(lines: Sequence[tuple[str, Link, bool, int]]) -> Iterator[str]:
    up = [({"line": name}, is_open) for name, _, is_open, _ in lines]
    yield from _family("line_open", "gauge", "1 while the port is open.", up)
    reopened = [({"line": name}, float(max(0, count))) for name, _, _, count in lines]
    text = "Times that the port came back."
    yield from _family("line_reopened_total", "counter", text, reopened)
    received = [({"line": name}, link.received_bytes) for name, link, *_ in lines]
    yield from _family("line_received_bytes_total", "counter", "Bytes received.", received)
    sent = [({"line": name}, link.sent_bytes) for name, link, *_ in lines]
    yield from _family("line_sent_bytes_total", "counter", "Bytes sent.", sent)
    errors = [
        ({"line": name, "reason": reason.value}, count)
        for name, link, *_ in lines
        for reason, count in link.decoder.counters.errors.items()
    ]
    text = "What stood between two delimiters and was no frame."
    yield from _family("line_errors_total", "counter", text, errors)
    other = [({"line": name}, link.strangers) for name, link, *_ in lines]
    text = "Frames of devices that are not configured."
    yield from _family("line_unknown_devices_total", "counter", text, other)


def _devices(devices: Sequence[Known]) -> Iterator[str]:
    labels = [({"device": each.table.name}, each) for each in devices]
    up = [(label, each.state == _WELL) for label, each in labels]
    yield from _family("device_connected", "gauge", "1 while it answers.", up)
    errors = [
        (label, each.device.clock.error_us / 1e6)
        for label, each in labels
        if each.device.clock.error_us is not None
    ]
    text = "Standard error of its samples' times."
    yield from _family("device_clock_error_seconds", "gauge", text, errors)
    drifts = [
        (label, each.device.clock.drift_ppm)
        for label, each in labels
        if each.device.clock.drift_ppm is not None
    ]
    text = "By how much its clock is fast, in millionths."
    yield from _family("device_clock_drift_ppm", "gauge", text, drifts)
    dropped = [(label, each.device.figures.dropped) for label, each in labels]
    text = "Frames that its own queue could not hold, since its reset."
    yield from _family("device_dropped_frames", "gauge", text, dropped)
    counted = [(label, figures(each)) for label, each in labels]
    for name, text in _HELP.items():
        samples = [(label, float(each[name])) for label, each in counted]
        yield from _family(f"device_{name}_total", "counter", text, samples)

"""One line and its devices: from bytes to events, and which frame is transmitted when.  Pure.

A line with one device (address 0) is used in both directions at once, and several requests may be
open.  A line that several share (RS-485) has one pair of wires: whoever is asked answers, one
exchange at a time, in turns; the next begins when the answer is there, or its time is over, and the
transceiver has turned around.

Frames are handed out one at a time, and only when the transmitter is nearly done with those before
(LEAD_US): what is in the kernel's buffer can not be taken back, and a WRITE that follows a lost one
is sent for nothing.

Refuses: frames without the device's bit (the echo of our own), and addresses that are not
configured; both are counted.
"""

from collections.abc import Mapping
from typing import Final

from firmware_bridge.device import Device
from firmware_bridge.events import Event
from firmware_bridge.frames import DELIMITER, Address, Decoder, Frame, encode

LEAD_US: Final = 3000
"""Longer than an event loop is usually late, shorter than a frame at 921,600 baud."""
_TURNAROUND_BYTES: Final = 4
_TURNAROUND_US: Final = 200
_NOTHING_US: Final = 1_000_000
_SOONEST_US: Final = 500

Told = tuple[Device, Event]


class Link:
    """A line.

    Args:
      devices: by address; one with address 0, or several with others.
      byte_us: what a byte takes; 0 where the line has no rate of its own.

    Attributes:
      decoder: its counters say what the line is like.
      echoes: frames that came back from our own transmitter.
      strangers: frames of devices that are not configured.
      sent_frames: transmitted.
      sent_bytes: transmitted.
      received_bytes: received, whatever they were.
    """

    def __init__(self, devices: Mapping[int, Device], byte_us: float) -> None:
        self._devices = dict(devices)
        self._order = list(self._devices.values())
        self._is_shared = any(each.place.is_shared for each in self._order)
        self._byte_us = byte_us
        self._free_us = 0.0
        self._quiet_us = 0.0
        self._begins = True
        self.decoder = Decoder()
        self.echoes = 0
        self.strangers = 0
        self.sent_frames = 0
        self.sent_bytes = 0
        self.received_bytes = 0

    def device(self, address: int) -> Device:
        """The device with this address.

        Raises:
          KeyError: none has it.
        """
        return self._devices[address]

    def reopened(self, now_us: int) -> None:
        """The port is open again: what was cut is not continued."""
        self.decoder.feed(DELIMITER)
        self._begins, self._free_us, self._quiet_us = True, 0.0, 0.0
        for device in self._order:
            device.reconnect(now_us)

    def receive(self, data: bytes, at_us: int) -> list[Told]:
        """Take what the port gave.

        Args:
          data: any bytes.
          at_us: when they were read; what stands before the last of them came earlier.
        """
        told: list[Told] = []
        self.received_bytes += len(data)
        start = 0
        while start < len(data):
            end = data.find(DELIMITER, start) + 1 or len(data)
            came_us = at_us - (len(data) - end) * self._byte_us
            for item in self.decoder.feed(data[start:end]):
                if isinstance(item, Frame):
                    told += self._take(item, came_us)
            start = end
        return told

    def _take(self, frame: Frame, came_us: float) -> list[Told]:
        if not frame.address & Address.FROM_DEVICE:
            self.echoes += 1
            return []
        device = self._devices.get(frame.address & ~Address.FROM_DEVICE)
        if device is None:
            self.strangers += 1
            return []
        turn_us = max(_TURNAROUND_US, _TURNAROUND_BYTES * self._byte_us)
        self._quiet_us = came_us + turn_us
        return [(device, event) for event in device.receive(frame, came_us)]

    def transmit(self, now_us: int) -> bytes:
        """The next frame to write to the port now; empty for none yet."""
        if now_us < self._free_us - (0 if self._is_shared else LEAD_US):
            return b""
        frame = self._next_shared(now_us) if self._is_shared else self._next_single(now_us)
        if frame is None:
            return b""
        data = encode(frame)
        if self._begins:
            # Noise on the idle line is ended before the first frame.
            self._begins, data = False, DELIMITER + data
        self._free_us = max(float(now_us), self._free_us) + len(data) * self._byte_us
        self.sent_frames += 1
        self.sent_bytes += len(data)
        return data

    def _next_single(self, now_us: int) -> Frame | None:
        is_idle = now_us >= self._free_us
        return self._order[0].next_frame(now_us, is_idle=is_idle) if self._order else None

    def _next_shared(self, now_us: int) -> Frame | None:
        if now_us < self._quiet_us:
            return None
        for device in self._order:
            if device.has_open_request:
                frame = device.next_frame(now_us, is_idle=True)
                if frame is not None or device.has_open_request:
                    return frame
        for _ in self._order:
            self._order.append(device := self._order.pop(0))
            if frame := device.next_frame(now_us, is_idle=True):
                return frame
        return None

    def wake_us(self, now_us: int) -> int:
        """When to call `transmit` again at the latest, if nothing is received before."""
        if not self._order:
            return now_us + _NOTHING_US
        ready_us = self._free_us - (0 if self._is_shared else LEAD_US)
        if now_us < ready_us:
            return int(ready_us) + 1
        if now_us < self._free_us:
            return int(self._free_us) + 1  # what needs an idle line may wait for that
        quiet_us = self._quiet_us if self._is_shared else 0.0
        return max(self._due_us(now_us), int(quiet_us) + 1, now_us + _SOONEST_US)

    def _due_us(self, now_us: int) -> int:
        if self._is_shared:
            for device in self._order:
                if device.has_open_request:
                    return device.wake_us(now_us)
        return min(device.wake_us(now_us) for device in self._order)

    def drain(self, now_us: int) -> list[Told]:
        """Events that nothing received has brought."""
        return [(device, event) for device in self._order for event in device.drain(now_us)]

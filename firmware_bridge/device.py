"""The gateway's side of the talk with one device: connect, keep its clock, ask, take what it says.

FRAMING.md.  Pure: it is given frames and times, and gives frames and events.  When it may transmit
is the line's affair (`link.py`); what a model's deployment asks next is `upload.py`'s.

    away ──CONNECT answered──► connected ──HELLO, not connected, a clock that jumped──► away
                                   └───── several requests in a row without answer ───► away

Refuses: a device with another id than the configured one; all that it says is dropped.
Invariant: at most `window` requests are open, and one where the line is shared.
"""

from dataclasses import dataclass
from typing import Final

from firmware_bridge import messages
from firmware_bridge.clock import EXCHANGES_A_GROUP, DeviceClock, Exchange
from firmware_bridge.events import Deployed, Event, StateChanged
from firmware_bridge.frames import FIRST_ACKNOWLEDGED_TYPE, Frame, FrameType
from firmware_bridge.heard import Heard
from firmware_bridge.messages import Answer, Connected, Request, Slots, Status
from firmware_bridge.place import Figures, Place
from firmware_bridge.requests import Answered, Requests
from firmware_bridge.upload import Stage, Upload

_S: Final = 1_000_000
_ANSWER_US: Final = 150_000
"""For a device to answer and for a USB adapter and a busy gateway to bring it, beside the line."""
_SLOW_US: Final = _S // 4
"""More for what erases, writes or computes; twice as much for each time without an answer."""
_SLOW: Final = frozenset(
    {
        Request.BEGIN,
        Request.VERIFY,
        Request.TEST,
        Request.ACTIVATE,
        Request.CONFIRM,
        Request.ROLLBACK,
    }
)
_MOST_DOUBLED: Final = 4
_UNANSWERED: Final = 6
_SILENT_US: Final = 8 * _S
_CONNECT_US, _CONNECT_LONGEST_US = _S // 4, 2 * _S
_SHARED_CONNECT_US: Final = 10 * _S
"""The others of a line wait while one that is absent is asked."""
_BUSY_US: Final = _S // 5
_LOOK_US: Final = 5 * _S
"""How often a model on trial is looked at."""
_QUICK_EXCHANGES, _QUICK_US = 2 * EXCHANGES_A_GROUP, 50_000
_EARLY_EXCHANGES, _EARLY_US = 8 * EXCHANGES_A_GROUP, 200_000
_TIME_US: Final = _S
_PROGRESS_US: Final = _S // 2
_TIME_PAYLOAD, _TIMED_PAYLOAD = 8, 25
_IMPOSSIBLE_US: Final = 50_000.0
"""By so much no answer can come too early, whatever line and adapter are really like."""
CONNECTED, AWAY, STRANGER = "connected", "away", "another device"


@dataclass
class _Due:
    """When what is next due, in microseconds."""

    connect_us: int = 0
    connect_wait_us: int = _CONNECT_US
    time_us: int = 0
    poll_us: int = 0
    upload_us: int = 0
    told_us: int = 0


class Device:
    """One device.

    Args:
      place: where it is.
      number: of its first request.

    Attributes:
      state: CONNECTED, AWAY or STRANGER.
      known: what it said of itself when it was connected last.
      clock: since its last reset.
      slots: its models, as it told them last.
      upload: the deployment that was asked for last.
      figures: see there.
    """

    def __init__(self, place: Place, number: int) -> None:
        self.place = place
        self.state = AWAY
        self.known: Connected | None = None
        self.clock = DeviceClock()
        self.slots: Slots | None = None
        self.upload: Upload | None = None
        self.figures = Figures()
        self._requests = Requests(place.address, number)
        self._heard = Heard(self.figures)
        self._due = _Due()
        self._answered_us = 0
        self._has_polled = False
        self._wants_slots = False
        self._told: tuple[Stage, int] | None = None
        self._events: list[Event] = []

    @property
    def has_open_request(self) -> bool:
        """Whether an answer is waited for."""
        return len(self._requests) > 0

    # --- what comes ---

    def receive(self, frame: Frame, arrived_us: float) -> list[Event]:
        """Take a frame that this device sent.

        Args:
          frame: with this device's address.
          arrived_us: when its last byte came.
        """
        now_us = int(arrived_us)
        if frame.type >= FIRST_ACKNOWLEDGED_TYPE:
            if answered := self._requests.take(frame, now_us):
                self._answered(answered, arrived_us)
        else:
            self._unasked(frame, arrived_us)
        self._tell_deployment(now_us)
        events, self._events = self._events, []
        return events

    def _unasked(self, frame: Frame, arrived_us: float) -> None:
        self._heard.count(frame)
        self._requests.extend(Request.POLL, int(arrived_us))
        if frame.type == FrameType.HELLO:
            self._hello(frame)
        elif self.state != STRANGER:
            clock = self.clock if self.state == CONNECTED else None
            event = self._heard.take(frame, arrived_us, clock)
            self._events += [] if event is None else [event]
            if self._heard.has_jumped and self.state == CONNECTED:
                self._lost(0)

    def _hello(self, frame: Frame) -> None:
        hello = messages.parse_hello(frame.payload)
        if hello is None:
            self.figures.malformed += 1
        elif self.state != CONNECTED:
            self._due.connect_us = 0
        elif self.known is None or hello.boot != self.known.boot:
            self._lost(0)

    def _answered(self, answered: Answered, arrived_us: float) -> None:
        kind, answer = answered.asked.type, answered.answer
        self._answered_us = int(arrived_us)
        if answer.status is Status.NOT_CONNECTED and kind is not Request.CONNECT:
            self._lost(int(arrived_us))
            return
        lost_writes = any(each.type is Request.WRITE for each in answered.lost)
        if kind is Request.CONNECT:
            self._connected(answer, int(arrived_us))
        elif kind is Request.TIME:
            self._timed(answered, arrived_us)
        elif kind is Request.POLL:
            self._polled(answer, int(arrived_us))
        elif kind is Request.SLOTS and answer.status is Status.OK:
            self.slots = messages.parse_slots(answer.body)
        if self.upload is not None and not answered.asked.is_stale:
            self._of_upload(kind, answer, int(arrived_us))
        if lost_writes and self.upload is not None and kind is not Request.WRITE:
            self._rewind()

    def _rewind(self) -> None:
        if self.upload is not None:
            self.upload.rewind()
        self._requests.make_stale(Request.WRITE)

    def _of_upload(self, kind: Request, answer: Answer, now_us: int) -> None:
        if self.upload is None or kind in (Request.CONNECT, Request.TIME, Request.POLL):
            return
        if kind is Request.WRITE and answer.status is not Status.OK:
            self._requests.make_stale(Request.WRITE)
        is_busy = self.upload.answered(kind, answer)
        if is_busy or answer.status is Status.BUSY:
            self._due.upload_us = now_us + _BUSY_US
        elif self.upload.stage is Stage.ON_TRIAL:
            self._due.upload_us = now_us + _LOOK_US

    def _connected(self, answer: Answer, now_us: int) -> None:
        known = messages.parse_connected(answer.body) if answer.status is Status.OK else None
        if known is None:
            self.figures.malformed += 1
            self._due.connect_us = now_us + _CONNECT_LONGEST_US
            return
        if self.place.id and known.id != self.place.id:
            self._become(STRANGER)
            self._due.connect_us = now_us + _CONNECT_LONGEST_US
            return
        if self.known is not None and known.boot != self.known.boot:
            self._heard.reset()
        if self.known is None or known.boot != self.known.boot or known.id != self.known.id:
            self.clock = DeviceClock()
        self.known = known
        self.figures.connections += 1
        self._due = _Due(time_us=now_us)
        self._wants_slots = True
        self._heard.connected()
        if self.upload is not None:
            self.upload.look_again()
        self._become(CONNECTED)

    def _timed(self, answered: Answered, arrived_us: float) -> None:
        timed = messages.parse_timed(answered.answer.body)
        asked = answered.asked
        if timed is None or timed.gateway != asked.sent_us:
            self.figures.malformed += 1
            return
        exchange = Exchange(
            asked.sent_us + self.place.line_us(_TIME_PAYLOAD),
            timed.received_us,
            timed.sent_us,
            arrived_us - self.place.line_us(_TIMED_PAYLOAD),
        )
        if exchange.delay_us < -_IMPOSSIBLE_US:
            self.figures.malformed += 1
        elif not self.clock.add(exchange):
            self._heard.reset()
            self.known = None
            self._lost(int(arrived_us))

    def _polled(self, answer: Answer, now_us: int) -> None:
        polled = messages.parse_polled(answer.body)
        if polled is None:
            self.figures.malformed += 1
            return
        queued, self.figures.dropped = polled
        self._due.poll_us = now_us if queued else now_us + self.place.poll_us

    def _lost(self, connect_us: int) -> None:
        """Connect again, at this time: the device was reset, or does not answer."""
        self._requests.forget()
        self._due = _Due(connect_us=connect_us)
        if self.upload is not None:
            self.upload.look_again()
        self._become(AWAY)

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._events.append(StateChanged(state))

    # --- what goes ---

    def next_frame(self, now_us: int, *, is_idle: bool) -> Frame | None:
        """What to transmit now, if anything.

        Args:
          now_us: when its first byte goes out, where the line is idle.
          is_idle: nothing is waiting to be transmitted before it.
        """
        if any(each.type is Request.WRITE for each in self._requests.overdue(now_us)):
            self._rewind()
        if self.state == CONNECTED and self._is_silent(now_us):
            self._lost(now_us + _CONNECT_LONGEST_US)
        if again := self._requests.repeat(now_us):
            return again
        if self.place.is_shared and self.has_open_request:
            return None
        self.figures.repeated = self._requests.repeated
        self.figures.unexpected = self._requests.unexpected
        if self.state != CONNECTED:
            return self._next_connect(now_us)
        if now_us >= self._due.time_us and not self._requests.has(Request.TIME):
            if self._is_slow_open():
                return None if self.place.is_shared else self._next_work(now_us)
            return self._next_time(now_us) if is_idle else None
        return self._next_work(now_us)

    def _is_silent(self, now_us: int) -> bool:
        """Whether it does not answer, and not because it erases flash."""
        is_long = self.place.is_shared or now_us - self._answered_us > _SILENT_US
        return self._requests.unanswered >= _UNANSWERED and is_long

    def _is_slow_open(self) -> bool:
        """Whether the device may be erasing or computing, and would answer late."""
        return self._requests.has(*_SLOW)

    def _next_connect(self, now_us: int) -> Frame | None:
        due = self._due
        if now_us < due.connect_us or self._requests.has(Request.CONNECT):
            return None
        longest_us = _SHARED_CONNECT_US if self.place.is_shared else _CONNECT_LONGEST_US
        due.connect_us = now_us + due.connect_wait_us
        due.connect_wait_us = min(2 * due.connect_wait_us, longest_us)
        return self._ask(Request.CONNECT, messages.connect(), now_us)

    def _next_time(self, now_us: int) -> Frame:
        quick, early = self.clock.exchanges < _QUICK_EXCHANGES, self.clock.exchanges
        wait_us = _QUICK_US if quick else _EARLY_US if early < _EARLY_EXCHANGES else _TIME_US
        self._due.time_us = now_us + wait_us
        return self._ask(Request.TIME, messages.time(now_us), now_us)

    def _next_work(self, now_us: int) -> Frame | None:
        """Of the deployment, or a poll."""
        window = 1 if self.place.is_shared or self.known is None else self.known.window
        if self.known is None or len(self._requests) >= window:
            return None
        is_due = now_us >= self._due.poll_us and self._speaks_only_when_polled()
        is_due = is_due and not self._requests.has(Request.POLL)
        # In turns: a device whose queue never empties must not keep its own model away.
        if is_due and not self._has_polled:
            return self._next_poll(now_us)
        self._has_polled = False
        if frame := self._next_of_upload(self.known, now_us):
            return frame
        return self._next_poll(now_us) if is_due else None

    def _next_poll(self, now_us: int) -> Frame:
        self._has_polled = True
        self._due.poll_us = now_us + self.place.poll_us
        return self._ask(Request.POLL, messages.poll(self.place.poll_bytes), now_us)

    def _next_of_upload(self, known: Connected, now_us: int) -> Frame | None:
        if self._requests.has(Request.SLOTS):
            return None
        if self._wants_slots and known.has_slots:
            self._wants_slots = False
            return self._ask(Request.SLOTS, b"", now_us)
        if self.upload is None or now_us < self._due.upload_us:
            return None
        if self.upload.stage is Stage.ON_TRIAL:
            self.upload.look_again()
        work = self.upload.next_request(known.largest)
        return None if work is None else self._ask(*work, now_us)

    def _speaks_only_when_polled(self) -> bool:
        return self.place.is_shared or (self.known is not None and self.known.polls_only)

    def _ask(self, kind: Request, payload: bytes, now_us: int) -> Frame:
        ahead = 1 + len(self._requests)
        line_us = self.place.line_us(messages.LARGEST_PAYLOAD) * ahead
        if kind is Request.POLL:
            line_us += self.place.byte_us * self.place.poll_bytes
        timeout_us = int(_ANSWER_US + 2 * line_us)
        if kind in _SLOW or kind is Request.WRITE:
            timeout_us += _SLOW_US
            timeout_us <<= min(self._requests.unanswered, _MOST_DOUBLED)
        return self._requests.ask(kind, payload, now_us, timeout_us)

    def wake_us(self, now_us: int) -> int:
        """When to call `next_frame` again at the latest, if nothing comes before."""
        due, soonest = self._due, self._requests.next_due_us()
        times = [now_us + _S] if soonest is None else [soonest]
        if self.state != CONNECTED:
            times.append(due.connect_us if not self._requests else times[0])
        else:
            if not self._requests.has(Request.TIME) and not self._is_slow_open():
                times.append(due.time_us)
            if self._speaks_only_when_polled():
                times.append(due.poll_us)
            if self.upload is not None and due.upload_us > now_us:
                times.append(due.upload_us)
        return max(now_us, min(times))

    # --- what is wanted ---

    def reconnect(self, now_us: int) -> None:
        """The line was cut: nothing is known of the device any more."""
        self._lost(now_us)

    def deploy(self, upload: Upload) -> None:
        """Bring a model to the device, in place of the deployment before."""
        self._requests.make_stale(Request.WRITE)
        self.upload, self._told, self._due.upload_us = upload, None, 0

    def confirm(self) -> None:
        """Let the model of the deployment stay, as soon as it is on trial."""
        if self.upload is not None:
            self.upload.confirm()
            self._due.upload_us = 0

    def leave(self) -> None:
        """Let the other model run again."""
        if self.upload is not None:
            self.upload.leave()
            self._due.upload_us = 0

    def drain(self, now_us: int) -> list[Event]:
        """Events that no frame brought: lost devices, deployments that came further."""
        self._tell_deployment(now_us)
        events, self._events = self._events, []
        return events

    def _tell_deployment(self, now_us: int) -> None:
        upload = self.upload
        if upload is None:
            return
        if upload.stage is Stage.LOOKING and self._told is not None:
            return  # it comes from somewhere, and goes on there
        told = upload.stage, upload.received_bytes
        is_only_further = self._told is not None and self._told[0] is upload.stage
        if told == self._told or (is_only_further and now_us < self._due.told_us):
            return
        self._told, self._due.told_us = told, now_us + _PROGRESS_US
        self._wants_slots |= upload.has_ended
        self._events.append(
            Deployed(
                upload.sha256, upload.stage, upload.received_bytes, upload.size_bytes, upload.reason
            )
        )

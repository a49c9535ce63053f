"""Bringing one model into a device's slot, from BEGIN to the end of its trial.

FRAMING.md, 'Model slots'.  Pure: it says what to ask next, and is told what was answered.  It knows
nothing of frames and times; `device.py` numbers, repeats and waits.

    LOOKING ─► BEGINNING ─► SENDING ─► VERIFYING ─► TESTING ─► ACTIVATING ─► ON_TRIAL
       ▲                       │                                               │   │
       └─ after each reset or cut: the slots say how far it came     CONFIRMING ◄   ► LEAVING
                                                                         ▼           ▼
                                         FAILED (from anywhere)      CONFIRMED   ROLLED_BACK

After a reset of the device, a cut of the line or a restart of this program nothing is assumed: the
device's slots are read, and the work goes on from there.  So each upload resumes; what was received
is not sent again.

Refuses: nothing; what a device answers ends in a stage, FAILED with its reason at worst.
Invariant: ACTIVATE is asked only after VERIFY and TEST of the same content were answered with ok,
or its slot says so.
"""

import enum
import hashlib
from typing import Final

from firmware_bridge import messages
from firmware_bridge.messages import Answer, Request, Slots, SlotState, Status

_HEADER_BYTES: Final = 4  # of WRITE, before its data
_ALIGNED: Final = 32
"""Offsets and sizes of WRITE are multiples of this, but for the last one's size (FRAMING.md)."""
_MOST_ATTEMPTS: Final = 3
"""To write and verify the same content: flash that fails once more is worn out."""


class Stage(enum.Enum):
    """How far it is; the values are what is told to people and agents."""

    LOOKING = "looking"
    BEGINNING = "beginning"
    SENDING = "sending"
    VERIFYING = "verifying"
    TESTING = "testing"
    ACTIVATING = "activating"
    ON_TRIAL = "on trial"
    CONFIRMING = "confirming"
    LEAVING = "leaving"
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"


class _Wish(enum.Enum):
    """What is to become of the content."""

    TRIAL = "trial"
    CONFIRM = "confirm"
    LEAVE = "leave"


ENDED: Final = frozenset({Stage.CONFIRMED, Stage.ROLLED_BACK, Stage.FAILED})
_ASKS: Final = {
    Stage.LOOKING: Request.SLOTS,
    Stage.BEGINNING: Request.BEGIN,
    Stage.VERIFYING: Request.VERIFY,
    Stage.TESTING: Request.TEST,
    Stage.ACTIVATING: Request.ACTIVATE,
    Stage.CONFIRMING: Request.CONFIRM,
    Stage.LEAVING: Request.ROLLBACK,
}
_THEN: Final = {
    Stage.VERIFYING: Stage.TESTING,
    Stage.TESTING: Stage.ACTIVATING,
    Stage.ACTIVATING: Stage.ON_TRIAL,
    Stage.CONFIRMING: Stage.CONFIRMED,
    Stage.LEAVING: Stage.ROLLED_BACK,
}
_GOES_ON: Final = {
    SlotState.RECEIVED: Stage.VERIFYING,
    SlotState.VERIFIED: Stage.TESTING,
    SlotState.TESTED: Stage.ACTIVATING,
}
"""What follows for a content that does not run; in other states BEGIN, which says how much is."""


class Upload:
    """One content and what is to become of it.

    Args:
      content: of a slot; empty for a model that the device already has.
      sha256: of the content, where that is empty.
      trial_s: how long it may run without CONFIRM.

    Attributes:
      stage: how far it is.
      reason: why it ended, for FAILED and ROLLED_BACK.
      received_bytes: what the device has, as far as it has said.
      sent_bytes: of content, whatever became of it; shows what was sent twice.
      attempts: times that sending began at 0.
    """

    def __init__(self, content: bytes, trial_s: int = 0, sha256: bytes = b"") -> None:
        self.content, self._trial_s = content, trial_s
        self.sha256 = sha256 or hashlib.sha256(content).digest()
        self.size_bytes = len(content)
        self.stage = Stage.LOOKING
        self.reason = ""
        self.received_bytes = 0
        self.sent_bytes = 0
        self.attempts = 0
        self._next = 0
        self._wish = _Wish.TRIAL
        self._is_waiting = False
        self._was_active = False
        self._damages = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.stage in ENDED

    def confirm(self) -> None:
        """Let it stay, as soon as it is on trial."""
        self._wish = _Wish.CONFIRM
        self._go_on_from_trial()

    def leave(self) -> None:
        """Let the other slot run again, or stop before this one does."""
        self._wish = _Wish.LEAVE
        if self.stage in (Stage.BEGINNING, Stage.SENDING, Stage.VERIFYING, Stage.TESTING):
            self._end(Stage.ROLLED_BACK, "taken back before it ran")
        self._go_on_from_trial()

    def look_again(self) -> None:
        """The device was reset, the line cut, or the trial may be over: ask for its slots."""
        self._is_waiting = False
        if not self.has_ended:
            self.stage = Stage.LOOKING

    def next_request(self, largest_bytes: int) -> tuple[Request, bytes] | None:
        """What to ask now; None when an answer has to come first.

        Args:
          largest_bytes: longest payload that the device takes.
        """
        if self.stage is Stage.SENDING:
            return self._next_write(largest_bytes)
        kind = _ASKS.get(self.stage)
        if kind is None or self._is_waiting:
            return None
        self._is_waiting = True
        if kind is Request.ACTIVATE:
            self._was_active = True
            return kind, messages.activate(self._trial_s, self.sha256)
        if kind is Request.BEGIN:
            return kind, messages.begin(self.size_bytes, self.sha256)
        return kind, self.sha256 if kind in (Request.CONFIRM, Request.ROLLBACK) else b""

    def _next_write(self, largest_bytes: int) -> tuple[Request, bytes] | None:
        room = (largest_bytes - _HEADER_BYTES) // _ALIGNED * _ALIGNED
        data = self.content[self._next : self._next + room]
        if not data:
            return None
        request = messages.write(self._next, data)
        self._next += len(data)
        self.sent_bytes += len(data)
        return Request.WRITE, request

    def rewind(self) -> None:
        """Writes were lost: go on from what the device has."""
        self._next = self.received_bytes

    def answered(self, kind: Request, answer: Answer) -> bool:
        """Take an answer.

        Args:
          kind: of the request.
          answer: to it.

        Returns:
          Whether to ask the same again, a moment later: the device is busy.
        """
        if kind is Request.WRITE:
            self._written(answer)
            return False
        if _ASKS.get(self.stage) is not kind:
            return False  # asked before something else was decided
        self._is_waiting = False
        if answer.status is Status.BUSY:
            return True
        if answer.status is not Status.OK:
            self._refused(answer)
        elif kind is Request.SLOTS:
            self._look(messages.parse_slots(answer.body))
        elif kind is Request.BEGIN:
            self._begun(messages.parse_begun(answer.body))
        else:
            self.stage = _THEN[self.stage]
            self._go_on_from_trial()
        return False

    def _written(self, answer: Answer) -> None:
        if self.stage is not Stage.SENDING or answer.status is Status.BUSY:
            self.rewind()
            return
        if answer.status not in (Status.OK, Status.ORDER):
            self._refused(answer)
            return
        is_order = answer.status is Status.ORDER
        received = answer.received if is_order else messages.parse_written(answer.body)
        if received is None or received > self.size_bytes:
            self._end(Stage.FAILED, f"the device says that it has {received} bytes")
            return
        self.received_bytes = received
        if is_order:
            self.rewind()
        if received == self.size_bytes:
            self.stage = Stage.VERIFYING

    def _begun(self, received: int | None) -> None:
        if received is None or received > self.size_bytes:
            self._end(Stage.FAILED, "the device's answer to BEGIN makes no sense")
            return
        self.attempts += received == 0
        self.received_bytes = received
        self.rewind()
        self.stage = Stage.VERIFYING if received == self.size_bytes else Stage.SENDING

    def _look(self, slots: Slots | None) -> None:
        """Go on from what the slots hold."""
        if slots is None:
            self._end(Stage.FAILED, "the device's answer to SLOTS makes no sense")
            return
        at = self._our_slot(slots)
        state = SlotState.EMPTY if at is None else slots.slots[at].state
        is_active = at is not None and at == slots.active
        if is_active:
            self.stage = Stage.CONFIRMED if state is SlotState.CONFIRMED else Stage.ON_TRIAL
        elif self._wish is _Wish.LEAVE:
            self._end(Stage.ROLLED_BACK, "it does not run")
        elif state is SlotState.REJECTED and self._was_active:
            self._end(Stage.ROLLED_BACK, "its trial ended without confirmation")
        elif not self.content:
            self._end(Stage.FAILED, "the device does not run this model")
        else:
            self.stage = _GOES_ON.get(state, Stage.BEGINNING)
        if is_active or state in _GOES_ON:
            self.received_bytes = self.size_bytes
        self._go_on_from_trial()

    def _our_slot(self, slots: Slots) -> int | None:
        """Where our content is: the active slot, if it is in both."""
        ours = [at for at, each in enumerate(slots.slots) if each.sha256 == self.sha256]
        ours = [at for at in ours if slots.slots[at].state is not SlotState.EMPTY]
        return slots.active if slots.active in ours else next(iter(ours), None)

    def _go_on_from_trial(self) -> None:
        if self.stage is Stage.ON_TRIAL and self._wish is _Wish.CONFIRM:
            self.stage = Stage.CONFIRMING
        elif self.stage in (Stage.ON_TRIAL, Stage.CONFIRMED) and self._wish is _Wish.LEAVE:
            self.stage = Stage.LEAVING

    def _refused(self, answer: Answer) -> None:
        """Begin anew where that may help; else give up."""
        is_damaged = answer.status is Status.FLASH or (
            answer.status is Status.REFUSED
            and answer.reason in (messages.Refusal.SHA256_DIFFERS, messages.Refusal.NOTHING_BEGUN)
        )
        self._damages += is_damaged
        if is_damaged and self.content and self._damages < _MOST_ATTEMPTS:
            self.stage = Stage.BEGINNING
            return
        self._end(Stage.FAILED, f"{self.stage.value}: {answer}")

    def _end(self, stage: Stage, reason: str) -> None:
        self.stage, self.reason = stage, reason

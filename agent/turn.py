"""This agent's turn to train: what it may do now, what it asks, and what it was told.

    learner ─ may I? ─► decide ─ train ─► (grant is used up when the update is made)
                           │ ask
                           ▼
    connection ─ next_ask ─► Readiness ═► coordinator ═► Grant ─► on_grant ─► learner

Owner of the file `novelty.json`: the noised histogram as it was told, because fresh noise on the
same rows would average away.  Everything else is soft: after a restart the agent asks again.  The
decision itself is pure (`agent/asking.py`); time is passed in.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.asking import (
    Decision,
    Shown,
    Standing,
    decide,
    is_due,
    next_ask_s,
    next_shown,
    readiness,
)
from agent.conditions import Conditions
from agent.learning.checkpoint import CheckpointError, read_capped, write_durably
from wire.errors import one_line
from wire.messages import Grant, Policy, Readiness

logger = logging.getLogger(__name__)

_FILE = "novelty.json"
_LARGEST_FILE = 64 << 10
_SMOOTHING = 0.3
"""Weight of the newest update in the mean time from made to committed."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a card that rots makes of JSON; an agent must not die of it at every start."""


@dataclass(frozen=True)
class _Wish:
    """What the learner would train, if it may."""

    base_version: int
    examples: int
    bundle: bytes
    inputs: Callable[[], NDArray[np.float32]]
    is_private: bool


@dataclass
class Turn:
    """What an agent knows about its leave to train.

    Attributes:
      directory: the agent's state directory, locked by this process.
      taken: training rows taken in since ever, as far as is known.
      rng: of cryptographic quality.
      loss: mean loss of the last training's first epoch; None before it.
      is_training: whether the training child is the learner's now; else others may use it.
      changed: the learner's alarm clock, set when the answer of `decide` may be another one.
    """

    directory: Path
    taken: int
    changed: asyncio.Event
    rng: random.Random = field(default_factory=random.SystemRandom)
    loss: float | None = None
    is_training: bool = False
    _standing: Standing = field(default_factory=lambda: Standing(is_linked=False))
    _wish: _Wish | None = None
    _asks: int = 0
    _heard_s: float | None = None
    _due_s: float = 0.0
    _made_s: dict[tuple[str, int], float] = field(default_factory=dict)
    _uplink_s: float = 0.0

    def __post_init__(self) -> None:
        self._shown = self._read_shown()
        if self._shown is not None:
            self.taken = max(self.taken, self._shown.rows)

    # What the learner asks and says

    def decide(self, policy: Policy, now_s: float) -> Decision:
        """Whether to train now, ask, or wait."""
        if self._heard_s is None:  # a start is no silence
            self._heard_s = now_s
        standing = replace(
            self._standing, silent_s=now_s - self._heard_s, due_s=self._due_s - now_s
        )
        return decide(policy, standing)

    def wish(
        self,
        base_version: int,
        examples: int,
        bundle: bytes,
        inputs: Callable[[], NDArray[np.float32]],
        *,
        is_private: bool = False,
    ) -> None:
        """Say what would be trained, for the next ask.

        Args:
          base_version: the version to train from.
          examples: training rows.
          bundle: SHA-256 of the bundle.
          inputs: gives the standardised inputs of the training rows, when a histogram is due.
          is_private: the policy asks for differential privacy, whose budget is for updates alone,
            or for sums in which no site is seen by itself: neither loss nor histogram is told.
        """
        self._wish = _Wish(base_version, examples, bundle, inputs, is_private)

    def withdraw(self) -> None:
        """Nothing is to be trained now: a grant would hold a slot that others need."""
        self._wish = None

    def begin(self) -> None:
        """Training begins: nothing is asked for, and the training child is taken, until `end`."""
        self._wish, self.is_training = None, True

    def end(self) -> None:
        """Training is over, with an update or without."""
        self.is_training = False

    def made(self, decision: Decision, update: tuple[str, int], loss: float, now_s: float) -> None:
        """An update was made: its grant is used up."""
        self._standing = replace(self._standing, used=max(self._standing.used, decision.grant))
        self._due_s = now_s  # the next question is another one
        self._made_s[update] = now_s
        self.loss = loss if math.isfinite(loss) else None

    # What the connection says and asks

    def on_link(self, *, is_up: bool, now_s: float) -> None:
        """The coordinator can be reached, or no more; after connecting an ask is due at once."""
        if is_up != self._standing.is_linked:
            self._standing = replace(self._standing, is_linked=is_up)
            self._heard_s, self._due_s, self._asks = now_s, now_s, 0
            self.changed.set()

    def on_grant(self, grant: Grant) -> None:
        """The coordinator gave leave to train once; an old number changes nothing."""
        if grant.number > self._standing.granted:
            self._standing = replace(self._standing, granted=grant.number)
            logger.info("granted to train (%d)", grant.number)
            self.changed.set()

    def on_settled(self, update: tuple[str, int], now_s: float, *, is_committed: bool) -> None:
        """An update arrived, or came to nothing."""
        made_s = self._made_s.pop(update, None)
        if made_s is not None and is_committed:
            took_s = now_s - made_s
            first = self._uplink_s == 0.0
            self._uplink_s += (took_s - self._uplink_s) * (1.0 if first else _SMOOTHING)

    def is_due(self, now_s: float) -> bool:
        """Whether there is something to ask now."""
        standing = self._standing
        is_wanted = self._wish is not None and standing.granted <= standing.used
        return is_wanted and standing.is_linked and self._due_s <= now_s

    def next_ask(self, conditions: Conditions, now_s: float) -> Readiness | None:
        """What to ask now, if anything; the next one is due some seconds later."""
        wish = self._wish
        if wish is None or not self.is_due(now_s):
            return None
        self._due_s = now_s + next_ask_s(self.rng)
        if not wish.is_private and is_due(self._shown, wish.bundle, self.taken):
            self._show(next_shown(wish.bundle, self.taken, wish.inputs(), self.rng))
        self._asks += 1
        fits = self._shown is not None and self._shown.bundle == wish.bundle
        fits = fits and not wish.is_private
        return readiness(
            wish.base_version,
            wish.examples,
            conditions,
            loss=None if wish.is_private else self.loss,
            uplink_s=self._uplink_s,
            shown=self._shown if fits else None,
            asks=self._asks - 1,
        )

    # The histogram's file

    def _show(self, shown: Shown) -> None:
        """Keep a new histogram before it is told; while the disk refuses it the old one is told."""
        try:
            write_durably(self.directory / _FILE, msgspec.json.encode(shown))
        except OSError as error:
            logger.warning("the histogram of novelty stays the old one: %s", error)
            return
        self._shown = shown

    def _read_shown(self) -> Shown | None:
        try:
            data = read_capped(self.directory / _FILE, _LARGEST_FILE)
            return msgspec.json.decode(data, type=Shown)
        except FileNotFoundError:
            return None
        except (OSError, CheckpointError, *_UNREADABLE) as error:
            logger.warning("%s is made again: %s", _FILE, one_line(str(error)))
            return None

"""Whether a device's model says what it should, over its newest scores.  Pure.

Two comparisons, because they find different faults.  Bits: the device's int8 outputs and those of
the gateway's int8 reference for the same row must be equal; anything else is a broken device, a
broken line or a wrong kernel.  Float: the same outputs as real numbers and the float model's must
be within the bound; anything else means that int8 does not fit the signal (any more).

Source of the bound: `bound_steps` steps of the int8 output.  A step is the output's scale, the
255th part of what the output spans over the representative rows (TensorFlow Lite's 8-bit
specification); rounding every activation of some layers costs a few of them.  Measured: at most 3.6
over the representative rows of 48 untrained networks of the families that fit a device, 2 to 6 in
runs of `journeyman demo --mcu`.  16, 6 % of the output's span, is a bound that sound models keep.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["open", "agrees", "disagrees"]
_OVER_SHARE: Final = 0.05
"""Of the scores, that may leave the bound: live rows are others than those calibrated by."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One score.

    Attributes:
      bits_equal: its outputs are the reference's.
      difference: largest of its outputs' from the float model; None where it was not compared.
    """

    bits_equal: bool
    difference: float | None


class Agreement:
    """The newest scores of one model.

    Args:
      least_rows: before that there is no verdict.
      window_rows: that count.
      bits_share: that must be equal bit by bit.
      bound: of the differences.
    """

    def __init__(self, least_rows: int, window_rows: int, bits_share: float, bound: float) -> None:
        self._least_rows, self._bits_share, self.bound = least_rows, bits_share, bound
        self._newest: deque[Compared] = deque(maxlen=window_rows)

    def take(self, compared: Compared) -> None:
        """Take a score."""
        self._newest.append(compared)

    @property
    def rows(self) -> int:
        """How many count."""
        return len(self._newest)

    @property
    def bits_equal(self) -> int:
        """How many of them equal the int8 reference."""
        return sum(each.bits_equal for each in self._newest)

    @property
    def differences(self) -> list[float]:
        """Those from the float model that are known."""
        return [each.difference for each in self._newest if each.difference is not None]

    @property
    def reason(self) -> str:
        """Why the model disagrees; empty where it does not."""
        if self.bits_equal < self._bits_share * self.rows:
            wrong = self.rows - self.bits_equal
            return f"{wrong} of {self.rows} scores differ from the int8 reference"
        known = self.differences
        over = sum(not each <= self.bound for each in known)
        if over > _OVER_SHARE * len(known):
            worst = max(known)
            return (
                f"{over} of {len(known)} scores differ from the float model by more than "
                f"{self.bound:.4g}, up to {worst:.4g}"
            )
        return ""

    @property
    def verdict(self) -> Verdict:
        """What the scores say."""
        if self.rows < self._least_rows:
            return "open"
        return "disagrees" if self.reason else "agrees"

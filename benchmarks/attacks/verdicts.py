"""What an attack came to, and whether that is what the product says of it."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["succeeds", "fails", "in part"]
Expected = Literal["succeeds", "fails", "open"]
"""`open`: a limit that is measured and documented, and claimed neither way."""
CLEAR, MOST = 0.25, 0.1
"""Above guessing: from the first an attack has succeeded, up to the second it has failed."""


@dataclass(frozen=True)
class Finding:
    """One attack under one setting.

    Attributes:
      figure: how well it did.
      beside: what it is judged against: guessing, or a claim.
      unit: of both.
      detail: a second figure, in words.
      correlation: of inversions: mean best correlation of the attack, and of guessing.
    """

    attack: str
    setting: str
    figure: float
    beside: float
    unit: str
    detail: str
    outcome: Outcome
    expected: Expected
    correlation: tuple[float, float] = (0.0, 0.0)

    @property
    def holds(self) -> bool:
        """Whether it came as the product says."""
        return self.expected in ("open", self.outcome)


def against_guessing(figure: float, guess: float) -> Outcome:
    """The outcome of an attack by shares, 0 to 1, of what was found and what guessing finds."""
    gain = figure - guess
    if gain >= CLEAR:
        return "succeeds"
    return "fails" if gain <= MOST else "in part"

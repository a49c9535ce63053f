"""Settings of `[privacy]`, and what is wrong with them beyond their types."""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from wire.messages import PrivacyUnit, Protection, Safeguards
from wire.settings import Settings


class PrivacyTable(Settings, frozen=True, kw_only=True):
    """`[privacy]`: what this site insists on, whatever the federation's policy says.

    Attributes:
      unit: `record`: no update without noise that hides any one training example; `update`: or all
        rows behind an update; `none`: as the federation's policy has it.  Each is met by its own
        kind only.
      protection: `masked` or `encrypted`: no update that the coordinator can read by itself.
      noise_multiplier: least noise, as a multiple of the clipping norm.
      epsilon: budget: no update is made that would cost more in all; 0: what is spent is counted
        and nothing is stopped.
      delta: of the budget: a probability that should be far below one over the number of rows.
      honest_sites: where sites share noise under masks: in every sum, so many sites, this one
        among them, add theirs and do not give it away.  What this site charges itself is right
        only if they do; 1 relies on nobody.
    """

    unit: PrivacyUnit = "none"
    protection: Protection = "none"
    noise_multiplier: Annotated[float, msgspec.Meta(ge=0.0, le=1000.0)] = 0.0
    epsilon: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)] = 0.0
    delta: Annotated[float, msgspec.Meta(gt=0.0, lt=0.5)] = 1e-6
    honest_sites: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1

    @property
    def least(self) -> Safeguards:
        """The floor that a policy has to reach here."""
        return Safeguards(
            protection=self.protection, privacy=self.unit, noise_multiplier=self.noise_multiplier
        )


def problems(table: PrivacyTable) -> Iterator[tuple[str, str]]:
    """Yield the key, relative to the table, and what is wrong with its value."""
    if table.unit != "none" and table.epsilon == 0:
        reason = f'unit = "{table.unit}" needs a budget: without one, noise that is added often '
        yield "epsilon", reason + "enough hides nothing"

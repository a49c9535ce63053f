"""What an agent says about its privacy, for the status file and for people."""

import msgspec


class PrivacyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is promised, what it has cost, and what is left.

    Attributes:
      unit: what is hidden under the head's policy: `none`, `record` or `update`.
      refused: why no update is made because of privacy; empty when nothing is in its way.
      epsilon: spent so far, at `delta`; 0 when nothing was.
      budget: what this site allows; 0: no limit.
      delta: of both.
      releases: updates that it was spent on.
      releases_left: that the budget has room for, at the present policy; None without a budget or
        before a policy is known.
      not_covered: what leaves the site about its rows and is not counted.
    """

    unit: str = "none"
    refused: str = ""
    epsilon: float = 0.0
    budget: float = 0.0
    delta: float = 0.0
    releases: int = 0
    releases_left: int | None = None
    not_covered: list[str] = []

"""What a helper has done since it was started, in numbers."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Figures:
    """Counters of one run; written by the connection, read by `/metrics`.

    Attributes:
      is_up: whether it is connected to the broker.
      verdicts, endorsements, releases: answers, by `accepted` and `refused`.
      ignored: messages that deserved no answer, by kind of topic.
      masks_bytes: of masks that were published.
      computing_s: time that sums of masks took, in seconds.
    """

    is_up: bool = False
    verdicts: Counter[str] = field(default_factory=Counter)
    endorsements: Counter[str] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    masks_bytes: int = 0
    computing_s: float = 0.0


def word(*, accepted: bool) -> str:
    """The label of an answer."""
    return "accepted" if accepted else "refused"

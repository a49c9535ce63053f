"""What happens to frames on a bad line: flipped bits, lost and added bytes, lost frames."""

import random
from dataclasses import dataclass, field


@dataclass
class Damage:
    """Damages a share of what is sent.

    Attributes:
      share: of the frames.
      rng: decides.
      done: how often, by kind.
    """

    share: float
    rng: random.Random
    done: dict[str, int] = field(default_factory=dict)

    def of(self, data: bytes) -> bytes:
        """The bytes that arrive of these."""
        if self.rng.random() >= self.share:
            return data
        kind = self.rng.choice(("flip", "drop", "insert", "cut", "delimiter", "lost"))
        self.done[kind] = self.done.get(kind, 0) + 1
        return self._damaged(data, kind)

    def _damaged(self, data: bytes, kind: str) -> bytes:
        rng, changed = self.rng, bytearray(data)
        at = rng.randrange(len(data))
        if kind == "flip":
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        elif kind == "drop":
            del changed[at : at + rng.randint(1, 4)]
        elif kind == "insert":
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == "cut":
            del changed[at:]
        elif kind == "delimiter":
            del changed[-1]
        else:
            changed.clear()
        return bytes(changed)

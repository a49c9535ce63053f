"""Ciphertexts of a sum on their way in: parts at offsets, until they are what the manifest names.

Pure.  A manifest says how many bytes there are and their SHA-256; parts may have any lengths, come
in any order and twice.  Never holds more than the manifest's size.
"""

from dataclasses import dataclass, field

from wire.chunks import sha256
from wire.errors import MalformedError


@dataclass
class Gathering:
    """The parts of one sum that have arrived.

    Attributes:
      digest: SHA-256 of the whole.
      size: bytes of the whole.
    """

    digest: bytes
    size: int
    _parts: dict[int, bytes] = field(default_factory=dict)

    def add(self, offset: int, part: bytes) -> bytes | None:
        """Take a part; return the whole once it is complete.

        Raises:
          MalformedError: it does not fit, or the parts do not add up: all are forgotten then, and
            have to be sent again.
        """
        if not part or offset < 0 or offset + len(part) > self.size:
            raise MalformedError(f"{len(part)} bytes at {offset} of {self.size}")
        held = sum(map(len, self._parts.values())) - len(self._parts.get(offset, b""))
        if held + len(part) > self.size:
            self._parts.clear()
            raise MalformedError("the parts of a sum overlap")
        self._parts[offset] = part
        if held + len(part) < self.size:
            return None
        whole = b"".join(self._parts[at] for at in sorted(self._parts))
        self._parts.clear()
        if len(whole) != self.size or sha256(whole) != self.digest:
            raise MalformedError("the parts of a sum are not what its manifest names")
        return whole

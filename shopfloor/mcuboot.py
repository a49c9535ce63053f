"""Two slots and MCUboot's decisions about them, and small images for them.

Responsible for what happens at a reset: an image marked for a trial is swapped in once, if its hash
is right; at the next reset the previous one comes back, unless the new one was confirmed meanwhile
(MCUboot's design document, "Image swapping", swap types TEST, PERM, REVERT, NONE).  Flash holds
whole images only: swaps that a cut stops in the middle are MCUboot's own work, and its tests'.

An image's program here is a word that says how the firmware behaves, and filling.
"""

import enum
import hashlib
import struct
from dataclasses import dataclass, field

SLOT_BYTES = 64 << 10
_MAGIC = 0x96F3B83D
_HEADER = struct.Struct("<IIHHIIBBHI4x")
_AREA = struct.Struct("<HH")
_SHA256_TLV, _AREA_MAGIC = 0x10, 0x6907
_HASH_BYTES = 32


class Firmware(enum.Enum):
    """How a firmware behaves once it runs."""

    WORKS = b"works   "
    CRASHES = b"crashes "
    """The watchdog resets the chip before anything is said."""
    HANGS = b"hangs   "
    """Says nothing, and nobody resets it."""
    HAS_NO_BRIDGE = b"nobridge"
    """Answers SMP, and not the bridge's protocol."""
    CONFIRMS_ITSELF = b"hasty   "
    """As HAS_NO_BRIDGE, and has confirmed itself before anybody could look."""


@dataclass(frozen=True)
class Image:
    """What a slot holds.

    Attributes:
      data: header, program, TLVs.
      hashed_bytes: how much of it the hash is of.
      version: as SMP tells it.
      hash: the SHA-256 that its TLV holds, right or wrong.
      firmware: how it behaves.
    """

    data: bytes
    hashed_bytes: int
    version: str
    hash: bytes
    firmware: Firmware

    @property
    def is_whole(self) -> bool:
        """Whether MCUboot would start it."""
        return hashlib.sha256(self.data[: self.hashed_bytes]).digest() == self.hash


def build_image(
    version: tuple[int, int, int, int],
    firmware: Firmware = Firmware.WORKS,
    *,
    program_bytes: int = 6000,
) -> bytes:
    """An unsigned image as `imgtool sign` makes it without a key."""
    major, minor, revision, build = version
    filling = hashlib.shake_128(repr(version).encode()).digest(program_bytes)
    program = firmware.value + filling[len(firmware.value) :]
    header = _HEADER.pack(
        _MAGIC, 0, _HEADER.size, 0, len(program), 0, major, minor, revision, build
    )
    digest = hashlib.sha256(header + program).digest()
    area = _AREA.pack(_AREA_MAGIC, _AREA.size + 4 + len(digest))
    return header + program + area + _AREA.pack(_SHA256_TLV, len(digest)) + digest


def look_at(data: bytes) -> Image | None:
    """The image that flash holds; None where header or TLVs are missing. Its hash comes first."""
    if len(data) < _HEADER.size or _HEADER.unpack_from(data)[0] != _MAGIC:
        return None
    _, _, header_bytes, _, program_bytes, _, *numbers = _HEADER.unpack_from(data)
    area = header_bytes + program_bytes
    hash_at = area + 2 * _AREA.size
    if hash_at + _HASH_BYTES > len(data):
        return None
    magic, area_bytes = _AREA.unpack_from(data, area)
    kind, hash_bytes = _AREA.unpack_from(data, area + _AREA.size)
    if (magic, kind, hash_bytes) != (_AREA_MAGIC, _SHA256_TLV, _HASH_BYTES):
        return None
    word = data[header_bytes : header_bytes + len(Firmware.WORKS.value)]
    return Image(
        data[: area + area_bytes],
        area,
        ".".join(str(each) for each in (numbers if numbers[3] else numbers[:3])),
        data[hash_at : hash_at + _HASH_BYTES],
        {each.value: each for each in Firmware}.get(word, Firmware.WORKS),
    )


@dataclass
class Flash:
    """The two slots; slot 0 runs.

    Attributes:
      slots: what is in them; may be half an image.
      is_pending: slot 1 is to be tried at the next reset.
      is_permanent: and then stays without being confirmed.
      is_confirmed: slot 0 stays at the next reset.
      log: what the bootloader did, in order.
    """

    slots: list[bytes]
    is_pending: bool = False
    is_permanent: bool = False
    is_confirmed: bool = True
    log: list[str] = field(default_factory=list)

    def image(self, slot: int) -> Image | None:
        """What is in a slot."""
        return look_at(self.slots[slot])

    @property
    def running(self) -> Image:
        """What runs after `reset`.

        Raises:
          ValueError: slot 0 holds nothing that could.
        """
        image = self.image(0)
        if image is None:
            raise ValueError("slot 0 holds no image")
        return image

    @property
    def may_overwrite(self) -> bool:
        """Slot 1 is neither to be tried nor what would come back."""
        return not self.is_pending and self.is_confirmed

    def reset(self) -> None:
        """Start again, and go on until a firmware runs that does not crash."""
        self._boot()
        while self.running.firmware is Firmware.CRASHES:
            self.log.append(f"{self.running.version} crashes")
            if self.is_confirmed:
                raise ValueError("a confirmed firmware crashes for ever")
            self._boot()
        self.is_confirmed |= self.running.firmware is Firmware.CONFIRMS_ITSELF

    def _boot(self) -> None:
        if self.is_pending:
            self._try_second()
        elif not self.is_confirmed:
            self.slots.reverse()
            self.is_confirmed = True
            self.log.append(f"reverts to {self.running.version}")

    def _try_second(self) -> None:
        image = self.image(1)
        self.is_pending = False
        if image is None or not image.is_whole:
            self.slots[1] = b""
            self.log.append("erases a damaged image")
            return
        self.slots.reverse()
        self.is_confirmed = self.is_permanent
        self.log.append(f"tries {image.version}")

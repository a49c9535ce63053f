"""Reads an MCUboot image file, and refuses what a bootloader would refuse or misuse.  Pure.

    header 32 bytes ... | program | [protected TLVs] | TLVs: hash, signature, ...

MCUboot's design document (docs.mcuboot.com/design.html, "Image format", "Protected TLVs"): all
integers are little endian; the hash covers everything before the unprotected TLVs.  It is what a
device calls the image by over SMP, so it is recomputed here: a file that a copy has damaged never
reaches the line.

The signature is only looked for: which key is right is known to the bootloader alone.  Refused are
also images that would be tried differently from what `firmware_update.py` promises: encrypted (the
hash is of the plain program, which is not here), padded (`imgtool sign --pad` adds the flags that
the update itself must set), and not bootable ones.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from wire.errors import MalformedError, TooLargeError

MAGIC: Final = 0x96F3B83D
LARGEST_FILE_BYTES: Final = 32 << 20
"""Above the internal and usual external flash of any microcontroller."""

_HEADER: Final = struct.Struct("<IIHHIIBBHI4x")
_TLV_AREA: Final = struct.Struct("<HH")
_TLV: Final = struct.Struct("<HH")
_TLV_MAGIC, _PROTECTED_MAGIC = 0x6907, 0x6908
_HASHES: Final = {0x10: "sha256", 0x11: "sha384", 0x12: "sha512"}
_SIGNATURES: Final = frozenset({0x20, 0x22, 0x23, 0x24})
_ENCRYPTED, _NOT_BOOTABLE = 0x04 | 0x08, 0x10
_OTHER_FILES: Final = (
    (b"\x7fELF", "an ELF file; the linker's output has to be signed first, by `imgtool sign`"),
    (b":", "Intel HEX; give the .bin file that was made beside it"),
    (b"PK\x03\x04", "a zip archive; unpack it and give the .bin file in it"),
)


@dataclass(frozen=True, slots=True)
class McubootImage:
    """An image whose sizes and hash are right.

    Attributes:
      data: the whole file.
      version: as MCUboot writes it: major.minor.revision, and .build where it is not 0.
      hash: of header, program and protected TLVs; 32, 48 or 64 bytes.
      is_signed: it has a signature, of whatever key.
    """

    data: bytes
    version: str
    hash: bytes
    is_signed: bool


def parse_image(data: bytes) -> McubootImage:
    """Check an image file.

    Raises:
      MalformedError: it is no image, or one that must not be sent; says why and what to do.
      TooLargeError: over LARGEST_FILE_BYTES.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise TooLargeError(f"{len(data):,} bytes; the largest image is {LARGEST_FILE_BYTES:,}")
    if len(data) < _HEADER.size or _HEADER.unpack_from(data)[0] != MAGIC:
        raise MalformedError(_what_else(data))
    _, _, header_bytes, protected_bytes, program_bytes, flags, *version = _HEADER.unpack_from(data)
    if flags & _ENCRYPTED:
        raise MalformedError("the image is encrypted; its hash can not be checked here")
    if flags & _NOT_BOOTABLE:
        raise MalformedError("the image is marked as not bootable")
    if header_bytes < _HEADER.size:
        raise MalformedError(f"a header of {header_bytes} bytes; it has at least {_HEADER.size}")
    program_end = header_bytes + program_bytes
    hashed_end = program_end + protected_bytes
    if protected_bytes:
        _tlvs(data, program_end, _PROTECTED_MAGIC, protected_bytes)
    entries, end = _tlvs(data, hashed_end, _TLV_MAGIC, 0)
    if end != len(data):
        raise MalformedError(
            f"{len(data) - end} bytes follow the image; sign it without --pad and --confirm: "
            "marking it for a trial is this command's work"
        )
    return McubootImage(
        data,
        _version_text(*version),
        _checked_hash(data[:hashed_end], entries),
        any(kind in _SIGNATURES for kind, _ in entries),
    )


def _what_else(data: bytes) -> str:
    for start, words in _OTHER_FILES:
        if data.startswith(start):
            return words
    found = data[:4].hex(" ") or "nothing"
    return (
        f"not an MCUboot image: it begins with {found} instead of "
        f"{MAGIC.to_bytes(4, 'little').hex(' ')}; Zephyr's is build/zephyr/zephyr.signed.bin"
    )


def _tlvs(data: bytes, start: int, magic: int, size: int) -> tuple[list[tuple[int, bytes]], int]:
    """The types and values of an area, and where it ends; `size` 0 takes the area's word for it."""
    if start + _TLV_AREA.size > len(data):
        raise MalformedError(
            f"cut: its header says that TLVs follow at byte {start:,}, and it has {len(data):,}"
        )
    found, total = _TLV_AREA.unpack_from(data, start)
    if found != magic or (size and total != size):
        raise MalformedError(f"no TLV area where its header says, at byte {start:,}")
    end, at = start + total, start + _TLV_AREA.size
    if end > len(data):
        raise MalformedError(f"cut: its TLVs end at byte {end:,}, and it has {len(data):,}")
    entries = []
    while at < end:
        if at + _TLV.size > end:
            raise MalformedError(f"a TLV that leaves its area, at byte {at:,}")
        kind, length = _TLV.unpack_from(data, at)
        at += _TLV.size
        if at + length > end:
            raise MalformedError(f"a TLV that leaves its area, at byte {at - _TLV.size:,}")
        entries.append((kind, data[at : at + length]))
        at += length
    return entries, end


def _checked_hash(hashed: bytes, entries: list[tuple[int, bytes]]) -> bytes:
    hashes = [(kind, value) for kind, value in entries if kind in _HASHES]
    if len(hashes) != 1:
        raise MalformedError(f"{len(hashes)} hashes among its TLVs; an image has one")
    kind, told = hashes[0]
    if hashlib.new(_HASHES[kind], hashed).digest() != told:
        raise MalformedError(
            f"damaged: the {_HASHES[kind].upper()} of its bytes is not the one that it carries; "
            "copy or build it again"
        )
    return told


def _version_text(major: int, minor: int, revision: int, build: int) -> str:
    text = f"{major}.{minor}.{revision}"
    return f"{text}.{build}" if build else text

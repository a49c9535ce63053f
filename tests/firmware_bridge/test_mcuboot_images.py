"""MCUboot image files, with `imgtool`, MCUboot's own tool, as the oracle."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.mcuboot_image import LARGEST_FILE_BYTES, McubootImage, parse_image
from shopfloor.mcuboot import build_image, look_at
from wire.errors import WireError

IMAGE = build_image((1, 2, 3, 4), program_bytes=500)
FLAGS_AT, PROTECTED_AT, PROGRAM_SIZE_AT, HEADER_SIZE_AT = 16, 10, 12, 8


def imgtool(*arguments: str | Path) -> None:
    pytest.importorskip("imgtool")
    command = [sys.executable, "-m", "imgtool.main", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def signed(tmp_path: Path, *options: str | Path) -> bytes:
    program, image = tmp_path / "program.bin", tmp_path / "signed.bin"
    program.write_bytes(bytes(range(256)) * 3)
    imgtool(
        "sign", "--version", "2.0.1+9", "--header-size", "0x200", "--pad-header",
        "--slot-size", "0x8000", "--align", "8", *options, program, image,
    )  # fmt: skip
    return image.read_bytes()


def patched(at: int, layout: str, value: int) -> bytes:
    data = bytearray(IMAGE)
    struct.pack_into(layout, data, at, value)
    return bytes(data)


def test_version_and_hash_of_an_image_are_read() -> None:
    image = parse_image(IMAGE)
    assert (image.version, image.is_signed) == ("1.2.3.4", False)
    assert image.hash == IMAGE[-32:]


def test_imgtool_finds_our_images_right(tmp_path: Path) -> None:
    path = tmp_path / "ours.bin"
    path.write_bytes(IMAGE)
    imgtool("verify", path)


def test_an_image_that_imgtool_signed_with_protected_tlvs_is_read(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    imgtool("keygen", "-k", key, "-t", "ed25519")
    data = signed(tmp_path, "--key", key, "--security-counter", "3")
    image = parse_image(data)
    assert (image.version, image.is_signed) == ("2.0.1.9", True)
    assert image.data == data


def test_the_simulated_bootloader_reads_what_imgtool_made(tmp_path: Path) -> None:
    data = signed(tmp_path)
    found = look_at(data)
    assert found is not None
    assert found.is_whole
    assert (found.version, found.hash) == ("2.0.1.9", parse_image(data).hash)


def test_a_padded_image_is_refused_because_it_carries_flags_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(WireError, match="sign it without --pad and --confirm"):
        parse_image(signed(tmp_path, "--pad", "--confirm"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "begins with nothing instead of 3d b8 f3 96"),
        (b"\x7fELF" + bytes(60), "an ELF file"),
        (b":020000040800F2\n", "Intel HEX"),
        (b"PK\x03\x04" + bytes(60), "zip archive"),
        (bytes(64), "begins with 00 00 00 00"),
        (IMAGE[:-1], "cut: its TLVs end at byte 572, and it has 571"),
        (IMAGE[:300], "cut: its header says that TLVs follow at byte 532, and it has 300"),
        (IMAGE + b"\xff", "1 bytes follow the image"),
        (IMAGE[:100] + b"\x00" + IMAGE[101:], "damaged: the SHA256 of its bytes"),
        (IMAGE[:-1] + bytes([IMAGE[-1] ^ 1]), "damaged"),
        (patched(FLAGS_AT, "<I", 0x04), "encrypted"),
        (patched(FLAGS_AT, "<I", 0x10), "not bootable"),
        (patched(HEADER_SIZE_AT, "<H", 16), "a header of 16 bytes"),
        (patched(PROGRAM_SIZE_AT, "<I", 499), "no TLV area"),
        (patched(PROTECTED_AT, "<H", 8), "no TLV area"),
        (patched(len(IMAGE) - 36, "<H", 0x40), "0 hashes among its TLVs"),
        (patched(len(IMAGE) - 34, "<H", 99), "a TLV that leaves its area"),
        (bytes(LARGEST_FILE_BYTES + 1), "the largest image"),
    ],
)  # fmt: skip
def test_what_is_no_image_to_be_sent_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse_image(data)


@given(st.binary(max_size=24), st.integers(0, len(IMAGE)), st.integers(0, 40))
def test_any_bytes_are_a_whole_image_or_refused(piece: bytes, at: int, cut: int) -> None:
    data = IMAGE[:at] + piece + IMAGE[at + cut :]
    try:
        image = parse_image(data)
    except WireError:
        return
    assert isinstance(image, McubootImage)
    assert data == IMAGE

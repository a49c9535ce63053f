"""Keys: the standard's vectors, files that only their owner can read, and never on a screen."""

import os
import stat
from pathlib import Path

import pytest

from wire.errors import SettingsError, SignatureError
from wire.signing import (
    PrivateKey,
    PublicKey,
    parse_public_key,
    read_private_key,
    write_private_key,
)

KEY = PrivateKey(bytes(range(32)))


def test_signatures_are_those_of_rfc_8032() -> None:
    # Section 7.1, test 3.
    key = PrivateKey(
        bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    )
    assert key.public.raw.hex() == (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
    )
    signature = key.sign(bytes.fromhex("af82"))
    assert signature.hex() == (
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    key.public.verify(signature, bytes.fromhex("af82"), "the vector")


@pytest.mark.parametrize("signature", [b"", bytes(64), KEY.sign(b"other"), KEY.sign(b"data")[:63]])
def test_a_wrong_signature_is_refused_and_says_of_what(signature: bytes) -> None:
    with pytest.raises(SignatureError, match="head from coordinator"):
        KEY.public.verify(signature, b"data", "head from coordinator")


def test_a_public_key_that_is_none_refuses_everything() -> None:
    with pytest.raises(SignatureError):
        PublicKey(bytes(31)).verify(KEY.sign(b"data"), b"data", "x")


def test_new_keys_differ() -> None:
    assert PrivateKey.generate() != PrivateKey.generate()


def test_a_private_key_is_in_no_representation() -> None:
    for shown in (repr(KEY), str(KEY), f"{KEY}", f"{[KEY]}"):
        assert KEY.raw.hex() not in shown
        assert repr(KEY.raw) not in shown
        assert KEY.public.raw.hex()[:16] in shown


def test_a_key_file_is_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "agent.key"
    before = os.umask(0)
    try:
        write_private_key(path, KEY)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private_key(path) == KEY


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "agent.key"
    write_private_key(path, KEY)
    with pytest.raises(FileExistsError):
        write_private_key(path, PrivateKey.generate())
    assert read_private_key(path) == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777, 0o610])
def test_a_key_file_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "agent.key"
    write_private_key(path, KEY)
    path.chmod(mode)
    with pytest.raises(SettingsError, match="chmod 600") as refused:
        read_private_key(path)
    assert refused.value.file == str(path)


@pytest.mark.parametrize(("mode", "is_read"), [(0o440, True), (0o460, False), (0o444, False)])
def test_systemds_copy_of_a_key_may_show_group_read_and_no_other_file_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, is_read: bool
) -> None:
    (tmp_path / "credentials").mkdir()
    inside, outside = tmp_path / "credentials" / "agent.key", tmp_path / "agent.key"
    for path in (inside, outside):
        write_private_key(path, KEY)
        path.chmod(mode)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(inside.parent))
    if is_read:
        assert read_private_key(inside) == KEY
    else:
        with pytest.raises(SettingsError, match="others can read"):
            read_private_key(inside)
    with pytest.raises(SettingsError, match="others can read"):
        read_private_key(outside)


@pytest.mark.parametrize(
    "text",
    [
        "",
        KEY.raw.hex(),
        "journeyman-private-key:",
        "journeyman-private-key:" + "zz" * 32,
        "journeyman-private-key:" + "00" * 31,
        "journeyman-private-key:" + "00" * 1000,
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "agent.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="not a Journeyman private key"):
        read_private_key(path)


def test_a_file_that_is_missing_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can not read"):
        read_private_key(tmp_path / "nothing.key")
    path = tmp_path / "binary.key"
    path.write_bytes(b"\xff" * 50)
    with pytest.raises(SettingsError, match="can not read"):
        read_private_key(path)


def test_a_public_key_is_parsed_from_hexadecimal_digits() -> None:
    assert parse_public_key(KEY.public.raw.hex()) == KEY.public
    for text in ("", "00" * 31, "00" * 33, "zz" * 32):
        with pytest.raises(ValueError, match=r"hexadecimal"):
            parse_public_key(text)

"""`journeyman-helper`: a helper's keys, and whether a charter names them."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from coordinator.helper.identity import differences, make_helper, own_keys
from coordinator.helper.main import main
from wire.errors import SettingsError
from wire.keys import CHARTER, make_federation, read_helper
from wire.messages import Charter, HelperKeys
from wire.sealing_keys import SealingKey
from wire.signing import read_private_key


def charter_with(*helpers: HelperKeys) -> Charter:
    key = bytes(32)
    return Charter(
        federation="plant-net",
        epoch=1,
        enrolment_key=key,
        coordinator_key=key,
        author_keys=(key,),
        helpers=helpers,
    )


def others(directory: Path) -> list[HelperKeys]:
    """The two helpers beside the one that a test is about."""
    return [make_helper(directory / name, name) for name in ("union", "church")]


def test_the_keys_are_private_and_their_public_halves_go_to_the_charter(tmp_path: Path) -> None:
    assert main(["keys", "notary", "--out", str(tmp_path)]) == 0
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert files["notary.signing.key"] == files["notary.sealing.key"] == 0o600
    keys = {"notary.signing.key", "notary.sealing.key", "notary.public"}
    assert set(files) == keys | {"helper.db"}
    assert files["helper.db"] == 0o600
    public = read_helper(tmp_path / "notary.public")
    assert public == own_keys(tmp_path)
    assert public.signing == read_private_key(tmp_path / "notary.signing.key").public.raw
    line = (tmp_path / "notary.sealing.key").read_text()
    assert line.startswith("journeyman-sealing-key:")
    assert len(line) == len("journeyman-sealing-key:") + 64 + 1
    for name in ("signing", "sealing"):
        secret = (tmp_path / f"notary.{name}.key").read_text().split(":")[1].strip()
        assert secret not in (tmp_path / "notary.public").read_text()


def test_what_is_sealed_for_the_public_half_opens_with_the_private_one() -> None:
    key, sender = SealingKey.generate(), X25519PrivateKey.generate()
    ours = X25519PrivateKey.from_private_bytes(key.raw).exchange(sender.public_key())
    assert sender.exchange(X25519PublicKey.from_public_bytes(key.public)) == ours
    assert key.raw.hex() not in repr(key)


@pytest.mark.parametrize("survivor", ["signing.key", "sealing.key", "public"])
def test_keys_are_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], survivor: str
) -> None:
    make_helper(tmp_path, "notary")
    for path in tmp_path.iterdir():
        if not path.name.endswith(survivor):
            path.unlink()
    (kept,) = tmp_path.iterdir()
    before = kept.read_bytes()
    assert main(["keys", "notary", "--out", str(tmp_path)]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_an_illegal_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "../evil", "--out", str(tmp_path / "new")]) == 2
    assert "helper '../evil' must match" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_charter_that_names_the_helper_passes_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_helper(tmp_path / "helper", "notary")
    public = read_helper(tmp_path / "helper" / "notary.public")
    root = make_federation(tmp_path / "keys", "plant-net", helpers=(public, *others(tmp_path)))
    words = [str(tmp_path / "keys" / CHARTER), "--root", root.raw.hex()]
    assert main(["check", *words, "--keys", str(tmp_path / "helper")]) == 0
    assert "federation plant-net names helper notary" in capsys.readouterr().out


def test_a_charter_that_does_not_fails_it_with_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_helper(tmp_path / "helper", "notary")
    make_helper(tmp_path / "other", "notary")
    public = read_helper(tmp_path / "other" / "notary.public")
    root = make_federation(tmp_path / "keys", "plant-net", helpers=(public, *others(tmp_path)))
    words = [str(tmp_path / "keys" / CHARTER), "--root", root.raw.hex()]
    assert main(["check", *words, "--keys", str(tmp_path / "helper")]) == 1
    said = capsys.readouterr().err
    assert f"the charter's signing key is {public.signing.hex()}" in said
    assert f"the charter's sealing key is {public.sealing.hex()}" in said


def test_a_charter_of_another_root_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = make_helper(tmp_path / "helper", "notary")
    make_federation(tmp_path / "keys", "plant-net", helpers=(public, *others(tmp_path)))
    words = [str(tmp_path / "keys" / CHARTER), "--root", "11" * 32]
    assert main(["check", *words, "--keys", str(tmp_path / "helper")]) == 2
    assert "charter from root: the signature does not verify" in capsys.readouterr().err
    words[2] = "11"
    assert main(["check", *words, "--keys", str(tmp_path / "helper")]) == 2
    assert "--root: a public key has 64 hexadecimal digits" in capsys.readouterr().err


def test_every_way_to_differ_is_named() -> None:
    ours = HelperKeys(name="notary", signing=bytes([1] * 32), sealing=bytes([2] * 32))
    other = HelperKeys(name="union", signing=bytes([3] * 32), sealing=bytes([4] * 32))
    assert differences(charter_with(ours, other), ours) == []
    assert differences(charter_with(other), ours) == [
        "the charter lists no helper notary; it lists union"
    ]
    assert differences(charter_with(), ours) == [
        "the charter lists no helper notary; it lists none"
    ]
    assert differences(charter_with(ours, ours), ours) == ["the charter lists notary 2 times"]
    twin = HelperKeys(name="union", signing=ours.signing, sealing=other.sealing)
    assert differences(charter_with(ours, twin), ours) == [
        "union has a key of this helper: one party would count twice"
    ]


def test_a_directory_must_hold_exactly_one_helpers_keys(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="found none"):
        own_keys(tmp_path)
    make_helper(tmp_path, "notary")
    make_helper(tmp_path, "union")
    with pytest.raises(SettingsError, match=r"found notary\.signing\.key, union\.signing\.key"):
        own_keys(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.chmod(0o640), "chmod 600"),
        (lambda path: path.unlink(), "can not read the private key"),
        (lambda path: path.write_text("journeyman-private-key:" + "00" * 32), "not a helper's"),
        (lambda path: path.write_text("journeyman-sealing-key:00"), "not a helper's"),
        (lambda path: path.write_text("journeyman-sealing-key:zz"), "not a helper's"),
    ],
)
def test_a_spoiled_sealing_key_is_refused(tmp_path: Path, spoil: object, reason: str) -> None:
    make_helper(tmp_path, "notary")
    assert callable(spoil)
    spoil(tmp_path / "notary.sealing.key")
    with pytest.raises(SettingsError, match=reason):
        own_keys(tmp_path)


def test_the_help_says_what_a_helper_is_and_what_never_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "run by somebody other than the coordinator's operator" in said
    assert "Never restore the store from a backup" in said

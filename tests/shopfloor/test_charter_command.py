"""`journeyman keys`: keys made where they live, and the charters that name them."""

import stat
from pathlib import Path

import msgspec
import pytest

from coordinator.helper.main import main as helper_main
from shopfloor.main import main
from wire.keys import make_federation, read_federation
from wire.messages import Charter, Recipient, Safeguards
from wire.signing import read_private_key


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root's directory, with the first charter."""
    make_federation(tmp_path / "root", "plant-net")
    return tmp_path / "root"


def charter_of(directory: Path) -> Charter:
    return read_federation(directory)[2].charter


def sign(root: Path, *words: str) -> int:
    return main(["keys", "charter", str(root), *words, "--yes"])


def test_a_federation_can_be_founded_on_keys_that_were_made_where_they_live(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = []
    for name in ("coordinator", "author", "enrolment"):
        assert main(["keys", name, "--out", str(tmp_path / name)]) == 0
        key = tmp_path / name / f"{name}.key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        given += [f"--{name}-key", str(tmp_path / name / f"{name}.pub")]
    sealing = str(tmp_path / "coordinator" / "coordinator.sealing.pub")
    words = ["plant-net", "--keys", str(tmp_path / "root"), "--coordinator-sealing-key", sealing]
    assert main(["keys", "federation", *words, *given]) == 0
    files = {path.name for path in (tmp_path / "root").iterdir()}
    assert files == {"root.key", "root.pub", "charter.jm"}
    made = charter_of(tmp_path / "root")
    assert (
        made.coordinator_key
        == read_private_key(tmp_path / "coordinator" / "coordinator.key").public.raw
    )
    assert made.coordinator_sealing_key.hex() == Path(sealing).read_text().strip()
    assert main(["keys", "author", "--out", str(tmp_path / "author")]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_the_next_charter_shows_what_changes_and_keeps_the_one_before(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = charter_of(root)
    for name in ("coordinator", "author"):
        main(["keys", name, "--out", str(tmp_path / "new")])
    capsys.readouterr()
    new = {name: str(tmp_path / "new" / f"{name}.pub") for name in ("coordinator", "author")}
    words = ["--coordinator-key", new["coordinator"], "--add-author", new["author"]]
    words += ["--remove-author", before.author_keys[0].hex(), "--k-min", "2", "--recover"]
    assert sign(root, *words, "--site", "plant-a", "--site", "plant-b") == 0
    after, said = charter_of(root), capsys.readouterr().out
    assert (after.epoch, after.recovery, after.k_min) == (2, 1, 2)
    assert after.sites == ("plant-a", "plant-b")
    assert after.coordinator_sealing_key == b""  # the old coordinator holds that one
    assert f"- author_keys {before.author_keys[0].hex()}" in said
    assert f"+ author_keys {after.author_keys[0].hex()}" in said
    assert "given up" in said
    assert (root / "charter-1.jm").exists()
    assert sign(root, "--remove-site", "plant-b", "--site", "plant-c") == 0
    assert charter_of(root).sites == ("plant-a", "plant-c")
    assert charter_of(root).recovery == 1
    assert sign(root, "--any-site") == 0
    assert charter_of(root).sites == ()


def test_helpers_recipient_and_floors_come_and_go(root: Path, tmp_path: Path) -> None:
    words = []
    for name in ("notary", "union", "church"):
        helper_main(["keys", name, "--out", str(tmp_path / name)])
        words += ["--helper", str(tmp_path / name / f"{name}.public")]
    floor = ["--least-protection", "masked", "--least-privacy", "update", "--least-noise", "0.5"]
    assert sign(root, *words, *floor) == 0
    made = charter_of(root)
    assert [helper.name for helper in made.helpers] == ["notary", "union", "church"]
    assert made.least == Safeguards(protection="masked", privacy="update", noise_multiplier=0.5)
    helper_main(["keys", "union", "--out", str(tmp_path / "again")])
    assert sign(root, "--helper", str(tmp_path / "again" / "union.public")) == 0
    changed = charter_of(root)
    assert [helper.name for helper in changed.helpers] == ["notary", "union", "church"]
    assert changed.helpers[1] != made.helpers[1]
    recipient = Recipient(name="hospital", signing=bytes([9] * 32), context=bytes([8] * 32))
    (tmp_path / "hospital.recipient").write_bytes(msgspec.json.encode(recipient))
    assert sign(root, "--recipient", str(tmp_path / "hospital.recipient")) == 0
    assert charter_of(root).recipient == recipient
    assert sign(root, "--no-recipient") == 0
    assert charter_of(root).recipient is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "nothing would change"),
        (["--k-min", "0"], "at least 1"),
        (["--remove-author", "11" * 32], "does not name 1111"),
        (["--remove-site", "plant-a"], "does not name plant-a"),
        (["--remove-helper", "notary"], "does not name notary"),
        (["--site", "plant a"], "must match"),
        (["--least-protection", "masked"], "demands masks and names no helpers"),
        (["--site", "plant-a", "--k-min", "2"], "1 sites can not be the 2"),
        (["--coordinator-key", "nowhere.pub"], "can not read a public key"),
        (["--recipient", "/dev/null"], "not a recipient's public file"),
    ],
)
def test_what_can_not_be_is_not_signed(
    root: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    assert sign(root, *words) == 2
    assert reason in capsys.readouterr().err
    assert charter_of(root).epoch == 1


def test_the_last_author_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sign(root, "--remove-author", charter_of(root).author_keys[0].hex()) == 2
    assert "one author has to stay" in capsys.readouterr().err


def test_without_somebody_to_ask_nothing_is_signed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "charter", str(root), "--k-min", "3"]) == 1
    assert "not signed" in capsys.readouterr().err
    assert charter_of(root).epoch == 1


def test_where_the_root_key_is_not_nothing_is_signed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "root.key").unlink()
    assert sign(root, "--k-min", "3") == 2
    assert "root.key" in capsys.readouterr().err
    assert charter_of(root).epoch == 1


def test_a_charter_is_shown_with_all_it_says(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sign(root, "--site", "plant-a", "--least-privacy", "record")
    capsys.readouterr()
    words = ["--root", (root / "root.pub").read_text().strip()]
    assert main(["keys", "show", str(root / "charter.jm"), *words]) == 0
    shown = capsys.readouterr().out
    for field in Charter.__struct_fields__:
        assert f"\n{field} " in f"\n{shown}"
    assert "privacy record" in shown

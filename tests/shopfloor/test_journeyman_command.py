"""The umbrella command: keys and bundles as a person makes them, and errors that say what to do."""

import re
from pathlib import Path

import pytest

from shopfloor.main import main
from wire.signing import read_private_key

JOB = Path(__file__).resolve().parents[2] / "configs" / "jobs" / "ai4i.toml"


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """A federation's key directory and its root's public key, as the command printed it."""
    directory = tmp_path / "keys"
    assert main(["keys", "federation", "mills", "--keys", str(directory), "--k-min", "2"]) == 0
    printed = capsys.readouterr().out
    root = printed.partition('root = "')[2].partition('"')[0]
    return directory, root


def test_a_federation_is_made_from_an_offline_root_down_to_an_agents_credential(
    keys: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, root = keys
    assert read_private_key(directory / "root.key").public.raw.hex() == root
    assert main(["keys", "agent", "gateway-1", "--site", "plant-a", "--keys", str(directory)]) == 0
    capsys.readouterr()
    assert main(["keys", "show", str(directory / "charter.jm"), "--root", root]) == 0
    shown = capsys.readouterr().out
    assert "mills" in shown
    assert re.search(r"^k_min +2$", shown, re.MULTILINE)
    assert {path.stat().st_mode & 0o777 for path in directory.glob("*.key")} == {0o600}


def test_a_key_is_never_overwritten(
    keys: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, root = keys
    assert main(["keys", "federation", "mills", "--keys", str(directory)]) == 2
    assert "keys are never overwritten" in capsys.readouterr().err
    assert read_private_key(directory / "root.key").public.raw.hex() == root


def test_a_charter_is_refused_under_another_root(
    keys: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, root = keys
    other = read_private_key(directory / "author.key").public.raw.hex()
    assert other != root
    assert main(["keys", "show", str(directory / "charter.jm"), "--root", other]) == 2
    assert "the signature does not verify" in capsys.readouterr().err


def test_a_bundle_is_built_from_its_description_and_inspected(
    keys: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, root = keys
    bundle = tmp_path / "ai4i.jm"
    assert main(["bundle", "build", str(JOB), "--keys", str(directory), "--out", str(bundle)]) == 0
    words = ["bundle", "inspect", str(bundle), "--root", root]
    assert main([*words, "--charter", str(directory / "charter.jm")]) == 0
    shown = capsys.readouterr().out
    assert "ai4i-maintenance revision 1" in shown
    assert "torque [Nm]" in shown
    assert "parameters 2497" in shown
    assert "golden vectors hold on this machine" in shown


def test_an_altered_bundle_is_refused_with_the_reason(
    keys: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, root = keys
    bundle = tmp_path / "ai4i.jm"
    assert main(["bundle", "build", str(JOB), "--keys", str(directory), "--out", str(bundle)]) == 0
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    words = ["bundle", "inspect", str(bundle), "--root", root]
    assert main([*words, "--charter", str(directory / "charter.jm")]) == 2
    assert "none of the charter's 1 author keys signed it" in capsys.readouterr().err


def test_a_description_with_an_unknown_key_names_file_line_and_key(
    keys: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _ = keys
    description = tmp_path / "job.toml"
    description.write_text(JOB.read_text().replace("hidden =", "hiden ="))
    line = next(
        number
        for number, text in enumerate(description.read_text().splitlines(), 1)
        if text.startswith("hiden")
    )
    out = str(tmp_path / "x.jm")
    assert main(["bundle", "build", str(description), "--keys", str(directory), "--out", out]) == 2
    assert f"{description}:{line}: family.hiden: unknown key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--duration", "1"), ("--down-share", "1"), ("--strategy", "best")]
)
def test_the_demo_refuses_what_it_can_not_do(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", option, value])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_the_demo_names_file_line_and_column_of_a_table_it_can_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "bad.csv"
    table.write_text("UDI,Type\n1,L\n")
    assert main(["demo", "--data", str(table), "--out", str(tmp_path / "out")]) == 1
    assert str(table) in capsys.readouterr().err


def test_the_other_programs_are_opened_from_here(capsys: pytest.CaptureFixture[str]) -> None:
    for program in ("agent", "coordinator"):
        with pytest.raises(SystemExit) as ended:
            main([program, "--help"])
        assert ended.value.code == 0
        assert f"journeyman-{program}" in capsys.readouterr().out

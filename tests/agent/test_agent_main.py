"""The agent's command line: what it says and how it ends."""

from pathlib import Path

import pytest

from agent.main import main
from agent.status import Status, write_status
from tests.agent.federation import AGENT, FEDERATION, SITE, Federation, agent_toml


@pytest.fixture
def config(tmp_path: Path, federation: Federation) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(agent_toml(federation))
    return path


def test_check_says_who_the_agent_is(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(config)]) == 0
    said = capsys.readouterr().out
    for part in (AGENT, SITE, FEDERATION, "7 channels", "opc.tcp://127.0.0.1:4840/machine"):
        assert part in said


@pytest.mark.parametrize("command", ["check", "run", "status"])
def test_a_wrong_file_ends_every_command_with_2_and_names_file_line_and_key(
    config: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    text = config.read_text().replace("pause_s", "pauses")
    config.write_text(text)
    line = next(at for at, row in enumerate(text.splitlines(), 1) if "pauses" in row)
    assert main([command, str(config)]) == 2
    said = capsys.readouterr().err
    assert said == f"journeyman-agent: {config}:{line}: training.pauses: unknown key\n"


def test_a_missing_file_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nothing.toml")]) == 2
    assert "nothing.toml" in capsys.readouterr().err


def test_status_prints_every_field_of_the_running_agent(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = config.parent / "state"
    state.mkdir()
    status = Status(agent=AGENT, site=SITE, federation=FEDERATION, pid=1, produced=41)
    write_status(state, status)
    assert main(["status", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(status.__struct_fields__)
    assert ["produced", "41"] in [line.split() for line in lines]


def test_status_before_the_first_run_ends_with_1(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(config)]) == 1
    assert "has not run" in capsys.readouterr().err


def test_a_state_directory_that_can_not_be_made_ends_with_2(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "state").write_text("a file is in the way")
    assert main(["run", str(config)]) == 2
    assert "agent.state_dir: can not use" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "usage: journeyman-agent" in said
    for part in ("run", "check", "status", "--verbose", "configs/agent.toml"):
        assert part in said


@pytest.mark.parametrize("arguments", [[], ["walk", "agent.toml"], ["run"]])
def test_a_wrong_command_line_ends_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: journeyman-agent" in capsys.readouterr().err

"""The units, judged by systemd's own tools, which need no running systemd."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MOST_EXPOSURE = 1.5
PROGRAM = "/opt/journeyman/bin/journeyman-agent"


@pytest.fixture
def unit(repository: Path, tmp_path: Path) -> Path:
    """A copy of the unit with its drop-ins, whose program exists on this machine."""
    folder = tmp_path / "system"
    shutil.copytree(repository / "systemd", folder)
    copy = folder / "journeyman-agent.service"
    text = copy.read_text()
    assert f"ExecStart={PROGRAM} run /etc/journeyman/agent.toml\n" in text
    copy.write_text(text.replace(PROGRAM, "/bin/true"))
    return copy


def _judge(systemd_analyze: str, unit: Path) -> tuple[float, str]:
    """Return the exposure, and the whole table that explains it."""
    command = [systemd_analyze, "security", "--offline=yes", "--no-pager", str(unit)]
    # In a plain C locale the marks of the table are ASCII art.
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    overall = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", ended.stdout)
    assert overall is not None, ended.stdout
    return float(overall.group(1)), ended.stdout


def test_systemd_finds_nothing_to_criticise_in_the_agents_unit(
    systemd_analyze_program: str, unit: Path
) -> None:
    command = [systemd_analyze_program, "verify", "--man=no", str(unit)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "")


def test_the_agents_exposure_is_within_the_limit(systemd_analyze_program: str, unit: Path) -> None:
    exposure, table = _judge(systemd_analyze_program, unit)
    assert exposure <= MOST_EXPOSURE
    assert "✓ MemoryDenyWriteExecute=" in table  # so the drop-in was read


def test_the_exposure_stays_within_the_limit_without_the_removable_drop_in(
    systemd_analyze_program: str, unit: Path
) -> None:
    shutil.rmtree(unit.with_name(unit.name + ".d"))
    exposure, table = _judge(systemd_analyze_program, unit)
    assert exposure <= MOST_EXPOSURE
    assert "✗ MemoryDenyWriteExecute=" in table


def test_the_documented_drop_in_for_serial_ports_is_accepted_and_within_the_limit(
    systemd_analyze_program: str, unit: Path, repository: Path
) -> None:
    readme = (repository / "systemd/README.md").read_text()
    (drop_in,) = re.findall(r"```ini\n(\[Service\]\nSupplementaryGroups=.*?)```", readme, re.DOTALL)
    (unit.with_name(unit.name + ".d") / "serial.conf").write_text(drop_in)
    command = [systemd_analyze_program, "verify", "--man=no", str(unit)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    exposure, _ = _judge(systemd_analyze_program, unit)
    assert exposure <= MOST_EXPOSURE


def test_the_unit_restarts_the_agent_after_every_exit_and_never_gives_up(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    for line in (
        "Type=notify",
        "Restart=always",
        "StartLimitIntervalSec=0",
        "WatchdogSec=60s",
        "StateDirectory=journeyman-agent",
        "LoadCredential=agent.key:/etc/journeyman/agent.key",
        "DynamicUser=yes",
    ):
        assert line in lines

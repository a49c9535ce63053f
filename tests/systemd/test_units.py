"""The units, judged by systemd's own tools, which need no running systemd."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

MOST_EXPOSURE = 1.5
PROGRAMS = re.compile(r"^ExecStart=/opt/journeyman/bin/(\S+) (\S+) (\S+)$", re.MULTILINE)
# systemd finds the template journeyman-agent@.service for an instance by itself.
INSTANCE = "journeyman-agent@paint.service"
AGENTS = ("journeyman-agent.service", INSTANCE)
BRIDGE = "journeyman-bridge@press.service"
SERVICES = (
    *AGENTS,
    "journeyman-coordinator.service",
    "journeyman-coordinator-web.service",
    "journeyman-helper.service",
    BRIDGE,
)
UNITS = (*SERVICES, "journeyman.target", "journeyman.slice")
REMOVABLE = "memory-deny-write-execute.conf"
MODULES = {
    "journeyman-agent": "agent.main",
    "journeyman-coordinator": "coordinator.main",
    "journeyman-helper": "coordinator.helper.main",
    "journeyman-bridge": "firmware_bridge.main",
}
DROP_INS = (
    *(("serial.conf", agent) for agent in AGENTS),
    *(("bridge.conf", agent) for agent in AGENTS),
    *(("broker-secrets.conf", service) for service in (*SERVICES[:3], "journeyman-helper.service")),
    ("web-token.conf", "journeyman-coordinator-web.service"),
)


@pytest.fixture
def system(repository: Path, tmp_path: Path) -> Path:
    """A copy of all units, whose programs exist on this machine."""
    folder = tmp_path / "system"
    shutil.copytree(repository / "systemd", folder)
    for unit in folder.glob("*.service"):
        text, found = PROGRAMS.subn(r"ExecStart=/bin/true \2 \3", unit.read_text())
        assert found == 1, unit
        unit.write_text(text)
    return folder


def _template(name: str) -> str:
    return re.sub(r"@\w+\.", "@.", name)


def _drop_ins(system: Path, service: str) -> Path:
    return system / f"{_template(service)}.d"


def verify(systemd_analyze: str, unit: Path) -> str:
    """Return what systemd has to say about a unit: nothing at best."""
    ended = subprocess.run(
        [systemd_analyze, "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr + ended.stdout


def judge(systemd_analyze: str, unit: Path) -> tuple[float, str]:
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


def _settings(path: Path) -> list[str]:
    """Lines of a unit that say something to systemd."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_to_criticise_in_a_unit(
    systemd_analyze_program: str, system: Path, name: str
) -> None:
    assert verify(systemd_analyze_program, system / name) == ""


@pytest.mark.parametrize("name", SERVICES)
def test_the_exposure_is_within_the_limit_and_the_one_the_readme_tells(
    systemd_analyze_program: str, system: Path, name: str
) -> None:
    exposure, table = judge(systemd_analyze_program, system / name)
    assert exposure <= MOST_EXPOSURE
    assert "✓ MemoryDenyWriteExecute=" in table  # so the service's own drop-in was read
    readme = (system / "README.md").read_text()
    of_unit = rf"^\| `{re.escape(_template(name))}` \|.*\| (\S+) \|$"
    (told,) = re.findall(of_unit, readme, re.MULTILINE)
    assert float(told) == exposure


@pytest.mark.parametrize("name", SERVICES)
def test_the_exposure_stays_within_the_limit_without_the_removable_drop_in(
    systemd_analyze_program: str, system: Path, name: str
) -> None:
    (_drop_ins(system, name) / REMOVABLE).unlink()
    exposure, table = judge(systemd_analyze_program, system / name)
    assert exposure <= MOST_EXPOSURE
    assert "✗ MemoryDenyWriteExecute=" in table


@pytest.mark.parametrize("name", SERVICES)
def test_the_shared_rules_reach_a_service_by_its_name(
    systemd_analyze_program: str, system: Path, name: str
) -> None:
    shutil.rmtree(system / "journeyman-.service.d")
    exposure, _ = judge(systemd_analyze_program, system / name)
    assert exposure > MOST_EXPOSURE


@pytest.mark.parametrize(("drop_in", "name"), DROP_INS)
def test_a_drop_in_is_accepted_and_within_the_limit(
    systemd_analyze_program: str, system: Path, drop_in: str, name: str
) -> None:
    shutil.copy(system / "drop-ins" / drop_in, _drop_ins(system, name))
    assert verify(systemd_analyze_program, system / name) == ""
    exposure, _ = judge(systemd_analyze_program, system / name)
    assert exposure <= MOST_EXPOSURE


@pytest.mark.parametrize("name", AGENTS)
def test_the_serial_drop_in_outweighs_the_shared_rules(
    systemd_analyze_program: str, system: Path, name: str
) -> None:
    shutil.copy(system / "drop-ins/serial.conf", _drop_ins(system, name))
    _, table = judge(systemd_analyze_program, system / name)
    assert "✗ PrivateDevices=" in table
    assert "char-ttyUSB:rw" in table


def test_the_bridge_has_its_serial_ports_and_talks_to_this_machine_alone(
    systemd_analyze_program: str, system: Path
) -> None:
    _, table = judge(systemd_analyze_program, system / BRIDGE)
    assert "char-ttyACM:rw" in table
    assert "char-mem" not in table
    assert "only localhost entries" in table
    lines = _settings(system / _template(BRIDGE))
    assert "Group=journeyman-bridge" in lines
    users = (system / "journeyman.sysusers.conf").read_text()
    assert re.search("^g journeyman-bridge ", users, re.MULTILINE)
    agents = _settings(system / "drop-ins/bridge.conf")
    assert agents == ["[Service]", "SupplementaryGroups=journeyman-bridge"]


def test_the_bridges_ports_are_those_that_an_agent_gets_by_its_drop_in(system: Path) -> None:
    own = _settings(_drop_ins(system, BRIDGE) / "serial.conf")
    assert own == _settings(system / "drop-ins/serial.conf")


def test_every_drop_in_is_judged_here(system: Path) -> None:
    assert {path.name for path in (system / "drop-ins").iterdir()} == {name for name, _ in DROP_INS}


def test_drop_ins_sort_after_the_shared_rules_that_they_change(system: Path) -> None:
    (shared,) = (path.name for path in (system / "journeyman-.service.d").iterdir())
    others = [path.name for path in system.glob("drop-ins/*")] + [REMOVABLE]
    assert shared < min(others)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_starts_again_after_every_exit_and_systemd_never_gives_up(
    system: Path, name: str
) -> None:
    lines = _settings(system / _template(name))
    for line in (
        "Restart=always",
        "RestartSec=10s",
        "StartLimitIntervalSec=0",
        "PartOf=journeyman.target",
        "WantedBy=multi-user.target journeyman.target",
    ):
        assert line in lines


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_a_command_that_its_program_has(repository: Path, name: str) -> None:
    unit = (repository / "systemd" / _template(name)).read_text()
    ((program, command, config),) = PROGRAMS.findall(unit)
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    assert project["project"]["scripts"][program] == f"{MODULES[program]}:main"
    asked = [sys.executable, "-m", MODULES[program], command, "--help"]
    ended = subprocess.run(
        asked, capture_output=True, text=True, timeout=60, check=False, cwd=repository
    )
    assert ended.returncode == 0, ended.stderr
    assert Path(config).parent == Path("/etc/journeyman")


def test_the_agents_unit_tells_systemd_who_it_is_and_what_it_needs(system: Path) -> None:
    lines = _settings(system / "journeyman-agent.service")
    for line in (
        "Type=notify",
        "WatchdogSec=60s",
        "StateDirectory=journeyman-agent",
        "LoadCredential=agent.key:/etc/journeyman/agent.key",
        "DynamicUser=yes",
    ):
        assert line in lines


def test_a_line_differs_from_the_agent_in_its_identity_alone(system: Path) -> None:
    agent = _settings(system / "journeyman-agent.service")
    line = _settings(system / "journeyman-agent@.service")
    own = [setting for setting in line if setting not in agent]
    assert [setting.partition("=")[0] for setting in own] == [
        "Description",
        "ExecStart",
        "User",
        "StateDirectory",
        "RuntimeDirectory",
        "LoadCredential",
        "Slice",
    ]
    assert all("%i" in setting for setting in own if not setting.startswith("Slice="))
    gone = [setting.partition("=")[0] for setting in agent if setting not in line]
    own_places = ["StateDirectory", "RuntimeDirectory", "LoadCredential"]
    assert gone == ["Description", "ExecStart", *own_places]


def test_a_lines_name_of_23_characters_still_names_a_user(
    systemd_analyze_program: str, system: Path
) -> None:
    longest = system / f"journeyman-agent@{'a' * 23}.service"
    assert verify(systemd_analyze_program, longest) == ""
    too_long = system / f"journeyman-agent@{'a' * 24}.service"
    assert "does not match strict user/group name rules" in verify(
        systemd_analyze_program, too_long
    )


def test_coordinator_and_page_share_user_and_state_but_not_the_key(system: Path) -> None:
    coordinator = _settings(system / "journeyman-coordinator.service")
    page = _settings(system / "journeyman-coordinator-web.service")
    for line in (
        "User=journeyman-coordinator",
        "StateDirectory=journeyman-coordinator",
        "StateDirectoryMode=0700",
    ):
        assert line in coordinator
        assert line in page
    assert not any(line.startswith("LoadCredential") for line in page)


def test_all_lines_together_may_take_more_than_one_line_and_half_a_gateway(system: Path) -> None:
    def mebibytes(unit: str) -> int:
        (found,) = re.findall(r"^MemoryMax=(\d+)M$", (system / unit).read_text(), re.MULTILINE)
        return int(found)

    together = mebibytes("journeyman.slice")
    assert mebibytes("journeyman-agent@.service") < together <= 512

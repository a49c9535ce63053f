"""What systemd's tools make of the files in systemd/, each in a tree of its own."""

import re
import subprocess
from pathlib import Path

import pytest

SECRETS = ("agent.key", "paint.key", "broker.password", "web.token")


def _run(systemd_analyze: str, program: str, *arguments: str) -> str:
    """Run a program that comes with systemd-analyze; returns what it said."""
    ended = subprocess.run(
        [str(Path(systemd_analyze).with_name(program)), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture
def steps(repository: Path) -> list[str]:
    """The commands of systemd/README.md, one string for each block of them."""
    return re.findall(r"```sh\n(.*?)```", (repository / "systemd/README.md").read_text(), re.DOTALL)


def _installed(repository: Path, root: Path, steps: list[str]) -> Path:
    """Copy files as the README's first block says, into the tree `root`."""
    copying = [
        line for line in steps[0].splitlines() if line.startswith(("cd ", "cp ", "install "))
    ]
    (root / "etc/systemd/system").mkdir(parents=True)
    script = "\n".join(copying).replace("/etc/", f"{root}/etc/")
    subprocess.run(["sh", "-euc", script], cwd=repository, timeout=60, check=True)
    return root / "etc"


def test_the_documented_copying_installs_every_file(
    repository: Path, tmp_path: Path, steps: list[str]
) -> None:
    etc = _installed(repository, tmp_path, steps)
    names = {path.name for path in etc.rglob("*")}
    ours = {path.name for path in (repository / "systemd").iterdir()}
    apart = {"README.md", "drop-ins", "journeyman.sysusers.conf", "journeyman.tmpfiles.conf"}
    assert ours - apart <= names
    assert (etc / "systemd/system/journeyman-.service.d/10-hardening.conf").is_file()
    assert (etc / "sysusers.d/journeyman.conf").is_file()
    assert (etc / "tmpfiles.d/journeyman.conf").is_file()


def test_the_services_that_the_readme_enables_start_at_boot(
    systemd_analyze_program: str, repository: Path, tmp_path: Path, steps: list[str]
) -> None:
    etc = _installed(repository, tmp_path, steps)
    names = re.findall(r"^systemctl enable --now (.*)$", "\n".join(steps), re.MULTILINE)
    services = [name for line in names for name in line.split()]
    assert "journeyman-agent@paint" in services
    _run(systemd_analyze_program, "systemctl", f"--root={tmp_path}", "enable", *services)
    at_boot = {path.name for path in (etc / "systemd/system/multi-user.target.wants").iterdir()}
    assert at_boot == {
        "journeyman.target",
        "journeyman-agent.service",
        "journeyman-agent@paint.service",
        "journeyman-coordinator.service",
        "journeyman-coordinator-web.service",
        "journeyman-helper.service",
        "journeyman-bridge@press.service",
    }
    together = {path.name for path in (etc / "systemd/system/journeyman.target.wants").iterdir()}
    assert together == at_boot - {"journeyman.target"}


@pytest.mark.parametrize("service", ["coordinator", "helper"])
def test_a_service_gets_the_user_that_its_unit_names(
    systemd_analyze_program: str, repository: Path, tmp_path: Path, service: str
) -> None:
    file = repository / "systemd/journeyman.sysusers.conf"
    where = f"--root={tmp_path}"  # the user may exist on this machine
    said = _run(systemd_analyze_program, "systemd-sysusers", "--dry-run", where, str(file))
    unit = (repository / f"systemd/journeyman-{service}.service").read_text()
    (user,) = re.findall(r"^User=(.*)$", unit, re.MULTILINE)
    assert f"Creating user '{user}'" in said


def test_secrets_become_unreadable_for_others_and_configuration_stays_readable(
    systemd_analyze_program: str, repository: Path, tmp_path: Path
) -> None:
    text = (repository / "systemd/journeyman.tmpfiles.conf").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(line.endswith(" root root -") for line in lines)
    rules = tmp_path / "journeyman.conf"
    rules.write_text(text.replace(" root root ", " - - "))  # who runs tests need not be root
    etc = tmp_path / "etc/journeyman"
    etc.mkdir(parents=True)
    for name in (*SECRETS, "agent.toml"):
        (etc / name).touch()
        (etc / name).chmod(0o644)
    _run(systemd_analyze_program, "systemd-tmpfiles", "--create", f"--root={tmp_path}", str(rules))
    modes = {path.name: path.stat().st_mode & 0o777 for path in etc.iterdir()}
    assert modes == dict.fromkeys(SECRETS, 0o600) | {"agent.toml": 0o644}
    assert etc.stat().st_mode & 0o777 == 0o755


def test_an_empty_machine_gets_the_configuration_folder(
    systemd_analyze_program: str, repository: Path, tmp_path: Path
) -> None:
    rules = tmp_path / "journeyman.conf"
    text = (repository / "systemd/journeyman.tmpfiles.conf").read_text()
    rules.write_text(text.replace(" root root ", " - - "))
    _run(systemd_analyze_program, "systemd-tmpfiles", "--create", f"--root={tmp_path}", str(rules))
    assert (tmp_path / "etc/journeyman").is_dir()


def test_secrets_that_units_load_are_those_that_tmpfiles_protects(repository: Path) -> None:
    folder = repository / "systemd"
    rules = (folder / "journeyman.tmpfiles.conf").read_text()
    protected = set(re.findall(r"^z /etc/journeyman/\*(\.\w+) 0600 ", rules, re.MULTILINE))
    texts = [path.read_text() for path in (*folder.glob("*.service"), *folder.glob("drop-ins/*"))]
    loaded = re.findall(r"^LoadCredential=\S+?:(\S+)$", "\n".join(texts), re.MULTILINE)
    assert len(loaded) == 8
    assert {Path(name).suffix for name in loaded} == protected
    assert {Path(name).parent for name in loaded} == {Path("/etc/journeyman")}

"""The package's scripts: their shell, and what dpkg calls them with; the shell of all others."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "undo-upgrade")

# Debian Policy 6.5: every first argument that dpkg gives.
CALLS = {
    "preinst": {"install", "upgrade", "abort-upgrade"},
    "postinst": {"configure", "abort-upgrade", "abort-remove", "abort-deconfigure"},
    "prerm": {"remove", "upgrade", "deconfigure", "failed-upgrade"},
    "postrm": {
        *("remove", "purge", "upgrade", "failed-upgrade"),
        *("abort-install", "abort-upgrade", "disappear"),
    },
}

BASH_SCRIPTS = (
    ".ci/run",
    "configs/broker/agent-rights",
    "packaging/build-deb",
    "tests/boot/boot.sh",
    "tests/boot/install.sh",
    "tests/boot/possible.sh",
    "tests/install.sh",
    "tests/packaging/check.sh",
    "tests/suite.sh",
)

VALUES = {"USERS": "nobody-here", "GROUPS": "none-here", "COMPILE": "no", "ROOM": "1"}


@pytest.fixture
def scripts(repository: Path, tmp_path: Path) -> Path:
    """The scripts as they are in a package."""
    folder = repository / "packaging/debian"
    common = (folder / "common.sh").read_text()
    for name in SCRIPTS:
        body = (folder / name).read_text()
        assert body.count("\n# @common@\n") == 1, name
        whole = body.replace("# @common@\n", common)
        assert whole.startswith("#!/bin/sh\n"), name
        assert "\nset -eu\n" in whole, name
        for key, value in VALUES.items():
            whole = whole.replace(f"@{key}@", value)
        assert "@" not in re.sub(r"\$@|\$\{?@", "", re.sub(r"#.*", "", whole)), name
        (tmp_path / name).write_text(whole)
    return tmp_path


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_correct_posix_shell(scripts: Path, name: str) -> None:
    checked = subprocess.run(
        ["sh", "-n", str(scripts / name)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_has_nothing_to_say(scripts: Path, name: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: run tests/install.sh .venv/bin/python as root")
    # Of the shared part each script uses what it needs (SC2034: unused; SC2317: unreachable).
    command = ["shellcheck", "--shell=sh", "--exclude=SC2034,SC2317", str(scripts / name)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.stdout == ""


@pytest.mark.parametrize("name", BASH_SCRIPTS)
def test_shellcheck_has_nothing_to_say_of_our_own_scripts(repository: Path, name: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: run tests/install.sh .venv/bin/python as root")
    checked = subprocess.run(
        ["shellcheck", str(repository / name)], capture_output=True, text=True, check=False
    )
    assert checked.stdout == ""


@pytest.mark.parametrize("name", tuple(CALLS))
def test_a_script_knows_every_call_of_dpkg_and_refuses_others(scripts: Path, name: str) -> None:
    text = (scripts / name).read_text()
    cases = re.findall(r"^([a-z |-]+)\)", text[text.rindex("\ncase $1 in") :], re.MULTILINE)
    known = {word.strip() for case in cases for word in case.split("|")}
    assert known == CALLS[name]
    refused = subprocess.run(
        ["sh", str(scripts / name), "something-else"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "unknown argument: something-else" in refused.stderr


def test_the_builder_refuses_what_it_cannot_build(repository: Path) -> None:
    for wanted in ("deb11-amd64", "deb12-armhf", "deb12"):
        refused = subprocess.run(
            [str(repository / "packaging/build-deb"), wanted],
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 2
        assert wanted in refused.stderr


def test_units_and_users_are_where_the_scripts_look_for_them(repository: Path) -> None:
    common = (repository / "packaging/debian/common.sh").read_text()
    builder = (repository / "packaging/build-deb").read_text()
    for name in ("TREE", "UNITS"):
        (in_scripts,) = re.findall(rf"^{name}=(\S+)", common, re.MULTILINE)
        (in_builder,) = re.findall(rf"^{name}=(\S+)", builder, re.MULTILINE)
        assert in_scripts == f"/{in_builder}"
    started = re.findall(
        r"^ExecStart=(\S+)",
        "\n".join(path.read_text() for path in repository.glob("systemd/*.service")),
        re.MULTILINE,
    )
    assert started
    assert all(path.startswith("/opt/journeyman/bin/") for path in started)

"""The wheel is all that is needed: installed where there is no checkout, every program works."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]


@pytest.fixture(scope="module")
def environment(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it.

    The dependencies are those of the environment that runs the tests, by a path file, which does
    not bring its editable installation of this project along.
    """
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=repository, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    purelib = Path(sysconfig.get_path("purelib"))
    site = next((folder / "venv/lib").glob("python3.*")) / "site-packages"
    (site / "dependencies.pth").write_text(f"{purelib}\n")
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or pytest.fail("no uv")
    install = [uv, "pip", "install", "--offline", "--no-deps", "--quiet"]
    python = str(folder / "venv/bin/python")
    subprocess.run([*install, "--python", python, str(wheel)], check=True)
    return folder / "venv"


@pytest.fixture
def run(environment: Path, tmp_path: Path) -> Run:
    """Run a console script of the environment in an empty folder; returns what it printed."""

    def command(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(environment / "bin" / program), *arguments],
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return command


def test_it_runs_from_its_own_files(environment: Path, run: Run) -> None:
    found = run("python", "-c", "import agent, wire; print(agent.__file__, wire.__file__)")
    assert all(Path(path).is_relative_to(environment) for path in found.split())


def test_every_program_explains_itself(repository: Path, run: Run) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    for program in project["scripts"]:
        assert run(program, "--help").startswith(f"usage: {program}"), program


def test_every_file_beside_the_code_came_along(repository: Path, environment: Path) -> None:
    (site,) = environment.glob("lib/*/site-packages")
    tracked = subprocess.run(
        ["git", "ls-files", "wire", "agent", "coordinator", "firmware_bridge", "shopfloor"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    present = [name for name in tracked if (repository / name).is_file()]
    assert len(present) > 300
    assert [name for name in present if not (site / name).is_file()] == []
    configs = [path.relative_to(repository) for path in (repository / "configs").rglob("*.*")]
    assert [path for path in configs if not (site / "shopfloor" / path).exists()] == []


def test_a_new_gateway_s_configuration_passes_its_check(
    environment: Path, run: Run, tmp_path: Path
) -> None:
    run("journeyman", "keys", "federation", "works", "--keys", "keys")
    run("journeyman", "keys", "agent", "gateway-1", "--site", "plant-a", "--keys", "keys")
    (example,) = environment.glob("lib/*/site-packages/shopfloor/configs/agent.toml")
    root = (tmp_path / "keys/root.pub").read_text().strip()
    text = (
        example.read_text()
        .replace('root = "' + "0" * 64, f'root = "{root}')
        .replace('"charter.jm"', '"keys/charter.jm"')
        .replace('"gateway-1.credential"', '"keys/gateway-1.credential"')
        .replace("${CREDENTIALS_DIRECTORY}/agent.key", "keys/gateway-1.key")
        .replace("/var/lib/journeyman-agent", str(tmp_path / "state"))
    )
    (tmp_path / "agent.toml").write_text(text)
    assert "gateway-1" in run("journeyman-agent", "check", "agent.toml")


def test_the_page_s_files_are_read_from_the_wheel(environment: Path, run: Run) -> None:
    code = (
        "import coordinator.web, pathlib;"
        "print(*sorted(p.name for p in pathlib.Path(coordinator.web.__file__).parent.rglob('*.*')"
        " if p.suffix in ('.html', '.css', '.js', '.svg')))"
    )
    names = run("python", "-c", code).split()
    assert {"page.html", "panel.html", "page.js", "style.css"} <= set(names)
    schema = run("journeyman-agent", "schema")
    (installed,) = environment.glob(
        "lib/*/site-packages/shopfloor/configs/schema/agent.schema.json"
    )
    assert installed.read_text() == schema

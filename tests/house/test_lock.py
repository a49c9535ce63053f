"""requirements.lock agrees with pyproject.toml, and can be installed from any package index."""

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

# Marker environments that must install: each Python, the three gateway architectures.
ENVIRONMENTS = [
    {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for python in ("3.11", "3.12", "3.13")
    for machine in ("x86_64", "aarch64", "armv7l")
]


def _pyproject(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


def _declared(root: Path) -> list[Requirement]:
    project = _pyproject(root)
    lines = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["demo"],
        *project["dependency-groups"]["dev"],
    ]
    return [Requirement(line) for line in lines]


def _pins(root: Path) -> list[Requirement]:
    lines = (root / "requirements.lock").read_text().splitlines()
    return [Requirement(line.rstrip(" \\")) for line in lines if re.match(r"[a-zA-Z0-9]", line)]


def _pinned_version(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


@pytest.mark.parametrize(
    "environment",
    ENVIRONMENTS,
    ids=[f"{e['python_version']}-{e['platform_machine']}" for e in ENVIRONMENTS],
)
def test_every_declared_requirement_is_satisfied_by_one_pin(
    repository: Path, environment: dict[str, str]
) -> None:
    pins: dict[str, list[Version]] = {}
    for pin in _pins(repository):
        if pin.marker is None or pin.marker.evaluate(environment):
            pins.setdefault(canonicalize_name(pin.name), []).append(_pinned_version(pin))
    unsatisfied = [
        str(wanted)
        for wanted in _declared(repository)
        if (wanted.marker is None or wanted.marker.evaluate(environment))
        and not (
            len(found := pins.get(canonicalize_name(wanted.name), [])) == 1
            and wanted.specifier.contains(found[0])
        )
    ]
    assert unsatisfied == [], "run `make lock`"


def test_every_pin_has_a_hash_and_the_lock_names_no_host(repository: Path) -> None:
    text = (repository / "requirements.lock").read_text()
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", text)
    assert [block.split("\n")[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in text
    npm_lock = (repository / "tests/node_opcua/package-lock.json").read_text()
    assert '"resolved"' not in npm_lock


def test_every_console_script_starts_a_function_that_exists(repository: Path) -> None:
    declared: dict[str, str] = _pyproject(repository)["project"]["scripts"]
    installed = {
        script.name: script
        for script in importlib.metadata.distribution("journeyman").entry_points
        if script.group == "console_scripts"
    }
    assert {name: script.value for name, script in installed.items()} == declared
    assert all(callable(script.load()) for script in installed.values())

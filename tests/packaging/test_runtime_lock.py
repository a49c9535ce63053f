"""packaging/runtime.lock is requirements.lock without what only the demo and developers need."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def _pins(lock: Path) -> dict[str, list[Requirement]]:
    pins: dict[str, list[Requirement]] = {}
    for line in lock.read_text().splitlines():
        if re.match(r"[a-zA-Z0-9]", line):
            pin = Requirement(line.rstrip(" \\"))
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


def _hashes(lock: Path) -> dict[str, set[str]]:
    """NAME==VERSION -> the hashes that stand below it."""
    found: dict[str, set[str]] = {}
    current = ""
    for line in lock.read_text().splitlines():
        if re.match(r"[a-zA-Z0-9]", line):
            current = line.split(" ")[0]
            found[current] = set()
        found.setdefault(current, set()).update(re.findall(r"--hash=(\S+)", line))
    return found


def test_packages_contain_the_versions_and_the_files_that_developers_test(
    repository: Path,
) -> None:
    ours = _hashes(repository / "packaging/runtime.lock")
    everything = _hashes(repository / "requirements.lock")
    assert {pin: everything.get(pin) for pin in ours} == ours, "run `make lock`"
    assert all(ours.values())


@pytest.mark.parametrize("python", ["3.11", "3.13"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_requirement_of_the_programs_and_of_the_page_is_pinned_once(
    repository: Path, python: str, machine: str
) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.2",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["web"]]
    pins = _pins(repository / "packaging/runtime.lock")
    for wanted in map(Requirement, declared):
        here = [
            pin
            for pin in pins[canonicalize_name(wanted.name)]
            if pin.marker is None or pin.marker.evaluate(environment)
        ]
        assert len(here) == 1, wanted
        (specifier,) = here[0].specifier
        assert wanted.specifier.contains(specifier.version), wanted


def test_nothing_of_the_demo_or_of_development_is_packed(repository: Path) -> None:
    packed = set(_pins(repository / "packaging/runtime.lock"))
    assert packed.isdisjoint({"matplotlib", "rich", "amqtt", "pytest", "hypothesis", "mypy", "uv"})
    assert "://" not in (repository / "packaging/runtime.lock").read_text()

"""Packages to install: the project's own, of these sources, and newer ones, sound or broken.

The versions after the first differ in their number alone, so making them is a repacking.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

_UNCOMPRESSED: Final = {"COMPRESS": "-Znone"}
"""A package of these tests lives for minutes."""
_BROKEN: Final = "#!/bin/sh\necho 'this version does not run here' >&2\nexit 1\n"


def build_package(repository: Path, out: Path) -> None:
    """Build the package of Debian 12 for this machine's architecture, from these sources."""
    command = [str(repository / "packaging/build-deb"), f"deb12-{_architecture()}"]
    environment = os.environ | _UNCOMPRESSED | {"OUT": str(out), "PYTHON": sys.executable}
    done = subprocess.run(
        command,
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def newer(package: Path, folder: Path, version: str, *, broken: bool = False) -> Path:
    """Make a package of a higher version, in which the agent may not even start."""
    made = folder / f"journeyman_{version}.deb"
    tree = folder / f"unpacked-{version}"
    _run("dpkg-deb", "--raw-extract", str(package), str(tree))
    control = tree / "DEBIAN/control"
    control.write_text(
        re.sub(r"^Version: .*$", f"Version: {version}", control.read_text(), flags=re.MULTILINE)
    )
    if broken:
        (tree / "opt/journeyman/bin/journeyman-agent").write_text(_BROKEN)
    _run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made))
    shutil.rmtree(tree)
    return made


def _architecture() -> str:
    done = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _run(*command: str) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=300, check=True)

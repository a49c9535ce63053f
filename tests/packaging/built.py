"""Which packages are checked: all four in dist/, or those that the caller names.

JOURNEYMAN_TEST_PACKAGES is another folder, JOURNEYMAN_TEST_TARGETS the names (deb12-arm64, several
with spaces).  `make check-packages` sets both.
"""

import os
from pathlib import Path
from typing import Final

import pytest

ALL: Final = ("deb12-amd64", "deb12-arm64", "deb13-amd64", "deb13-arm64")


def targets() -> tuple[str, ...]:
    """RELEASE-ARCHITECTURE of each package to be checked."""
    named = tuple(os.environ.get("JOURNEYMAN_TEST_TARGETS", "").split()) or ALL
    if unknown := set(named) - set(ALL):
        raise pytest.UsageError(f"JOURNEYMAN_TEST_TARGETS: no such package: {sorted(unknown)}")
    return named


def package_of(repository: Path, target: str) -> Path:
    """The one package for a target; fails where there is none, or an older one beside it."""
    folder = repository / os.environ.get("JOURNEYMAN_TEST_PACKAGES", "dist")
    release, architecture = target.split("-")
    found = list(folder.glob(f"journeyman_*+{release}_{architecture}.deb"))
    if len(found) != 1:
        pytest.fail(
            f"one package for {target} wanted in {folder}, found {len(found)}: "
            f"make deb DEB={target}",
            pytrace=False,
        )
    return found[0]

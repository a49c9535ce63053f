"""The fault shim, and a scratch directory in memory: hundreds of states are written there."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shopfloor.faults.shim import ShimError, build

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim; without a C compiler these tests are skipped."""
    try:
        return build(tmp_path_factory.mktemp("shim"))
    except ShimError as error:
        pytest.skip(str(error))


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Where directories that a cut left are written; in memory if there is a file system for it."""
    fast = MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=fast) as directory:
        yield Path(directory)

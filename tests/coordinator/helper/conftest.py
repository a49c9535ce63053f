"""A federation with three helpers, in memory but for the helpers' stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.coordinator.helper.secure_trial import Trial


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    made = Trial(tmp_path)
    yield made
    made.close()

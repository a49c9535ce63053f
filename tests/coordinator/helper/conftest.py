"""A federation with three helpers, in memory but for the helpers' stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shopfloor.ports import free_port
from tests.coordinator.conftest import Broker
from tests.coordinator.helper.helper_processes import Helpers
from tests.coordinator.helper.secure_trial import Trial


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    """Keys, stores and helpers, of this test's own."""
    made = Trial(tmp_path)
    yield made
    made.close()


@pytest.fixture
def helpers(trial: Trial, mosquitto_program: str) -> Iterator[Helpers]:
    """The trial's helpers as processes, and a broker for them."""
    (trial.directory / "charter.jm").write_bytes(trial.charter_envelope)
    trial.close()  # the stores belong to the processes
    broker = Broker(mosquitto_program, trial.directory, free_port())
    broker.start()
    made = Helpers(trial, broker.port, free_port())
    yield made
    for process in made.running.values():
        process.kill()
        process.wait()
    broker.kill()

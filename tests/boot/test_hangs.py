"""A program that is there and does nothing: the watchdog ends it."""

import pytest

from tests.boot.gateway import (
    AGENT,
    COORDINATOR,
    assert_every_update_has_one_outcome,
    wait_for_updates,
)
from tests.boot.machine import Machine

LONGEST_S = 300.0
"""The coordinator's watchdog takes two minutes."""


@pytest.mark.parametrize("service", [AGENT, COORDINATOR])
def test_a_hanging_program_is_ended_by_the_watchdog_and_started_again(
    running_gateway: Machine, service: str
) -> None:
    gateway = running_gateway
    hung = gateway.main_pid(service)
    gateway.run(f"kill -STOP {hung}")
    gateway.wait_replaced(service, hung, LONGEST_S)
    # Ended by SIGABRT, a program writes the stacks of all its threads behind that line.
    assert "Watchdog timeout" in gateway.journal(service, lines=1000)
    wait_for_updates(gateway)
    assert_every_update_has_one_outcome(gateway)

"""Programs that are killed: systemd starts them again, and no update notices."""

import pytest

from tests.boot.gateway import (
    AGENT,
    BROKER,
    COORDINATOR,
    PAGE,
    assert_every_update_has_one_outcome,
    wait_for_updates,
)
from tests.boot.machine import Machine


@pytest.mark.parametrize("victims", [(AGENT,), (COORDINATOR, PAGE), (AGENT, COORDINATOR, BROKER)])
def test_what_is_killed_comes_back_and_goes_on(
    running_gateway: Machine, victims: tuple[str, ...]
) -> None:
    gateway, before = running_gateway, {}
    for unit in victims:
        before[unit] = gateway.main_pid(unit)
        gateway.run(f"systemctl kill --signal=KILL {unit}")
    for unit, pid in before.items():
        gateway.wait_replaced(unit, pid)
    wait_for_updates(gateway)
    assert_every_update_has_one_outcome(gateway)

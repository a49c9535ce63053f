"""The gateway restarts, in order and without warning."""

from tests.boot.gateway import (
    AGENT,
    COORDINATOR,
    PAGE,
    assert_every_update_has_one_outcome,
    wait_for_updates,
)
from tests.boot.machine import Machine


def test_after_a_reboot_everything_runs_again(running_gateway: Machine) -> None:
    gateway = running_gateway
    gateway.reboot()
    gateway.wait_active(AGENT, COORDINATOR, PAGE)
    wait_for_updates(gateway)
    assert_every_update_has_one_outcome(gateway)


def test_after_each_of_three_power_cuts_everything_runs_again(running_gateway: Machine) -> None:
    gateway = running_gateway
    for _ in range(3):
        gateway.cut_power()
        gateway.boot()
        gateway.wait_active(AGENT, COORDINATOR, PAGE)
        wait_for_updates(gateway)
    assert_every_update_has_one_outcome(gateway)

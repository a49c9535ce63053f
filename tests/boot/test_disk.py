"""The disk is full, to the last byte, for everything on the gateway."""

import time

from tests.boot.gateway import (
    AGENT,
    COORDINATOR,
    assert_every_update_has_one_outcome,
    readiness,
    wait_for_updates,
)
from tests.boot.machine import Machine

FULL_S = 20.0
"""Long enough for several trainings, and for the sample store to be written twice."""


def test_a_full_disk_is_told_and_survived(running_gateway: Machine) -> None:
    gateway = running_gateway
    assert readiness(gateway) == "ok"
    gateway.fill_disk()
    gateway.until(lambda: "disk full" in readiness(gateway), "the agent says that the disk is full")
    time.sleep(FULL_S)
    gateway.free_disk()
    gateway.wait_active(AGENT, COORDINATOR)
    wait_for_updates(gateway)
    gateway.until(lambda: readiness(gateway) == "ok", "the agent says that all is well again")
    assert_every_update_has_one_outcome(gateway)


def test_services_that_start_on_a_full_disk_work_once_there_is_room(
    running_gateway: Machine,
) -> None:
    gateway = running_gateway
    gateway.fill_disk()
    gateway.run(f"systemctl kill --signal=KILL {AGENT} {COORDINATOR}")
    time.sleep(FULL_S)
    gateway.free_disk()
    gateway.wait_active(AGENT, COORDINATOR)
    wait_for_updates(gateway)
    gateway.until(lambda: readiness(gateway) == "ok", "the agent says that all is well again")
    assert_every_update_has_one_outcome(gateway)

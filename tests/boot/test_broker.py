"""The broker is gone for longer than any keep-alive: nothing is restarted, and updates wait."""

import time

from agent.status import Status
from tests.boot.gateway import (
    AGENT,
    BROKER,
    COORDINATOR,
    assert_every_update_has_one_outcome,
    status,
    wait_for_updates,
)
from tests.boot.machine import Machine

AWAY_S = 60.0
"""Three times the keep-alive, so both programs know that it is gone."""


def _said(gateway: Machine) -> Status:
    found = status(gateway)
    assert found is not None
    return found


def test_while_the_broker_is_gone_the_services_wait_for_it(running_gateway: Machine) -> None:
    gateway = running_gateway
    before = [gateway.main_pid(unit) for unit in (AGENT, COORDINATOR)]
    rows = _said(gateway).rows
    gateway.run(f"systemctl stop {BROKER}")
    gateway.until(lambda: _said(gateway).link != "up", "the agent knows that the link is down")
    time.sleep(AWAY_S)
    assert _said(gateway).rows > rows  # acquisition went on
    gateway.run(f"systemctl start {BROKER}")
    wait_for_updates(gateway)
    assert [gateway.main_pid(unit) for unit in (AGENT, COORDINATOR)] == before
    assert_every_update_has_one_outcome(gateway)

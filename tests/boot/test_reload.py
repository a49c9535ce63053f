"""`systemctl reload`: a changed configuration is taken up by the running agent."""

import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from tests.boot.gateway import (
    AGENT,
    AGENT_STATE,
    assert_every_update_has_one_outcome,
    status,
    wait_for_updates,
    with_key,
)
from tests.boot.machine import Machine

PRODUCT_US = 100_000
"""The milling machine's time for a product, which is one row."""
FILE = Path("etc/journeyman/agent.toml")


def _reload(gateway: Machine, text: str) -> str:
    """Write a configuration and reload; returns what the agent says about it."""
    (gateway.root / FILE).write_text(text)
    before = _said(gateway)
    gateway.run(f"systemctl reload {AGENT}")
    gateway.until(lambda: _said(gateway) != before, "the agent says what became of it")
    return _said(gateway)


def _said(gateway: Machine) -> str:
    found = status(gateway)
    assert found is not None
    return found.configuration


def _now_us(gateway: Machine) -> int:
    """The gateway's time; rows before it may be of an earlier boot."""
    return int(gateway.run("date +%s")) * 1_000_000


def _row_times(gateway: Machine) -> list[int]:
    """Source timestamps of all rows, microseconds; the gateway is off."""
    with closing(sqlite3.connect(gateway.root / AGENT_STATE / "history.db")) as database:
        rows = database.execute("SELECT source_timestamp_us FROM rows ORDER BY 1").fetchall()
    return [int(time) for (time,) in rows]


def test_a_reload_applies_what_it_can_says_what_it_can_not_and_loses_no_row(
    running_gateway: Machine,
) -> None:
    gateway = running_gateway
    pid, began = gateway.main_pid(AGENT), _now_us(gateway)
    text = (gateway.root / FILE).read_text()
    text = with_key(text, "training", "pause_s", "1")
    assert _reload(gateway, text) == "applied: training.pause_s"
    said = _reload(gateway, with_key(text, "training", "backend", '"numpy"'))
    assert said == "applied after a restart only: training.backend"
    said = _reload(gateway, with_key(text, "training", "pause_s", '"soon"'))
    assert said.startswith("not applied: ")
    assert "/etc/journeyman/agent.toml" in said
    assert gateway.state(AGENT) == "active"
    wait_for_updates(gateway)
    assert gateway.main_pid(AGENT) == pid
    assert_every_update_has_one_outcome(gateway)
    assert _missing_rows(gateway, began) == []


def test_a_source_with_other_settings_changes_over_and_loses_no_row(
    running_gateway: Machine,
) -> None:
    gateway = running_gateway
    pid, began = gateway.main_pid(AGENT), _now_us(gateway)
    text = (gateway.root / FILE).read_text()
    text = with_key(text, "source.opcua", "publishing_interval_ms", "100")
    assert _reload(gateway, text) == "applied: source.opcua"
    wait_for_updates(gateway)
    assert gateway.main_pid(AGENT) == pid
    assert_every_update_has_one_outcome(gateway)
    assert _missing_rows(gateway, began) == []


def _missing_rows(gateway: Machine, since_us: int) -> list[tuple[int, int]]:
    """The rows between which others are missing."""
    rows = [time for time in _row_times(gateway) if time >= since_us]
    assert len(rows) > 30
    return [(before, after) for before, after in pairwise(rows) if after - before != PRODUCT_US]

"""Which changes of the configuration are applied now, and which wait for a restart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import AgentSettings, read_agent_settings
from agent.reload import applied, compare
from tests.agent.federation import Federation, agent_toml

Read = Callable[[str], AgentSettings]


@pytest.fixture
def text(federation: Federation) -> str:
    return agent_toml(federation)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def parse(text: str) -> AgentSettings:
        path = tmp_path / "agent.toml"
        path.write_text(text)
        return read_agent_settings(path)

    return parse


def test_the_same_file_changes_nothing(text: str, read: Read) -> None:
    changes = compare(read(text), read(text + "\n# a remark\n"))
    assert (changes.now, changes.at_start) == ((), ())
    assert str(changes) == "nothing has changed"


NOW = {
    "training": ("pause_s = 0.1", "pause_s = 9.0", "training.pause_s"),
    "broker": ("keepalive_s = 2", "keepalive_s = 9", "broker.keepalive_s"),
    "rows": ("[rows]", "[rows]\ngrace_s = 1.5", "rows.grace_s"),
    "source": ("publishing_interval_ms = 50", "publishing_interval_ms = 70", "source.opcua"),
    "node": ('node = "s=Torque"', 'node = "s=Torque2"', "source.opcua"),
    "metrics": ("[rows]", '[metrics]\nlisten = "127.0.0.1:9485"\n[rows]', "metrics.listen"),
    "outbox": ("[rows]", "[outbox]\nquota_bytes = 200000\n[rows]", "outbox.quota_bytes"),
    "history": ("[rows]", "[history]\ncapacity_rows = 500\n[rows]", "history.capacity_rows"),
}
AT_START = {
    "state": ('state_dir = "state"', 'state_dir = "other"', "agent.state_dir"),
    "trigger": ('trigger = "product_count"', "every_s = 1.0", "rows.trigger"),
    "backend": ("pause_s = 0.1", 'backend = "numpy"\npause_s = 0.1', "training.backend"),
    "holdout": ("[rows]", "[history]\nholdout_share = 0.2\n[rows]", "history.holdout_share"),
    "another channel": (
        'name = "torque"\nnode = "s=Torque"',
        'name = "moment"\nnode = "s=Torque"',
        "source",
    ),
    "another unit": ('node = "s=Torque"', 'node = "s=Torque"\nunit = "kNm"', "source"),
}


@pytest.mark.parametrize("what", NOW)
def test_what_one_task_owns_is_applied_now(what: str, text: str, read: Read) -> None:
    before, after, key = NOW[what]
    assert before in text
    running, wanted = read(text), read(text.replace(before, after))
    changes = compare(running, wanted)
    assert (changes.now, changes.at_start) == ((key,), ())
    assert applied(running, wanted, changes) == wanted


@pytest.mark.parametrize("what", AT_START)
def test_what_stored_rows_or_identity_hang_on_waits_for_a_restart(
    what: str, text: str, read: Read
) -> None:
    before, after, key = AT_START[what]
    assert before in text
    running, wanted = read(text), read(text.replace(before, after))
    changes = compare(running, wanted)
    assert key in changes.at_start
    assert changes.now == ()
    assert applied(running, wanted, changes) == running
    assert key in str(changes)


def test_both_kinds_at_once_are_told_apart(text: str, read: Read) -> None:
    changed = text.replace("pause_s = 0.1", "pause_s = 9.0").replace('"state"', '"other"')
    running, wanted = read(text), read(changed)
    changes = compare(running, wanted)
    now = applied(running, wanted, changes)
    assert (now.training.pause_s, now.agent.state_dir) == (9.0, "state")
    assert str(changes) == (
        "applied: training.pause_s; applied after a restart only: agent.state_dir"
    )

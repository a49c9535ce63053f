"""What a changed configuration means for an agent that runs: applied now, or at its next start.

Applied now is what one task owns and can take up without giving away a sample or an update.  What
decides how stored rows look, which channels there are, who the agent is and where its files lie,
needs a start; it is named, and until then the agent goes on with what it began with.  Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.config import AgentSettings
from agent.sources import ConfiguredSource

_TABLES_NOW = frozenset(("broker", "outbox", "personal", "scores", "metrics", "remote", "training"))
_KEYS_NOW = frozenset(
    (
        "rows.grace_s",
        "rows.bad",
        "rows.uncertain",
        "rows.gaps",
        "history.capacity_rows",
        "history.capacity_bytes",
    )
)
_AT_START = frozenset(
    (
        "training.backend",
        "training.process",
        "training.priority",
        "training.scoring_backend",
        "metrics.channels",
        "personal.enabled",
    )
)


@dataclass(frozen=True)
class Changes:
    """Keys whose values differ, in the order of the file's tables.

    Attributes:
      now: that can be applied to the running agent.
      at_start: that need a restart.
    """

    now: tuple[str, ...]
    at_start: tuple[str, ...]

    def __str__(self) -> str:
        said = [f"applied: {', '.join(self.now)}"] if self.now else []
        if self.at_start:
            said.append(f"applied after a restart only: {', '.join(self.at_start)}")
        return "; ".join(said) or "nothing has changed"


def compare(running: AgentSettings, wanted: AgentSettings) -> Changes:
    """What differs between what runs and what the file says now."""
    changed = [key for key in _differences(running, wanted) if not key.startswith("source.")]
    sources = [key for key in _differences(running, wanted) if key.startswith("source.")]
    if sources and _keeps_channels(running.sources, wanted.sources):
        pairs = zip(running.sources, wanted.sources, strict=True)
        now = [each.key for before, each in pairs if before.settings != each.settings]
    else:
        now, changed = [], changed + (["source"] if sources else [])
    now += [key for key in changed if _is_applied_now(key)]
    return Changes(tuple(now), tuple(key for key in changed if key not in now))


def applied(running: AgentSettings, wanted: AgentSettings, changes: Changes) -> AgentSettings:
    """The settings that run from now on: those that `changes` can apply, the others as before."""
    tables: dict[str, Any] = {}
    for key in changes.now:
        table, _, name = key.partition(".")
        if table == "source":
            tables[table] = wanted.source
            continue
        held = tables.get(table, getattr(running, table))
        value = getattr(getattr(wanted, table), name)
        tables[table] = msgspec.structs.replace(held, **{name: value})
    return msgspec.structs.replace(running, **tables)


def _differences(running: AgentSettings, wanted: AgentSettings) -> Iterator[str]:
    for table in AgentSettings.__struct_fields__:
        before, after = getattr(running, table), getattr(wanted, table)
        if isinstance(before, tuple):  # tables of their own, [[device]]
            if before != after:
                yield table
            continue
        for name in before.__struct_fields__:
            if getattr(before, name) != getattr(after, name):
                yield f"{table}.{name}"


def _is_applied_now(key: str) -> bool:
    return key in _KEYS_NOW or (key not in _AT_START and key.partition(".")[0] in _TABLES_NOW)


def _keeps_channels(before: list[ConfiguredSource], after: list[ConfiguredSource]) -> bool:
    """Whether the same sources give the same channels, whatever else is said about them."""
    return [_face(source) for source in before] == [_face(source) for source in after]


def _face(source: ConfiguredSource) -> tuple[str, list[tuple[str, str, Any]]]:
    return source.kind, [(each.name, each.unit, each.shape) for each in source.channels]

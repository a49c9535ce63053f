"""The documented configuration files are what the programs accept, whole."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.authoring import read_bundle_settings
from agent.config import AgentSettings, read_agent_settings
from coordinator.config import CoordinatorSettings, read_coordinator_settings
from wire.errors import SettingsError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def keys_of(kind: Any, prefix: str = "") -> set[str]:
    """Dotted names of every key that a settings struct accepts."""
    found: set[str] = set()
    for field in msgspec.structs.fields(kind):
        inner = msgspec.inspect.type_info(field.type)
        name = f"{prefix}{field.encode_name}"
        if isinstance(inner, msgspec.inspect.StructType):
            found |= keys_of(inner.cls, f"{name}.")
        elif isinstance(getattr(inner, "item_type", None), msgspec.inspect.StructType):
            found |= keys_of(inner.item_type.cls, f"{name}.")  # type: ignore[attr-defined]
        else:
            found.add(name)
    return found


def keys_in(tree: Any, prefix: str = "") -> set[str]:
    """Dotted names of every key in parsed TOML."""
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        return set().union(*(keys_in(item, prefix) for item in tree))
    if isinstance(tree, dict):
        start = f"{prefix}." if prefix else ""
        return set().union(*(keys_in(value, f"{start}{key}") for key, value in tree.items()))
    return {prefix}


@pytest.mark.parametrize(
    ("name", "kind"), [("agent.toml", AgentSettings), ("coordinator.toml", CoordinatorSettings)]
)
def test_the_documented_file_explains_every_key_and_no_other(name: str, kind: Any) -> None:
    tree = msgspec.toml.decode((CONFIGS / name).read_bytes())
    assert keys_in(tree) == keys_of(kind)


def test_the_programs_read_their_documented_files() -> None:
    agent = read_agent_settings(CONFIGS / "agent.toml")
    coordinator = read_coordinator_settings(CONFIGS / "coordinator.toml")
    assert agent.rows.trigger == "product_count"
    assert coordinator.strategy.name == "fedbuff"


@pytest.mark.parametrize("path", sorted((CONFIGS / "jobs").glob("*.toml")), ids=lambda p: p.name)
def test_every_job_is_a_description_that_bundle_build_accepts(path: Path) -> None:
    settings = read_bundle_settings(path)
    labels = {settings.label.channel} if settings.label is not None else set()
    assert {item.name for item in settings.channel}.isdisjoint(labels)


@pytest.mark.parametrize("name", ["agent.toml", "coordinator.toml"])
def test_a_misspelt_key_is_refused_with_file_line_and_key(name: str, tmp_path: Path) -> None:
    text = (CONFIGS / name).read_text().replace("keepalive_s", "keepalive")
    line = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith("keepalive"))
    (tmp_path / name).write_text(text)
    read = read_agent_settings if name == "agent.toml" else read_coordinator_settings
    with pytest.raises(SettingsError) as caught:
        read(tmp_path / name)
    assert (caught.value.line, caught.value.key) == (line, "broker.keepalive")
    assert str(caught.value).startswith(f"{tmp_path / name}:{line}: broker.keepalive: ")

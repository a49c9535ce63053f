"""The documented configuration files are what the programs accept, whole."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.authoring import read_bundle_settings
from agent.config import AgentSettings, read_agent_settings
from coordinator.config import CoordinatorSettings, read_coordinator_settings
from coordinator.helper.config import HelperSettings, read_helper_settings
from wire.errors import SettingsError
from wire.settings import parse_settings

ROOT = Path(__file__).resolve().parents[2]
CONFIGS, AGENT = ROOT / "configs", ROOT / "agent"


def structs_in(kind: Any) -> list[Any]:
    """The settings structs that a field can hold: its own, those of a list, those of a union."""
    if isinstance(kind, msgspec.inspect.StructType):
        return [kind.cls]
    if isinstance(kind, msgspec.inspect.UnionType):
        return [found for each in kind.types for found in structs_in(each)]
    item = getattr(kind, "item_type", None)
    return [] if item is None else structs_in(item)


def keys_of(kind: Any, prefix: str = "") -> set[str]:
    """Dotted names of every key that a settings struct accepts."""
    tag = kind.__struct_config__.tag_field
    found = set() if tag is None else {f"{prefix}{tag}"}
    for field in msgspec.structs.fields(kind):
        inner = structs_in(msgspec.inspect.type_info(field.type))
        name = f"{prefix}{field.encode_name}"
        found |= {name} if not inner else set().union(*(keys_of(k, f"{name}.") for k in inner))
    return found


def keys_in(tree: Any, known: set[str], prefix: str = "") -> set[str]:
    """Dotted names of every key in parsed TOML; `known` ones are not looked into."""
    if prefix in known:
        return {prefix}
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        return set().union(*(keys_in(item, known, prefix) for item in tree))
    if isinstance(tree, dict):
        start = f"{prefix}." if prefix else ""
        return set().union(*(keys_in(value, known, f"{start}{key}") for key, value in tree.items()))
    return {prefix}


def keys_of_file(path: Path, kind: Any) -> set[str]:
    """Keys of a file; in a driver's sample `# key = value` explains one that is left out."""
    text, known = path.read_text(), keys_of(kind)
    found = keys_in(msgspec.toml.decode(text), known)
    left_out = set(re.findall(r"^# (\w+) = ", text, re.MULTILINE))
    tables = {key.rpartition(".")[0] for key in found}
    return found | {
        key
        for key in known
        if key.rpartition(".")[0] in tables and key.rpartition(".")[2] in left_out
    }


def test_the_coordinators_file_explains_every_key_and_no_other() -> None:
    found = keys_of_file(CONFIGS / "coordinator.toml", CoordinatorSettings)
    assert found == keys_of(CoordinatorSettings)


def test_the_helpers_file_explains_every_key_and_no_other() -> None:
    assert keys_of_file(CONFIGS / "helper.toml", HelperSettings) == keys_of(HelperSettings)


def test_the_agents_file_and_the_drivers_samples_explain_every_key_and_no_other() -> None:
    others = [AGENT / "serve" / "sample.toml", AGENT / "devices" / "sample.toml"]
    samples = [*others, *sorted(AGENT.glob("sensors/*/sample.toml"))]
    assert len(samples) == 8
    found = [keys_of_file(path, AgentSettings) for path in (CONFIGS / "agent.toml", *samples)]
    assert set().union(*found) == keys_of(AgentSettings)
    of_drivers = ("source.", "scores.", "device")
    assert {key for key in keys_of(AgentSettings) if not key.startswith(of_drivers)} == {
        key for key in found[0] if not key.startswith(of_drivers)
    }


@pytest.mark.parametrize("path", sorted(AGENT.glob("**/sample.toml")), ids=lambda p: p.parent.name)
def test_every_sample_of_a_driver_is_a_configuration_that_the_agent_accepts(
    path: Path, tmp_path: Path
) -> None:
    text, sample = (CONFIGS / "agent.toml").read_text(), path.read_text()
    start, end = text.index("\n[source.opcua]"), text.index("\n[rows]")
    source = "" if "[[source." in sample else text[start:end]
    (tmp_path / "agent.toml").write_text(
        f"{text[:start]}\n{source}\n{sample}\n[rows]\nevery_s = 1\n"
    )
    assert read_agent_settings(tmp_path / "agent.toml").channels


def test_the_programs_read_their_documented_files() -> None:
    agent = read_agent_settings(CONFIGS / "agent.toml")
    coordinator = read_coordinator_settings(CONFIGS / "coordinator.toml")
    assert read_helper_settings(CONFIGS / "helper.toml").helper.name == "notary"
    assert agent.rows.trigger == "product_count"
    assert coordinator.strategy.name == "fedbuff"


FEDERATIONS = sorted((CONFIGS / "jobs").glob("*.coordinator.toml"))
DESCRIPTIONS = sorted({*(CONFIGS / "jobs").glob("*.toml")}.difference(FEDERATIONS))
NEEDED = """
[coordinator]
state_dir = "state"
bundle = "bundle.jm"
[trust]
root = "{root}"
charter = "charter.jm"
key = "coordinator.key"
[broker]
"""


@pytest.mark.parametrize("path", FEDERATIONS, ids=lambda p: p.name)
def test_how_a_federation_learns_a_job_are_tables_of_a_coordinators_file(path: Path) -> None:
    assert path.with_name(path.name.replace(".coordinator", "")) in DESCRIPTIONS
    text = NEEDED.format(root="0" * 64) + path.read_text()
    settings = parse_settings(text, CoordinatorSettings, path.name)
    schedule, policy = settings.schedule, settings.policy
    assert schedule.rate(policy.learning_rate, schedule.versions) == schedule.last_learning_rate


@pytest.mark.parametrize("path", DESCRIPTIONS, ids=lambda p: p.name)
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

"""The schemas that editors check configuration files by say what the programs say."""

import copy
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from agent.config import AgentSettings
from agent.main import main as agent_main
from agent.sensors.source import ChannelSettings
from coordinator.config import CoordinatorSettings
from coordinator.helper.config import HelperSettings
from coordinator.helper.main import main as helper_main
from coordinator.main import main as coordinator_main
from tests.house.json_schema import violations
from wire.settings import Settings
from wire.settings_schema import DIALECT, key_words, settings_schema

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
AGENT = json.loads((CONFIGS / "schema" / "agent.schema.json").read_text())
COORDINATOR = json.loads((CONFIGS / "schema" / "coordinator.schema.json").read_text())
HELPER = json.loads((CONFIGS / "schema" / "helper.schema.json").read_text())

KINDS = ("opcua", "modbus", "lines", "replay", "images")
SCORES = ROOT / "agent" / "serve" / "sample.toml"
# What a schema can not say of one key alone: the program looks closer.
LOOKED_AT_CLOSER = ("listen is `address:port`", "Invalid RFC3339 encoded datetime")


def read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def everything_an_agent_can_have() -> dict[str, Any]:
    """The documented agent.toml, with the tables of all drivers' samples."""
    tree = read(CONFIGS / "agent.toml")
    tree["source"] = {}
    for path in sorted((ROOT / "agent").glob("**/sample.toml")):
        sample = read(path)
        tree["source"] |= sample.pop("source", {})
        tree |= sample
    return tree


@pytest.mark.parametrize(
    ("program", "main"),
    [("agent", agent_main), ("coordinator", coordinator_main), ("helper", helper_main)],
)
def test_the_committed_schemas_are_what_the_programs_print_now(
    program: str, main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema"]) == 0
    committed = (CONFIGS / "schema" / f"{program}.schema.json").read_text()
    again = f"journeyman-{program} schema > configs/schema/{program}.schema.json"
    assert committed == capsys.readouterr().out, again


def test_the_documented_files_and_all_samples_are_what_the_schemas_allow() -> None:
    assert violations(AGENT, read(CONFIGS / "agent.toml")) == []
    assert violations(AGENT, everything_an_agent_can_have()) == []
    assert violations(COORDINATOR, read(CONFIGS / "coordinator.toml")) == []
    assert violations(HELPER, read(CONFIGS / "helper.toml")) == []


def tables_in(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from tables_in(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from tables_in(item)


CHANGES: tuple[Any, ...] = (True, -1, 1.5, 10**9, "x", [], {}, None)


def changed(tree: dict[str, Any]) -> Iterator[str]:
    """Change every key of `tree` in place, one at a time; yields what was done."""
    for table in tables_in(tree):
        for key in list(table):
            kept = table[key]
            for value in CHANGES:
                if value is None:  # TOML has none: the key is missing
                    del table[key]
                else:
                    table[key] = copy.copy(value)
                yield f"{key} = {value!r} instead of {kept!r}"
            table[key] = kept
        table["no_such_key"] = 1
        yield "no_such_key"
        del table["no_such_key"]


def with_sample_of(kind: str) -> dict[str, Any]:
    """The documented agent.toml with the sources of one driver's sample."""
    return read(CONFIGS / "agent.toml") | read(ROOT / "agent" / "sensors" / kind / "sample.toml")


@pytest.mark.parametrize(
    ("kind", "schema", "tree"),
    [
        *((AgentSettings, AGENT, with_sample_of(kind)) for kind in KINDS),
        (AgentSettings, AGENT, read(CONFIGS / "agent.toml") | read(SCORES)),
        (CoordinatorSettings, COORDINATOR, read(CONFIGS / "coordinator.toml")),
        (HelperSettings, HELPER, read(CONFIGS / "helper.toml")),
    ],
    ids=[*KINDS, "scores", "coordinator.toml", "helper.toml"],
)
def test_schema_and_program_refuse_the_same_changes(kind: Any, schema: Any, tree: Any) -> None:
    refused = 0
    for what in changed(tree):
        found = violations(schema, tree)
        try:
            msgspec.convert(tree, type=kind)
            reason = ""
        except msgspec.ValidationError as error:
            reason = str(error)
        is_looked_at_closer = reason.startswith(LOOKED_AT_CLOSER)
        assert bool(found) == (bool(reason) and not is_looked_at_closer), (what, found, reason)
        refused += bool(found)
    assert refused > 80


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_is_one_table_or_as_many_as_one_likes_and_nothing_else(kind: str) -> None:
    tree = everything_an_agent_can_have()
    several = tree["source"][kind]
    assert isinstance(several, list)
    tree["source"] = {kind: several[0]}
    assert violations(AGENT, tree) == []
    tree["source"] = {kind: [several[0], several[0]]}
    assert violations(AGENT, tree) == []
    for wrong in (5, "x", [5], [several]):
        tree["source"] = {kind: wrong}
        found = violations(AGENT, tree)
        assert {path.partition("[")[0] for path, _ in found} == {f"source.{kind}"}


def test_what_is_wrong_with_one_of_several_tables_is_found_at_its_key() -> None:
    tree = everything_an_agent_can_have()
    lines = tree["source"]["lines"]
    assert [each["format"] for each in lines] == ["delimited", "key_value", "regex", "binary"]
    lines[1]["baudrate"] = 1
    lines[2]["delimiter"] = ";"  # of another format
    lines[3]["channel"][0]["column"] = 1
    tree["source"]["opcua"][0]["endpoint"] = 5
    assert {path for path, _ in violations(AGENT, tree)} == {
        "source.lines[1].baudrate",
        "source.lines[2].delimiter",
        "source.lines[3].channel[0].column",
        "source.opcua[0].endpoint",
    }


def test_a_line_says_its_format() -> None:
    tree = everything_an_agent_can_have()
    line = tree["source"]["lines"][0]
    tree["source"] = {"lines": line}
    line["format"] = "morse"
    assert [path for path, _ in violations(AGENT, tree)] == ["source.lines.format"]
    del line["format"]
    assert violations(AGENT, tree) == [("source.lines.format", "is required")]


@pytest.mark.parametrize(
    "schema", [AGENT, COORDINATOR, HELPER], ids=["agent", "coordinator", "helper"]
)
def test_schemas_have_no_word_that_an_editor_or_toml_does_not_know(schema: Any) -> None:
    assert schema["$schema"] == DIALECT
    for table in tables_in(schema):
        assert "discriminator" not in table
        assert table.get("type") != "null"
        assert "default" not in table or isinstance(
            table["default"], bool | int | float | str | list
        )
        if "$ref" in table:  # older drafts pass over what stands beside it
            assert table.keys() <= {"$ref", "description"}
            assert table["$ref"].removeprefix("#/$defs/") in schema["$defs"]


@pytest.mark.parametrize(
    "schema", [AGENT, COORDINATOR, HELPER], ids=["agent", "coordinator", "helper"]
)
def test_every_table_says_what_it_is_and_refuses_other_keys(schema: Any) -> None:
    for table in (schema, *schema["$defs"].values()):
        assert len(table["description"]) > 10
        assert table["additionalProperties"] is False


class Base(Settings, frozen=True, kw_only=True):
    """Of both.

    Attributes:
      name: what people call it.
      limit: replaced below.
    """

    name: str
    limit: Annotated[int, msgspec.Meta(ge=1)] = 3


class Whole(Base, frozen=True, kw_only=True):
    """A whole file.

    And a second paragraph, which
    goes on.

    Attributes:
      limit: how many, such as: 5; a line that
        goes on and
        on.
      width, height: of it, in `mm`.
      unknown: of no key.

    Not an attribute: this.
    """

    width: float = 1.0
    height: float | None = None
    plain: str = ""


def test_words_about_keys_come_from_the_docstrings_of_a_struct_and_its_bases() -> None:
    assert key_words(Whole) == {
        "name": "What people call it.",
        "limit": "How many, such as: 5; a line that goes on and on.",
        "width": "Of it, in `mm`.",
        "height": "Of it, in `mm`.",
    }
    assert key_words(ChannelSettings).keys() == {"name", "unit", "shape", "states"}


def test_a_struct_becomes_a_schema_with_its_words_limits_and_defaults() -> None:
    schema = settings_schema(Whole, "A title")
    assert schema["title"] == "A title"
    assert schema["description"] == "A whole file.\n\nAnd a second paragraph, which goes on."
    assert schema["required"] == ["name"]
    assert schema["properties"]["limit"] == {
        "description": "How many, such as: 5; a line that goes on and on.",
        "type": "integer",
        "minimum": 1,
        "default": 3,
    }
    assert schema["properties"]["height"] == {"description": "Of it, in `mm`.", "type": "number"}
    assert schema["properties"]["plain"] == {"type": "string"}


def test_the_words_of_the_drivers_arrive_in_the_schema() -> None:
    keys = AGENT["$defs"]["OpcUaSettings"]["properties"]
    assert re.search(
        r"silent for this long beyond its keep-alive", keys["silence_s"]["description"]
    )
    assert AGENT["$defs"]["BinaryChannel"]["properties"]["name"]["description"].startswith(
        "The fed"
    )


@pytest.mark.parametrize(
    "schema", [AGENT, COORDINATOR, HELPER], ids=["agent", "coordinator", "helper"]
)
def test_every_key_says_what_it_is(schema: Any) -> None:
    tables = {"the file": schema} | schema["$defs"]
    assert [
        f"{name}.{key}"
        for name, table in tables.items()
        for key, of_key in table["properties"].items()
        if "description" not in of_key and "$ref" not in of_key
    ] == []

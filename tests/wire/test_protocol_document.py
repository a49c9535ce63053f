"""`wire/PROTOCOL.md` says what the code does: every kind, field, default, cap and topic."""

import re
from pathlib import Path

import msgspec
import pytest

from wire import messages
from wire.codec import KINDS, MAX_BYTES
from wire.messages import Content, Message, Policy, Receipt
from wire.topics import NAME, Topics

TEXT = (Path(__file__).resolve().parents[2] / "wire" / "PROTOCOL.md").read_text()


def section(heading: str) -> str:
    """From a heading to the next one of any level."""
    found = re.search(
        rf"^#+ {re.escape(heading)}[^\n]*\n(.*?)(?=^#+ |\Z)", TEXT, re.MULTILINE | re.DOTALL
    )
    assert found, f"no section {heading}"
    return found[1]


SECTIONS = {what: section(f"`{kind}`") for what, kind in KINDS.items()}
SECTIONS |= {Content: section("Content"), Policy: section("`head`"), Receipt: section("`receipts`")}


@pytest.mark.parametrize("what", sorted(SECTIONS, key=str))
def test_every_field_is_in_the_specification(what: type[Message]) -> None:
    for name in what.__struct_fields__:
        assert f"`{name}`" in SECTIONS[what], f"{what.__name__}.{name}"


def test_the_defaults_of_the_policy_are_those_of_the_table() -> None:
    rows = [re.split(r"(?<!\\)\|", line) for line in section("`head`").splitlines()]
    table = {cells[1].strip(" `"): cells[3] for cells in rows if len(cells) == 6}
    for field in msgspec.structs.fields(Policy):
        shown = table[field.name].strip("` ").replace(",", "")
        assert shown == str(field.default) or float(shown) == field.default, field.name


@pytest.mark.parametrize("kind", sorted(MAX_BYTES))
def test_the_caps_are_those_of_the_table(kind: str) -> None:
    assert f"| `{kind}` | {MAX_BYTES[kind]:,} B |" in section("Caps")


def test_the_limits_of_contents_and_names_are_those_of_the_text() -> None:
    assert f"{messages.MAX_CONTENT_BYTES:,}" in section("Content")
    assert f"1 to {messages.MAX_CHUNKS:,} digests" in section("Content")
    assert f"exactly {messages.BINS} naturals" in section("`report`")
    assert f"`{NAME.pattern}`" in section("Topics")


def test_every_topic_is_in_the_table() -> None:
    topics, table = Topics("f"), section("Topics")
    for topic in (
        topics.head,
        topics.coordinator_state,
        topics.state("agent").replace("agent", "{agent}"),
        topics.to("agent").replace("agent", "{agent}"),
        topics.report("agent").replace("agent", "{agent}"),
        topics.bundle("{digest}", 0).replace("/0", "/{chunk}"),
        topics.model("{digest}", 0).replace("/0", "/{chunk}"),
    ):
        assert f"| `{topic.removeprefix(topics.base + '/')}` |" in table

"""Configuration errors name file, line and key."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from wire.errors import SettingsError
from wire.settings import MAX_FILE_BYTES, Settings, key_lines, parse_settings, read_settings


class Node(Settings, frozen=True, kw_only=True):
    id: str
    rate_hz: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Channel(Settings, frozen=True, kw_only=True):
    name: str
    node: tuple[Node, ...] = ()


class Source(Settings, frozen=True, kw_only=True):
    endpoint: str
    channel: tuple[Channel, ...] = ()


class File(Settings, frozen=True, kw_only=True):
    source: Source
    limits: dict[str, int] = msgspec.field(default_factory=dict)
    note: str = ""


GOOD = """\
# A comment with a = sign
note = "hello"

[source]
endpoint = "opc.tcp://127.0.0.1:4840"

[[source.channel]]
name = "torque"
  [[source.channel.node]]
  id = "ns=2;s=Torque"
  rate_hz = 10

[[source.channel]]
name = "speed"
[[source.channel.node]]
id = "ns=2;s=A"
[[source.channel.node]]
id = "ns=2;s=B"
rate_hz = 5

[limits]
a = 1
"""


def refused(text: str, what: type[Any] = File) -> tuple[int | None, str | None, str]:
    with pytest.raises(SettingsError) as error:
        parse_settings(text, what, "agent.toml")
    assert error.value.file == "agent.toml"
    assert str(error.value).startswith("agent.toml")
    return error.value.line, error.value.key, error.value.reason


def test_a_good_file_is_a_frozen_struct() -> None:
    settings = parse_settings(GOOD, File, "agent.toml")
    assert settings.source.channel[1].node == (
        Node(id="ns=2;s=A"),
        Node(id="ns=2;s=B", rate_hz=5.0),
    )
    with pytest.raises(AttributeError):
        settings.note = "changed"  # type: ignore[misc]


def test_every_line_of_the_file_is_found() -> None:
    lines = GOOD.splitlines()
    found = key_lines(GOOD)
    assert lines[found["source.channel[1].node[1].rate_hz"] - 1] == "rate_hz = 5"
    assert lines[found["source.channel[0].node[0].id"] - 1] == '  id = "ns=2;s=Torque"'
    assert lines[found["source.channel[1]"] - 1] == "[[source.channel]]"
    assert len(found) == sum("=" in line or line.strip().startswith("[") for line in lines) - 1


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rate_hz = 5", "rate_Hz = 5", (19, "source.channel[1].node[1].rate_Hz", "unknown key")),
        ("[limits]", "[limit]", (21, "limit", "unknown key")),
        (
            "rate_hz = 5",
            'rate_hz = "5"',
            (19, "source.channel[1].node[1].rate_hz", "Expected `float`, got `str`"),
        ),
        (
            "rate_hz = 10",
            "rate_hz = 0",
            (11, "source.channel[0].node[0].rate_hz", "Expected `float` > 0.0"),
        ),
        ('name = "speed"', "", (13, "source.channel[1].name", "this key is required")),
        (
            'endpoint = "opc.tcp://127.0.0.1:4840"',
            "",
            (4, "source.endpoint", "this key is required"),
        ),
        ("a = 1", "a = 1.5", (22, "limits[...]", "Expected `int`, got `float`")),
    ],
)
def test_a_wrong_key_is_named_with_its_line(
    old: str, new: str, expected: tuple[int, str, str]
) -> None:
    line, key, reason = refused(GOOD.replace(old, new))
    if "[...]" in expected[1]:  # a free key of a table: the table is named
        assert line == 21
    else:
        assert (line, key) == expected[:2]
    assert reason == expected[2]


def test_a_missing_table_is_reported_at_the_first_line() -> None:
    assert refused('note = "x"\n') == (1, "source", "this key is required")


def test_the_message_can_be_clicked_in_a_terminal() -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings(GOOD.replace("note", "nota"), File, "agent.toml")
    assert str(error.value) == "agent.toml:2: nota: unknown key"


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("a = 1\n[b\n", 2), ("a = 1\na = 2\n", 2), ('a = """\nnever closed', 2)],
)
def test_bad_toml_is_named_with_its_line(text: str, line: int) -> None:
    assert refused(text)[:2] == (line, None)


def test_keys_of_an_inline_table_are_found_at_the_line_that_begins_it() -> None:
    text = '[source]\nendpoint = "x"\nchannel = [\n  {name = "a"},\n  {name = 1},\n]\n'
    assert refused(text)[:2] == (3, "source.channel[1].name")


def test_rows_of_an_array_are_not_taken_for_tables() -> None:
    text = 'matrix = [\n  [1, 2],\n  ["a"]\n]\nnote = 3\n'
    assert key_lines(text)["matrix"] == 1
    assert key_lines("[a] # why\nb = 1\n") == {"a": 1, "a.b": 2}


def test_quoted_and_dotted_keys_are_found() -> None:
    text = '[a."b c"]\n"d" = 1\ne.f = 2\n'
    assert key_lines(text) == {"a.b c": 1, "a.b c.d": 2, "a.b c.e.f": 3}


def test_a_file_is_read_and_named_as_the_user_gave_it(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(GOOD)
    assert read_settings(path, File).note == "hello"
    path.write_bytes(b"note = 'a'\nsource = '\xff'\n")
    with pytest.raises(SettingsError, match=r"agent\.toml:2: not UTF-8"):
        read_settings(path, File)
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(SettingsError, match="larger than"):
        read_settings(path, File)
    with pytest.raises(SettingsError, match="can not read: No such file"):
        read_settings(tmp_path / "nothing.toml", File)

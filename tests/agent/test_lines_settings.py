from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.sensors import lines
from agent.sensors.lines import LinesSettings, problems
from wire.errors import SettingsError
from wire.settings import Settings, parse_settings, read_settings

SAMPLE = Path(str(lines.__file__)).parent / "sample.toml"


class SourceTable(Settings, frozen=True, kw_only=True):
    lines: tuple[LinesSettings, ...]


class File(Settings, frozen=True, kw_only=True):
    source: SourceTable


def settings(form: str, **more: Any) -> LinesSettings:
    """A table that has no problem, changed."""
    place: dict[str, dict[str, Any]] = {
        "delimited": {"column": 1},
        "key_value": {"key": "T"},
        "regex": {"group": "t"},
    }
    table: dict[str, Any] = {
        "format": form,
        "device": "/dev/serial/by-id/x",
        "channel": [{"name": "t"} | place.get(form, {"field": "t"})],
    }
    if form == "regex":
        table["pattern"] = r"(?P<t>\d+)"
    if form == "binary":
        table |= {"sync": "AA", "byte_order": "big", "fields": {"t": "h"}, "checksum": "sum8"}
    channel = more.pop("channel", {})
    table["channel"] = [table["channel"][0] | channel]
    found: LinesSettings = msgspec.convert(table | more, LinesSettings)
    return found


def keys(found: LinesSettings) -> list[str]:
    return [key for key, _ in problems(found)]


def test_the_sample_has_no_problem_and_shows_every_key() -> None:
    tables = read_settings(SAMPLE, File).source.lines
    assert [type(each).__name__ for each in tables] == [
        "DelimitedSettings",
        "KeyValueSettings",
        "RegexSettings",
        "BinarySettings",
    ]
    assert [list(problems(each)) for each in tables] == [[], [], [], []]
    text = SAMPLE.read_text(encoding="utf-8")
    for each in tables:
        for name in each.__struct_fields__:
            assert f"{name} = " in text or f".{name}]" in text, name


def test_a_format_without_its_keys_is_refused_with_its_line() -> None:
    text = '[[source.lines]]\nformat = "delimited"\ndevice = "/dev/ttyUSB0"\ngroup = "x"\n'
    with pytest.raises(SettingsError) as refused:
        parse_settings(text, File, "agent.toml")
    assert refused.value.line == 4
    with pytest.raises(SettingsError, match="format"):
        parse_settings('[[source.lines]]\nformat = "csv"\n', File, "agent.toml")


@pytest.mark.parametrize("form", ["delimited", "key_value", "regex", "binary"])
def test_the_shortest_tables_work(form: str) -> None:
    assert keys(settings(form)) == []


@pytest.mark.parametrize(
    ("form", "more", "key"),
    [
        ("delimited", {"device": "ttyUSB0"}, "device"),
        ("delimited", {"request": "a", "request_hex": "61"}, "request_hex"),
        ("delimited", {"request_hex": "6"}, "request_hex"),
        ("delimited", {"request": "\u20ac"}, "request"),
        ("delimited", {"columns": 1}, "channel[0].column"),
        ("delimited", {"columns": 3, "channel": {"shape": [3]}}, "channel[0].column"),
        ("delimited", {"columns": 2, "timestamp": 2}, "timestamp"),
        ("delimited", {"decimal": ","}, "decimal"),
        ("delimited", {"timestamp_zone": "Mars/Olympus"}, "timestamp_zone"),
        ("delimited", {"timestamp_zone": "../etc/passwd"}, "timestamp_zone"),
        ("delimited", {"encoding": "ascii", "start": "\u00a7"}, "start"),
        ("delimited", {"channel": {"scale": 0.0}}, "channel[0].scale"),
        ("delimited", {"channel": {"offset": float("inf")}}, "channel[0].offset"),
        ("delimited", {"channel": {"states": {"A": float("nan")}}}, "channel[0].states"),
        ("delimited", {"channel": {"states": {"A": 1}, "scale": 2}}, "channel[0].states"),
        ("key_value", {"channel": {"shape": [2]}}, "channel[0].shape"),
        ("regex", {"pattern": "(a+)+"}, "pattern"),
        ("regex", {"pattern": "(?P<u>a)"}, "channel[0].group"),
        ("regex", {"timestamp": "u"}, "timestamp"),
        ("binary", {"sync": "AX"}, "sync"),
        ("binary", {"sync": "  "}, "sync"),
        ("binary", {"end": "XY"}, "end"),
        ("binary", {"fields": {"t": "4s"}}, "fields.t"),
        ("binary", {"fields": {"t": "0h"}}, "fields.t"),
        ("binary", {"fields": {"u": "h"}}, "channel[0].field"),
        ("binary", {"fields": {"t": "2x"}}, "channel[0].field"),
        ("binary", {"fields": {"t": "2h"}}, "channel[0].shape"),
        ("binary", {"channel": {"states": {"A": 1}}}, "channel[0].states"),
        ("binary", {"bytesize": 7}, "bytesize"),
        ("binary", {"flow_control": "xon_xoff"}, "flow_control"),
        ("binary", {"timestamp": "t"}, "timestamp_format"),
        ("binary", {"timestamp": "u", "timestamp_format": "epoch_s"}, "timestamp"),
        ("binary", {"frame_bytes": 9, "length_at": 1}, "frame_bytes"),
        ("binary", {"frame_bytes": 2}, "frame_bytes"),
        ("binary", {"frame_bytes": 3}, "checksum_at"),
        ("binary", {"length_at": 0}, "length_at"),
        ("binary", {"length_at": 1, "max_frame_bytes": 3}, "max_frame_bytes"),
        ("binary", {"checksum_at": 1}, "checksum_at"),
        ("binary", {"checksum_at": -1, "end": "0D"}, "checksum_at"),
        ("binary", {"checksum_from": 3}, "checksum_from"),
        ("binary", {"fields": {"t": "h", "_": "99999x"}}, "fields"),
    ],
)
def test_what_can_not_work_is_named_by_its_key(form: str, more: dict[str, Any], key: str) -> None:
    assert key in keys(settings(form, **more))

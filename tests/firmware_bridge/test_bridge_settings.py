"""The bridge's file: the documented one is right and whole, and what can not work is refused."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from firmware_bridge.settings import BridgeSettings, read_bridge_settings
from wire.errors import SettingsError

SMALLEST = """
[bridge]
socket = "bridge.sock"
[[line]]
name = "usb"
port = "/dev/ttyACM0"
[[line.device]]
name = "spindle"
"""


def keys_of(kind: Any, prefix: str = "") -> set[str]:
    found = set()
    for field in msgspec.structs.fields(kind):
        info = msgspec.inspect.type_info(field.type)
        inner: Any = getattr(info, "item_type", info)
        name = f"{prefix}{field.encode_name}"
        is_table = isinstance(inner, msgspec.inspect.StructType)
        found |= keys_of(inner.cls, f"{name}.") if is_table else {name}
    return found


def keys_in(tree: Any, prefix: str = "") -> set[str]:
    if isinstance(tree, list):
        return set().union(*(keys_in(each, prefix) for each in tree))
    if isinstance(tree, dict):
        start = f"{prefix}." if prefix else ""
        return set().union(*(keys_in(value, f"{start}{key}") for key, value in tree.items()))
    return {prefix}


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "bridge.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_bridge_settings(path)
    return str(caught.value)


def test_the_documented_file_has_every_key_and_no_other(repository: Path) -> None:
    path = repository / "configs/bridge.toml"
    settings = read_bridge_settings(path)
    assert [device.name for line in settings.line for device in line.device] == [
        "spindle",
        "pump_1",
        "pump_2",
    ]
    assert keys_in(msgspec.toml.decode(path.read_text())) == keys_of(BridgeSettings)


def test_the_socket_is_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bridge.toml"
    path.write_text(SMALLEST)
    assert read_bridge_settings(path).bridge.socket == str(tmp_path / "bridge.sock")


@pytest.mark.parametrize(
    ("more", "line", "words"),
    [
        (
            '[[line.device]]\nname = "pump"\naddress = 2\n',
            7,
            "address 0 is for a device that is al",
        ),
        ('id = "12"\n', 9, "32 hexadecimal digits"),
        (
            '[[line]]\nname = "b"\nport = "/dev/ttyACM0"\n[[line.device]]\nname = "c"\n',
            11,
            "already",
        ),
        (
            '[[line]]\nname = "b"\nport = "/dev/b"\n[[line.device]]\nname = "spindle"\n',
            13,
            "already",
        ),
        ("addres = 2\n", 9, "unknown key"),
    ],
)
def test_what_can_not_work_is_refused_with_its_line(
    tmp_path: Path, more: str, line: int, words: str
) -> None:
    error = refused(tmp_path, SMALLEST + more)
    assert words in error
    assert re.search(rf"bridge\.toml:{line}:", error), error


def test_figures_are_served_on_this_machine_only(tmp_path: Path) -> None:
    for listen in ("0.0.0.0:9486", "127.0.0.1", "127.0.0.1:99999", "host:1"):
        text = SMALLEST.replace("[[line]]", f'metrics = "{listen}"\n[[line]]', 1)
        assert "bridge.metrics" in refused(tmp_path, text)

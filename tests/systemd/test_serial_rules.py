"""The udev rules' form; udev itself, which has no offline judge before version 254, is not here."""

import re
from pathlib import Path

import pytest

_TOKEN = re.compile(r'([A-Z]+)(?:\{([^}]+)\})?(==|!=|\+=|=)"([^"]*)"(?:,\s*|$)')
_MATCHED = {"ACTION", "SUBSYSTEM", "KERNEL", "ENV"}
_ASSIGNED = {"ENV": "=", "GROUP": "=", "MODE": "=", "SYMLINK": "+=", "GOTO": "=", "LABEL": "="}

Token = tuple[str, str, str, str]


@pytest.fixture
def rules(repository: Path) -> list[list[Token]]:
    """Each rule as its tokens: (key, attribute, operator, value)."""
    text = (repository / "systemd/61-journeyman-serial.rules").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = []
    for line in lines:
        tokens = _TOKEN.findall(line)
        rest = _TOKEN.sub("", line)
        assert (rest, line) == ("", line)
        found.append(tokens)
    return found


def test_every_rule_is_made_of_matches_and_then_assignments(rules: list[list[Token]]) -> None:
    for tokens in rules:
        kinds = []
        for key, _, operator, _ in tokens:
            is_match = operator in ("==", "!=")
            assert key in _MATCHED if is_match else _ASSIGNED[key] == operator, tokens
            kinds.append(is_match)
        assert kinds == sorted(kinds, reverse=True), tokens


def test_every_jump_goes_forward_to_a_label(rules: list[list[Token]]) -> None:
    labels = {
        value: at
        for at, tokens in enumerate(rules)
        for key, _, _, value in tokens
        if key == "LABEL"
    }
    jumps = [
        (at, value)
        for at, tokens in enumerate(rules)
        for key, _, _, value in tokens
        if key == "GOTO"
    ]
    assert len(jumps) >= 4
    assert all(labels[value] > at for at, value in jumps)


def test_no_vendor_and_product_belongs_to_two_chips(rules: list[list[Token]]) -> None:
    seen: list[str] = []
    for tokens in rules:
        asked = {name: value for _, name, operator, value in tokens if operator == "=="}
        given = {name: value for _, name, operator, value in tokens if operator == "="}
        if "ID_VENDOR_ID" not in asked:
            continue
        assert re.fullmatch(r"[a-z0-9]+", given[".JM_CHIP"])
        for vendor in asked["ID_VENDOR_ID"].split("|"):
            assert re.fullmatch(r"[0-9a-f]{4}", vendor)
            products = asked.get("ID_MODEL_ID", "").split("|")
            seen += [f"{vendor}:{product}" for product in products]
    assert len(seen) == len(set(seen))
    assert {"0403:6001", "10c4:ea60", "1a86:7523", "067b:2303"} <= set(seen)


def test_the_group_is_the_one_that_the_drop_in_gives_the_agent(
    rules: list[list[Token]], repository: Path
) -> None:
    (group,) = (value for tokens in rules for key, _, _, value in tokens if key == "GROUP")
    drop_in = (repository / "systemd/drop-ins/serial.conf").read_text()
    assert f"SupplementaryGroups={group}\n" in drop_in
    (mode,) = (value for tokens in rules for key, _, _, value in tokens if key == "MODE")
    assert mode == "0660"


def test_the_file_is_read_after_the_one_that_finds_out_serial_numbers(repository: Path) -> None:
    (name,) = (path.name for path in (repository / "systemd").glob("*.rules"))
    assert name > "60-serial.rules"

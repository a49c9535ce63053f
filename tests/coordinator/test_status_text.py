"""`journeyman-coordinator status` for people."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.reader import Reader
from coordinator.store import Store
from coordinator.terminal import status_text
from coordinator.view import View
from coordinator.words import ago, digits_for, figure, percent, signed
from tests.coordinator.seeded_view import NOW, Seeded, about, seed

ESCAPE = "\x1b"


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    return seed(tmp_path / "coordinator.db")


@pytest.fixture
def look(seeded: Seeded) -> Iterator[Callable[[int], View]]:
    readers: list[Reader] = []

    def view(k_min: int = 1) -> View:
        readers.append(Reader(seeded.path, about(k_min), clock=lambda: NOW))
        return readers[-1].view()

    yield view
    for reader in readers:
        reader.close()


def test_the_first_line_is_what_matters(look: Callable[[int], View]) -> None:
    first = status_text(look(1), color=False).splitlines()[0]
    assert first == "Version 40 is served, PR-AUC 0.872; training goes on at version 48."
    alarming = dataclasses.replace(look(1), threshold=0.203125)
    assert ", PR-AUC 0.872, alarms from 0.2031; training" in status_text(alarming, color=False)


def test_every_part_of_the_page_has_its_lines(look: Callable[[int], View]) -> None:
    text = status_text(look(1), color=False)
    assert "3 of 5 updates of 3 sites, the oldest came 80 s ago" in text
    assert "version 40; kept for a rollback: 25, 30" in text
    assert "lineage 0 abandoned, back to v10" in text
    assert "rolled back to v25" in text
    assert "+0.012 ± 0.003" in text
    assert "H (mean loss)" in text
    assert re.search(r"h-press-3 +H +online \(paused\) +55 %", text)
    assert "240 folded, 3 waiting, 14 refused, 1 dropped; 7 duplicates" in text
    assert "update 18 came with two contents" in text


def test_columns_stand_under_their_headings(look: Callable[[int], View]) -> None:
    lines = status_text(look(1), color=False).splitlines()
    head = next(line for line in lines if line.strip().startswith("agent "))
    row = lines[lines.index(head) + 1]
    end = head.index("folded") + len("folded")
    assert row[:end].endswith(" 52")
    assert row[head.index("last seen") :].startswith("30 s ago")


def test_colors_are_only_put_around_the_same_words(look: Callable[[int], View]) -> None:
    view = look(1)
    colored, plain = status_text(view, color=True), status_text(view, color=False)
    assert ESCAPE in colored
    assert ESCAPE not in plain
    without = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert [line.rstrip() for line in without.splitlines()] == plain.splitlines()


def test_a_hostile_name_can_not_move_the_cursor_or_begin_a_line(
    seeded: Seeded, look: Callable[[int], View]
) -> None:
    evil = "x\x1b[2J\r\nonline\u202e"
    seeded.execute("UPDATE agents SET site = ? WHERE agent = 'l-press-1'", evil)
    seeded.execute("UPDATE updates SET reason = ? WHERE status = 'refused'", evil)
    seeded.execute("UPDATE decisions SET reason = ?, verdict = ?", evil, evil)
    seeded.execute("UPDATE alarms SET detail = ?, kind = ?", evil, evil)
    seeded.execute("UPDATE choices SET model = ?", evil)
    text = status_text(look(1), color=False)
    assert all(letter.isprintable() for letter in text.replace("\n", ""))
    assert "\nonline" not in text
    assert "\\x1b[2J" in text


def test_a_cohort_has_no_figures_of_single_sites(look: Callable[[int], View]) -> None:
    text = status_text(look(3), color=False)
    assert "the charter asks for 3" in text
    assert "±" not in text
    assert "personal copy" not in text


def test_before_the_first_version_there_is_one_sentence(tmp_path: Path) -> None:
    Store(tmp_path / "empty.db").close()
    with closing(Reader(tmp_path / "empty.db", about())) as reader:
        text = status_text(reader.view(), color=False)
    assert text.startswith("Nothing has been published yet.\n")


def test_a_long_fleet_is_cut_and_counted(look: Callable[[int], View]) -> None:
    view = look(1)
    many = dataclasses.replace(view, agents=view.agents * 10, agent_count=50)
    assert "  and 30 more\n" in status_text(many, color=False)


def test_figures_have_the_digits_that_mean_something() -> None:
    assert figure("pr_auc", 0.8717) == "0.872"
    assert figure("rmse", 14.2087) == "14.21"
    assert figure("pr_auc", None) == "-"
    assert signed(-0.0012, digits_for(0.0013)) == "\N{MINUS SIGN}0.0012"
    assert signed(0.25, digits_for(0.25)) == "+0.25"
    assert percent(0.9999) == "99 %"
    assert percent(1.0) == "100 %"
    assert (ago(NOW - 7000, NOW), ago(NOW - 90, NOW), ago(None, NOW)) == (
        "117 min ago",
        "90 s ago",
        "never",
    )

"""What a person must see while the demo runs, at a terminal and in a log."""

import dataclasses
import io
import os
import pty
import re
from typing import TextIO

import pytest
from rich.console import Console

from shopfloor.live import FleetView, LiveTerminal, SiteView, plain_line, render, sparkline
from shopfloor.record import UpdateCounts

SITES = (
    SiteView("L", 3211, 3150, 0, True, 14, 0, 14, 0.74, 0.03, 61, 60),
    SiteView("M", 1604, 1571, 5, False, 12, 2, 12, 0.62, 0.91, 44, 38, "trains offline"),
    SiteView("H", 537, 520, 1, True, 13, 1, 13, None, None, 40, 38),
)
VIEW = FleetView(
    t_s=47.2,
    total_s=90.0,
    phase="learning",
    sites=SITES,
    train_version=14,
    serve_version=13,
    updates=UpdateCounts(145, 136, void=1, duplicates=3),
    pr_auc_history=[0.11, 0.22, 0.34, 0.46, 0.55, 0.61, 0.66, 0.69, 0.72],
    message="update M/38 trained during an outage, arrived 4.1 s later",
)


def shown(view: FleetView, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(render(view))
    return capture.get()


def line_of(site: str) -> str:
    return next(line for line in shown(VIEW).splitlines() if re.match(rf"\W+{site}\s", line))


def test_a_link_that_is_down_is_told_in_words_not_by_color_alone() -> None:
    assert "down" in line_of("M")
    assert "up" in line_of("L")


def test_every_figure_of_a_site_stands_on_its_line() -> None:
    for figure in ("1,604", "1,571", "5", "v12 (-2)", "38/44", "0.62", "! 0.91"):
        assert figure in line_of("M")


def test_a_site_that_is_not_judged_yet_shows_a_dash_not_a_zero() -> None:
    assert "0.00" not in line_of("H")
    assert line_of("H").count(" - ") == 2


def test_the_fleet_lines_tell_quality_versions_and_accounts() -> None:
    screen = shown(VIEW)
    assert "47 s of 90" in screen
    assert "learning" in screen
    assert "0.11 -> 0.72" in screen
    assert "train v14, serve v13" in screen
    assert "0 lost of 145: 136 folded, 1 void, 8 on the way; 3 copies dropped" in screen
    assert "M trains offline" in screen
    assert "arrived 4.1 s later" in screen


def test_before_the_first_version_the_view_says_so() -> None:
    sites = [SiteView("L", 0, 0, 0, False, None, 0, None, None, None, 0, 0)]
    screen = shown(FleetView(0.0, 90.0, "starting", sites, None, None, UpdateCounts(), []))
    assert "no version judged yet" in screen
    assert "train -, serve -" in screen


@pytest.mark.parametrize("width", [80, 100, 160])
def test_nothing_is_cut_or_wrapped_at_usual_widths(width: int) -> None:
    screen = shown(VIEW, width)
    assert len(screen.splitlines()) == 1 + 4 + len(SITES) + 4
    assert max(len(line) for line in screen.splitlines()) <= width
    for figure in (
        "PR-AUC",
        "score",
        "windows",
        "trains on",
        "3 copies dropped",
        "v12 (-2)",
        "3,211",
        "0.91",
        "down",
        "0 lost",
    ):
        assert figure in screen


def test_the_sparkline_keeps_one_scale_so_that_runs_can_be_compared() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "\u2581\u2585\u2588"
    assert sparkline([-1.0, 2.0]) == "\u2581\u2588"
    assert sparkline([0.0] * 5 + [1.0] * 3, width=3) == "\u2588" * 3


def test_without_a_terminal_plain_lines_come_every_few_seconds() -> None:
    log = io.StringIO()
    with LiveTerminal(log) as live:
        for tenth in range(120):
            live.update(dataclasses.replace(VIEW, t_s=tenth / 10))
        live.update(dataclasses.replace(VIEW, t_s=12.0, phase="draining outboxes"))
    lines = log.getvalue().splitlines()
    assert len(lines) == 4
    assert "\x1b" not in log.getvalue()
    assert log.getvalue().isascii()
    assert "draining outboxes" in lines[-1]


def test_a_plain_line_tells_links_outbox_updates_version_and_quality() -> None:
    line = plain_line(VIEW)
    for words in ("47 s of 90", "links up 2/3", "outbox 6", "136 folded of 145", "0 lost", "v13"):
        assert words in line
    assert line.endswith("PR-AUC 0.72")


def test_forced_colors_do_not_bring_escape_codes_into_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    log = io.StringIO()
    with LiveTerminal(log) as live:
        live.update(VIEW)
    assert "\x1b" not in log.getvalue()


def test_a_told_line_stays_among_plain_lines_and_is_not_marked_up() -> None:
    log = io.StringIO()
    with LiveTerminal(log) as live:
        live.tell("Watch it: http://127.0.0.1:8181/ [red]")
        live.update(VIEW)
    assert log.getvalue().splitlines()[0] == "Watch it: http://127.0.0.1:8181/ [red]"


def test_headless_prints_plain_lines_even_at_a_terminal() -> None:
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as terminal:
        with LiveTerminal(terminal, plain=True) as live:
            live.update(VIEW)
        terminal.flush()
        shown = os.read(reader, 65536)
    os.close(reader)
    assert b"\x1b" not in shown
    assert b"136 folded of 145" in shown


def test_a_terminal_shows_the_view_and_gets_its_cursor_back_after_an_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    reader, writer = pty.openpty()

    def interrupted(terminal: TextIO) -> None:
        with LiveTerminal(terminal, width=100) as live:
            live.update(VIEW)
            live.tell("Watch it: http://127.0.0.1:8181/ [red]")
            raise KeyboardInterrupt

    screen = b""
    with os.fdopen(writer, "w", encoding="utf-8") as terminal:
        with pytest.raises(KeyboardInterrupt):
            interrupted(terminal)
        terminal.flush()
        while b"\x1b[?25h" not in screen:
            screen += os.read(reader, 65536)
    os.close(reader)
    assert b"Journeyman" in screen
    assert b"Watch it: http://127.0.0.1:8181/ [red]" in screen
    assert screen.index(b"\x1b[?25l") < screen.index(b"\x1b[?25h")

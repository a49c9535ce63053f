"""The live view of a running demo: one table at a terminal, plain lines everywhere else.

Responsible for showing a `FleetView`; `render` is pure, `LiveTerminal` owns the terminal.  Refuses
to write escape codes where no terminal reads them.  Invariant: no state is told by color alone,
and leaving the context, by Ctrl-C too, gives the terminal back as it was found.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shopfloor.record import UpdateCounts

PLAIN_INTERVAL_S = 5.0
"""Seconds of the run between two plain lines: enough for a log, few enough to read."""

SPARK = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
SPARK_WIDTH = 32
OUTBOX_BAR = 4
ALARM_SCORE = 0.5


@dataclass(frozen=True)
class SiteView:
    """One site now.

    Attributes:
      samples: samples read from the machine so far.
      windows: windows cut from them so far.
      outbox: updates that wait for their outcome.
      link_up: whether the site reaches the broker.
      base_version: version that the agent trains from; None before the first one came.
      staleness: versions that this base is behind the newest.
      served_version: version that scores the live signal; None before the first one came.
      pr_auc: served version on the site's own held-out rows; None while not judged.
      score: newest live score, the chance of failure 0..1; None before the first one.
      produced: updates that the agent has made.
      folded: how many of them became part of a version.
      note: a few words on what is special now, or nothing.
    """

    site: str
    samples: int
    windows: int
    outbox: int
    link_up: bool
    base_version: int | None
    staleness: int
    served_version: int | None
    pr_auc: float | None
    score: float | None
    produced: int
    folded: int
    note: str = ""


@dataclass(frozen=True)
class FleetView:
    """The whole demo now.

    Attributes:
      t_s: seconds since the run began.
      total_s: seconds that the run is planned to take.
      phase: what is going on, in a word or three ("learning", "draining outboxes").
      train_version: newest fold; None before the first head.
      serve_version: version that the sites are told to serve.
      pr_auc_history: served versions judged on all sites' held-out rows, oldest first.
      message: the newest thing worth telling, or nothing.
    """

    t_s: float
    total_s: float
    phase: str
    sites: Sequence[SiteView]
    train_version: int | None
    serve_version: int | None
    updates: UpdateCounts
    pr_auc_history: Sequence[float]
    message: str = ""


class LiveTerminal:
    """Shows views while the context is open; the last one stays on the screen.

    Args:
      stream: where to write; standard output if not given.
      width: columns, for a terminal that does not tell its size.
      plain: print plain lines even at a terminal.
    """

    def __init__(
        self, stream: TextIO | None = None, width: int | None = None, *, plain: bool = False
    ) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._live: Live | None = None
        self._printed: tuple[str, float] | None = None
        if self._stream.isatty() and not plain:
            console = Console(file=self._stream, width=width)
            if not console.is_dumb_terminal:
                self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, line: str) -> None:
        """Print a line that stays, above the live view where there is one."""
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def update(self, view: FleetView) -> None:
        """Show `view`; without a terminal, print it if the phase changed or some seconds passed."""
        if self._live is not None:
            self._live.update(render(view), refresh=True)
        elif self._is_due(view):
            self._printed = (view.phase, view.t_s)
            self._stream.write(plain_line(view) + "\n")
            self._stream.flush()

    def _is_due(self, view: FleetView) -> bool:
        if self._printed is None:
            return True
        phase, t_s = self._printed
        return view.phase != phase or view.t_s - t_s >= PLAIN_INTERVAL_S


def render(view: FleetView) -> RenderableType:
    """The view as lines for a terminal of 80 columns or more."""
    notes = "; ".join(f"{site.site} {site.note}" for site in view.sites if site.note)
    return Group(
        _header(view),
        _sites(view.sites),
        _learning(view),
        _accounts(view.updates),
        # Always two lines, so that the view does not jump while it runs.
        _remark(notes, "yellow"),
        _remark(view.message, "italic"),
    )


def plain_line(view: FleetView) -> str:
    """The view as one ASCII line for logs and pipes."""
    up = [site.site for site in view.sites if site.link_up]
    waiting = sum(site.outbox for site in view.sites)
    quality = f"{view.pr_auc_history[-1]:.2f}" if view.pr_auc_history else "not judged"
    updates = view.updates
    return (
        f"{view.t_s:5.0f} s of {view.total_s:.0f}  {view.phase}  "
        f"links up {len(up)}/{len(view.sites)}  outbox {waiting}  "
        f"updates {updates.folded} folded of {updates.produced}, {updates.lost} lost  "
        f"{_version(view.serve_version)}  PR-AUC {quality}"
    )


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """The last `width` qualities (0..1) as bars on the fixed scale 0 to 1."""
    top = len(SPARK) - 1
    return "".join(SPARK[round(min(max(value, 0.0), 1.0) * top)] for value in values[-width:])


def _header(view: FleetView) -> RenderableType:
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True, justify="right")
    bar = ProgressBar(total=max(view.total_s, 1e-9), completed=min(view.t_s, view.total_s))
    title = Text.assemble((" Journeyman", "bold"), f"  {view.phase} ")
    line.add_row(title, bar, f"{view.t_s:.0f} s of {view.total_s:.0f} ")
    return line


def _sites(sites: Sequence[SiteView]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=0, border_style="dim")
    table.add_column("site", style="bold", no_wrap=True, overflow="ellipsis", max_width=12)
    table.add_column("link", no_wrap=True, min_width=6)
    for name in ("samples", "windows"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("  outbox", no_wrap=True, min_width=4 + OUTBOX_BAR)
    for name in ("trains on", "serves", "folded", "PR-AUC", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    for site in sites:
        table.add_row(*_site_cells(site))
    return table


def _site_cells(site: SiteView) -> list[RenderableType]:
    link = Text("\u25cf up", style="green") if site.link_up else Text("\u25cb down", style="red")
    return [
        site.site,
        link,
        f"{site.samples:,}",
        f"{site.windows:,}",
        _outbox(site.outbox),
        _base(site),
        _version(site.served_version),
        f"{site.folded}/{site.produced}",
        "-" if site.pr_auc is None else f"{site.pr_auc:.2f}",
        _score(site.score),
    ]


def _outbox(depth: int) -> Text:
    bar = "\u25ae" * min(depth, OUTBOX_BAR)
    return Text.assemble((f"{depth:>3} ", ""), (bar, "yellow"))


def _base(site: SiteView) -> Text:
    behind = f" ({-site.staleness})" if site.staleness else ""
    return Text.assemble(_version(site.base_version), (behind, "yellow"))


def _score(score: float | None) -> Text:
    if score is None:
        return Text("-")
    alarm = score >= ALARM_SCORE
    return Text(f"{'! ' if alarm else ''}{score:.2f}", style="bold red" if alarm else "")


def _version(version: int | None) -> str:
    return "-" if version is None else f"v{version}"


def _learning(view: FleetView) -> Text:
    heads = f"train {_version(view.train_version)}, serve {_version(view.serve_version)}"
    history = view.pr_auc_history
    if not history:
        return Text(f" quality  {heads}; no version judged yet")
    text = Text.assemble(" PR-AUC   ", (sparkline(history), "cyan"))
    text.append(f" {history[0]:.2f} -> ")
    text.append(f"{history[-1]:.2f}", style="bold")
    text.append(f"   {heads}")
    return text


def _accounts(updates: UpdateCounts) -> Text:
    outcomes = [f"{updates.folded} folded"]
    for name, count in (
        ("refused", updates.refused),
        ("void", updates.void),
        ("dropped", updates.dropped),
        ("on the way", updates.on_the_way),
    ):
        outcomes += [f"{count} {name}"] if count else []
    text = Text(" updates  ", no_wrap=True, overflow="ellipsis")
    text.append(f"{updates.lost} lost", style="bold red" if updates.lost else "bold green")
    text.append(f" of {updates.produced}: {', '.join(outcomes)}")
    return text.append(f"; {updates.duplicates} copies dropped" if updates.duplicates else "")


def _remark(words: str, style: str) -> Text:
    return Text(f" {words}", style=style, no_wrap=True, overflow="ellipsis")

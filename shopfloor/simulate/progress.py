"""How a simulation goes on: a bar at a terminal, a line for each tenth everywhere else.

Goes to standard error, so that the table on standard output can be kept.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from shopfloor.simulate.engine import Progress
from shopfloor.simulate.outcome import Point

_LINES = 10


@contextmanager
def shown(name: str, hours: float, stream: TextIO | None = None) -> Iterator[Progress]:
    """Give the function that a run reports to; the bar is taken away at the end.

    Args:
      name: of the run.
      hours: that it simulates.
      stream: standard error, unless another is given.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        yield _plain(name, hours, stream)
        return
    try:
        from rich.console import Console  # noqa: PLC0415  it comes with the demo extra
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415
    except ImportError:
        yield _plain(name, hours, stream)
        return
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        TextColumn("{task.completed:5.1f} of {task.total:g} h   {task.fields[words]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task(name, total=hours, words="")

        def report(point: Point) -> None:
            bar.update(task, completed=point.at_s / 3600, words=_words(point))

        yield report


def _plain(name: str, hours: float, stream: TextIO) -> Progress:
    told = -1

    def report(point: Point) -> None:
        nonlocal told
        tenth = int(_LINES * point.at_s / 3600 / hours)
        if tenth > told:
            told = tenth
            print(f"{name}: {point.at_s / 3600:.1f} of {hours:g} h, {_words(point)}", file=stream)

    return report


def _words(point: Point) -> str:
    return f"version {point.version}, {point.uplinks:,} updates, accuracy {point.accuracy:.3f}"

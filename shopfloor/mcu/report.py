"""What the run showed, in one line and as a page without scripts."""

import html
from pathlib import Path
from typing import Final

from shopfloor.mcu.run import McuRecord, Moment, line_of

_WIDTH, _HEIGHT, _BORDER = 640, 160, 8
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Journeyman on a microcontroller</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto }}
table {{ border-collapse: collapse }} th, td {{ text-align: left; padding: 0.2rem 1rem 0.2rem 0 }}
pre {{ overflow-x: auto; font-size: 13px }} .board {{ stroke: #b3261e; stroke-dasharray: 5 4 }}
.gateway {{ stroke: #1a56db }} polyline {{ fill: none; stroke-width: 2 }}
</style></head><body>
<h1>A model of the federation on a Cortex-M3</h1>
<p>{verdict}</p>
<table>{rows}</table>
<h2>Scores of the same rows</h2>
<svg viewBox="0 0 {width} {height}" role="img" aria-label="scores over the run">{lines}</svg>
<p>Blue: the gateway's float model. Red, dashed: the board's int8 model. The higher, the more
unusual. Rows beyond the range that the int8 model was calibrated for are clipped on the board; they
are compared by their bits alone.</p>
<h2>What happened</h2><pre>{moments}</pre>
<h2>The agent's log</h2><pre>{log}</pre>
</body></html>
"""


def verdict(record: McuRecord) -> str:
    """What the run showed, in a sentence or two."""
    last = record.last
    if record.problem or last is None:
        return f"NOT SHOWN: {record.problem}"
    return (
        f"Version {last.version} runs on the emulated Cortex-M3: {last.bits_equal} of {last.rows} "
        f"scores are bit-exact with the int8 reference, and within {last.largest:.4f} of the float "
        f"model (mean {last.mean:.4f}, bound {last.bound:.4f}). Gate: {last.judges}."
    )


def write_report(record: McuRecord, path: Path) -> None:
    """Write the page.

    Raises:
      OSError: the disk does not take it.
    """
    last = record.last
    facts = [] if last is None else [
        ("version on the board", last.version),
        ("state", last.stage),
        ("judged at the gate by", last.judges),
        ("SHA-256 of the slot's content", last.sha256),
        ("scores compared", last.compared),
        ("of the newest, bit-exact with the int8 reference", f"{last.bits_equal} of {last.rows}"),
        ("largest difference from the float model", f"{last.largest:.5f}"),
        ("mean difference", f"{last.mean:.5f}"),
        ("bound: 16 steps of the int8 output", f"{last.bound:.5f}"),
        ("rows beyond the int8 range", last.clipped),
    ]  # fmt: skip
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in facts
    )
    path.write_text(
        _PAGE.format(
            verdict=html.escape(verdict(record)),
            rows=rows,
            width=_WIDTH,
            height=_HEIGHT,
            lines=_lines(record.moments),
            moments=html.escape("\n".join(map(line_of, record.moments))),
            log=html.escape("\n".join(record.log)),
        )
    )


def _lines(moments: list[Moment]) -> str:
    """Both scores over time, as polylines."""
    seen = [
        (each.t_s, each.device.score, each.device.gateway_score)
        for each in moments
        if each.device.score is not None and each.device.gateway_score is not None
    ]
    if len(seen) < 2:
        return ""
    first, last = seen[0][0], seen[-1][0]
    most = max(max(score, gateway) for _, score, gateway in seen) or 1.0

    def point(t_s: float, score: float) -> str:
        x = _BORDER + (t_s - first) / (last - first) * (_WIDTH - 2 * _BORDER)
        y = _HEIGHT - _BORDER - score / most * (_HEIGHT - 2 * _BORDER)
        return f"{x:.1f},{y:.1f}"

    gateway = " ".join(point(t_s, score) for t_s, _, score in seen)
    board = " ".join(point(t_s, score) for t_s, score, _ in seen)
    return (
        f'<polyline class="gateway" points="{gateway}"/><polyline class="board" points="{board}"/>'
    )

"""Pieces of HTML that every section is made of."""

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape

from coordinator.words import ago


def e(text: object) -> str:
    """Escape a word from outside, for text and for attributes."""
    return escape(str(text), quote=True)


def when(at: float | None, now: float) -> str:
    """A moment, which `static/page.js` keeps up to date."""
    if at is None:
        return "never"
    exact = datetime.fromtimestamp(at, UTC)
    return (
        f'<time datetime="{exact:%Y-%m-%dT%H:%M:%SZ}" data-at="{at:.0f}"'
        f' title="{exact:%Y-%m-%d %H:%M:%S} UTC">{ago(at, now)}</time>'
    )


def row(cells: Iterable[str]) -> str:
    """A row of cells that are HTML already."""
    return f"<tr>{''.join(cells)}</tr>"


def table(head: Iterable[tuple[str, str]], rows: Iterable[str]) -> str:
    """A table that scrolls where it does not fit; each heading is (class, HTML)."""
    heads = "".join(f'<th scope="col" class="{name}">{text}</th>' for name, text in head)
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )

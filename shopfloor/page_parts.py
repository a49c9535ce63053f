"""Pieces of HTML that the reports are made of: tables, bars, figures.

Responsible for markup alone.  Invariant: a parameter named `..._html` stands as it is, so its
caller has escaped it; everything else is escaped here.
"""

from collections.abc import Sequence
from html import escape

from shopfloor.record import UpdateCounts

OUTCOMES = {
    "produced": "trained by an agent and written to its outbox",
    "folded": "became part of a version, exactly once",
    "refused": "the coordinator checked it and said no, with a reason",
    "void": "can no longer be used, through no fault of the site",
    "dropped": "the outbox was full; the coordinator was told",
    "lost": "no outcome at the end of the run; must be 0",
    "duplicates": "copies that came again after a cut, recognized and not counted twice",
}
"""What each field of `UpdateCounts` means, in the order of the table."""


def table_html(caption: str, columns_html: Sequence[str], rows_html: Sequence[str]) -> str:
    """A table; each row is a whole `<tr>`."""
    heads = "".join(f'<th scope="col">{column}</th>' for column in columns_html)
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows_html)}</tbody></table>"
    )


def bar_table(caption_html: str, bars: Sequence[tuple[str, str, float, str]]) -> str:
    """Bars side by side: (name, series in the style sheet, length 0..1, its figure in words)."""
    rows = "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(words)}</td>"
        f'<td class="bar"><i class="{series}" style="width:{length:.1%}"></i></td></tr>'
        for name, series, length, words in bars
    )
    return f'<table class="bars"><caption>{caption_html}</caption><tbody>{rows}</tbody></table>'


def figure_html(svg: str, title: str, words_html: str, *, wide: bool = False) -> str:
    """A drawing with its title and what to look for."""
    kind = ' class="wide"' if wide else ""
    return (
        f"<figure{kind}><figcaption><h3>{escape(title)}</h3>{words_html}</figcaption>\n"
        f"<div>{svg}</div></figure>"
    )


def update_table(updates: UpdateCounts) -> str:
    """What became of the updates, each outcome with its meaning."""
    rows = [
        f"<tr><th>{name}</th><td>{getattr(updates, name):,}</td><td>{words}</td></tr>"
        for name, words in OUTCOMES.items()
    ]
    return table_html("Updates", ("outcome", "updates", "meaning"), rows)

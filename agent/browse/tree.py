"""A walk as an indented tree, for a terminal.  Pure."""

from collections.abc import Iterator

from agent.browse.found import HISTORY, READ, WRITE, Facts, Walk
from agent.live.words import quality_text
from wire.errors import one_line

_INDENT = "  "
_LONGEST_TEXT = 40
_SHOWN_ELEMENTS = 3


def tree(walk: Walk) -> Iterator[str]:
    """Lines: the namespaces, then each node below its parent; `r`ead, `w`rite, `h`istory."""
    for index, uri in enumerate(walk.namespaces):
        yield f"namespace {index}: {one_line(uri)}"
    rows = list(_rows(walk))
    widths = [min(50, max((len(row[at]) for row in rows), default=0)) for at in range(5)]
    for *cells, last in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"{'  '.join(padded)}  {last}".rstrip()
    count = sum(node.facts is not None for node in walk.nodes)
    yield f"{len(walk.nodes)} nodes, {count} of them variables"
    if walk.cut:
        yield f"there may be more: {walk.cut}"


def _rows(walk: Walk) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Name, type, value, unit, access, node; in the order of the hierarchy."""
    waiting = [0] if walk.nodes else []
    while waiting:
        node = walk.nodes[waiting.pop()]
        name = f"{_INDENT * node.depth}{one_line(node.name)}"
        place = one_line(node.node_id.to_string()) + (f"  ({node.note})" if node.note else "")
        facts = node.facts
        if facts is None:
            yield name, "", "", "", "", place
        else:
            yield name, type_text(facts), value_text(facts), facts.unit, flags(facts), place
        waiting.extend(reversed(node.children))


def type_text(facts: Facts) -> str:
    """`Double`, `Float[4096]`."""
    dimensions = ",".join(map(str, facts.shape))
    return one_line(facts.data_type) + (f"[{dimensions}]" if facts.shape else "")


def value_text(facts: Facts) -> str:
    """The value now, shortened; its quality where it is not Good."""
    value = facts.value
    if facts.fields:
        text = f"numbers: {', '.join(facts.fields)}"
    elif isinstance(value, list):
        shown = ", ".join(_single(each) for each in value[:_SHOWN_ELEMENTS])
        text = f"{shown}, ..." if len(value) > _SHOWN_ELEMENTS else shown
    else:
        text = "-" if value is None else _single(value)
    text = text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."
    quality = quality_text(facts.status)
    return text if quality == "Good" else f"{text} {quality}"


def _single(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.8g}"
    text = getattr(value, "Text", value)
    return one_line(str(text))


def flags(facts: Facts) -> str:
    """What the user may do: `rwh`; a letter that is missing is a `-`.  `+` where it is recorded."""
    letters = (("r", READ), ("w", WRITE), ("h", HISTORY))
    text = "".join(letter if facts.access & bit else "-" for letter, bit in letters)
    return f"{text}+" if facts.is_historizing else text

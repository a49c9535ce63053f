"""Prometheus' text format 0.0.4.  Pure.

Format: prometheus.io/docs/instrumenting/exposition_formats; names as in
prometheus.io/docs/practices/naming.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_LONGEST_NAME = 120

Sample = tuple[Mapping[str, str], float]
Kind = Literal["counter", "gauge"]


def family(name: str, kind: Kind, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    """Lines of one family; none at all where it has no sample."""
    lines = [line(name, labels, value) for labels, value in samples]
    if lines:
        yield f"# HELP {name} {escaped(text)}"
        yield f"# TYPE {name} {kind}"
        yield from lines


def distinct(names: Iterable[str]) -> list[str]:
    """Names as the values of one label: not too long, and no two the same (` #2`, ` #3`)."""
    given: dict[str, None] = {}
    for name in names:
        cut = found = name[:_LONGEST_NAME]
        number = 1
        while found in given:
            number += 1
            found = f"{cut} #{number}"
        given[found] = None
    return list(given)


def line(name: str, labels: Mapping[str, str], value: float) -> str:
    """One sample."""
    inside = ",".join(f'{key}="{_quoted(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}"


def escaped(text: str) -> str:
    """A help text as the format wants it."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return escaped(text).replace('"', '\\"')


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1 << 53 else repr(value)

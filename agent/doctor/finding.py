"""What a check found, and what to do next.  Pure."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec

VERSION: Literal[1] = 1
Describe = msgspec.Meta
State = Literal["ok", "warning", "problem", "skipped"]


class Finding(msgspec.Struct, frozen=True):
    """One check."""

    check: Annotated[str, Describe(description="What was looked at: `clock`, `broker`, ...")]
    status: Annotated[
        State,
        Describe(
            description="`ok`; `warning`: works, but look at it; `problem`: does not work; "
            "`skipped`: not looked at, and the finding says why."
        ),
    ]
    finding: Annotated[str, Describe(description="What is so, in one line.")]
    advice: Annotated[str, Describe(description="What to do, in one line; empty: nothing.")] = ""


class Report(msgspec.Struct, frozen=True):
    """The document of `journeyman-agent doctor --json`."""

    version: Annotated[Literal[1], Describe(description="Of this document's format.")]
    config: Annotated[str, Describe(description="The configuration file.")]
    status: Annotated[State, Describe(description="The worst of all checks.")]
    checks: Annotated[list[Finding], Describe(description="All of them, in order.")]


def ok(check: str, finding: str, advice: str = "") -> Finding:
    """It is as it should be."""
    return Finding(check, "ok", finding, advice)


def warning(check: str, finding: str, advice: str) -> Finding:
    """It works, but somebody should look."""
    return Finding(check, "warning", finding, advice)


def problem(check: str, finding: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, "problem", finding, advice)


def skipped(check: str, finding: str, advice: str = "") -> Finding:
    """It was not looked at."""
    return Finding(check, "skipped", finding, advice)


def worst(findings: Iterable[Finding]) -> State:
    """The worst status; checks that were skipped count as nothing."""
    found = {each.status for each in findings}
    order: tuple[State, ...] = ("problem", "warning", "ok")
    return next((status for status in order if status in found), "ok")


def report(config: str, findings: list[Finding]) -> Report:
    """The whole document."""
    return Report(VERSION, config, worst(findings), findings)


def in_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """A line for each finding, and one for what to do."""
    findings = list(findings)
    width = max((len(each.check) for each in findings), default=0)
    for each in findings:
        yield f"{each.status:8} {each.check:{width}}  {_one_line(each.finding)}"
        if each.advice:
            yield f"{'':8} {'':{width}}  -> {_one_line(each.advice)}"
    counts = {status: sum(each.status == status for each in findings) for status in _COUNTED}
    yield ", ".join(f"{count} {status}" for status, count in counts.items())


_COUNTED: tuple[State, ...] = ("ok", "warning", "problem", "skipped")


def _one_line(text: str) -> str:
    return " ".join(text.split())

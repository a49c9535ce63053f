"""A document as its reader sees it: what to type, what is printed then, how a file looks.  Pure.

The conventions, in fenced blocks: `sh` is typed on the gateway, or at the authority if the first
line says so; `text` is what the block before it prints; `toml` is how the file looks that the block
before it opens in an editor.  In `text`, a line `...` is any lines, `...` in a line any characters,
and numbers, hexadecimal keys and widths of gaps are examples.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

AT_AUTHORITY: Final = "# at the authority\n"
_PARTS: Final = re.compile(r"^## ([^\n]*)$|^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK: Final = re.compile(r" *# (new|changed)\b.*")
_NUMBER: Final = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_EXAMPLES: Final = {
    r"\.\.\.": ".*",
    r"[0-9a-f]{32,}": "[0-9a-f]{32,}",
    r"(?:amd|arm)64": "(?:amd|arm)64",
    _NUMBER: _NUMBER,
    " +": " +",
}
"""What is an example in the document, and what may be printed in its place."""
_EXAMPLE: Final = re.compile("|".join(f"({pattern})" for pattern in _EXAMPLES))


@dataclass(frozen=True)
class Step:
    """Something to do.

    Attributes:
      section: the heading above it.
      typed: lines of a shell.
      printed: what the document says that they print; None if it does not say.
      edited: what the file looks like that they open in an editor; empty if they open none.
    """

    section: str
    typed: str
    printed: str | None = None
    edited: str = ""


def steps(document: str) -> list[Step]:
    """All steps of a document, in order."""
    section, found = "", []
    for heading, language, text in _PARTS.findall(document):
        if heading:
            section = heading
        elif language == "sh":
            found.append(Step(section, text))
        elif language == "text":
            found[-1] = replace(found[-1], printed=text)
        elif language == "toml":
            found[-1] = replace(found[-1], edited=text)
        else:
            raise AssertionError(f"what is ```{language} in a document that is typed?")
    return found


def commands(step: Step) -> list[str]:
    """The commands of a step, one a line."""
    return [line for line in step.typed.splitlines() if line and not line.startswith("#")]


def is_like(printed: str, shown: str) -> bool:
    """Whether a program printed what the document shows."""
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    groups = list(_groups(shown))
    at = 0
    for number, group in enumerate(groups):
        latest = len(lines) - len(group)
        places = range(
            latest if number == len(groups) - 1 else at, (0 if number == 0 else latest) + 1
        )
        fitting = (place for place in places if place >= at and _fits(lines[place:], group))
        place = next(fitting, None)
        if place is None:
            return False
        at = place + len(group)
    return True


def _groups(shown: str) -> Iterator[list[re.Pattern[str]]]:
    """The lines between the dots."""
    group: list[re.Pattern[str]] = []
    for line in shown.strip("\n").splitlines():
        if line == "...":
            yield group
            group = []
        else:
            group.append(_pattern(line.rstrip()))
    yield group


def _pattern(line: str) -> re.Pattern[str]:
    allowed = list(_EXAMPLES.values())
    pieces, at = [], 0
    for found in _EXAMPLE.finditer(line):
        assert found.lastindex is not None
        pieces += [re.escape(line[at : found.start()]), allowed[found.lastindex - 1]]
        at = found.end()
    return re.compile("".join(pieces) + re.escape(line[at:]))


def _fits(lines: list[str], group: list[re.Pattern[str]]) -> bool:
    pairs = zip(group, lines, strict=False)
    return len(lines) >= len(group) and all(each.fullmatch(line) for each, line in pairs)


def edited_lines(edited: str) -> list[str]:
    """The lines of a file that a person has to type: those that are marked."""
    return [line for line in edited.splitlines() if _MARK.search(line)]


def unmarked(edited: str) -> str:
    """The file as it is typed, without the marks."""
    return "".join(f"{_MARK.sub('', line)}\n" for line in edited.splitlines())

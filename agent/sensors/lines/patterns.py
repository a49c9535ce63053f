"""Regular expressions that can not hang: how many steps a pattern may take on a line.

Python's matcher tries every way to divide a line among the repeats of a pattern.  Where the
characters that a repeat can take are never the ones that may follow it, there is only one way, and
matching is linear: that is what `[^;]*;` has and `.*;` has not.  Every other repeat multiplies the
steps by the length of the line; options (`?`, `|`) that one character does not tell apart multiply
them by the number of branches.  A pattern is refused when that product is too large for the
longest line, and always when a repeat stands inside a repeat (`(a+)+` takes 2^n steps), or when it
looks around or back.

Pure.  Only the parser of the standard library's `re` knows its own syntax, so its tree is read;
node kinds not listed here are refused.
"""

import re
from dataclasses import dataclass
from re import _parser  # type: ignore[attr-defined]  # no public way to a pattern's tree
from typing import Any

MAX_STEPS = 1 << 22
"""Some tens of milliseconds of the matcher."""
_OTHER = 256
"""Stands for every character beyond Latin-1."""
_ALL = frozenset(range(_OTHER + 1))
_END = frozenset({257})
"""What follows the last part of a pattern: nothing."""
_CLASSES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_MAX_ONCE = 1


class PatternError(ValueError):
    """The pattern is not a regular expression, or could take too long."""


@dataclass(frozen=True)
class _Part:
    """What is known of a part of a pattern.

    Attributes:
      first: characters that it can begin with.
      every: characters that it can hold.
      can_be_empty: it also matches nothing.
      repeats: has a repeat in it.
    """

    first: frozenset[int]
    every: frozenset[int]
    can_be_empty: bool
    repeats: bool = False


_NOTHING = _Part(frozenset(), frozenset(), can_be_empty=True)


class _Cost:
    """Walks a pattern's tree from its end, and multiplies what each part costs."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self.steps = max_chars

    def of(self, items: Any, follows: frozenset[int]) -> _Part:  # noqa: ANN401  the parser's tree
        """Weigh a sequence that these characters may follow."""
        part = _NOTHING
        for kind, value in reversed(list(items)):
            behind = part.first | (follows if part.can_be_empty else frozenset())
            part = _joined(self._one(str(kind), value, behind), part)
        return part

    def _one(self, kind: str, value: Any, follows: frozenset[int]) -> _Part:  # noqa: ANN401
        if kind in _REPEATS:
            return self._repeat(kind, value, follows)
        if kind == "SUBPATTERN":
            if value[1] or value[2]:
                raise PatternError("it has flags; write the character classes out")
            return self.of(value[3], follows)
        if kind == "ATOMIC_GROUP":
            return self.of(value, follows)
        if kind == "BRANCH":
            return self._branch(value[1], follows)
        if kind == "AT":
            return _NOTHING
        single = _characters(kind, value)
        return _Part(single, single, can_be_empty=False)

    def _branch(self, branches: Any, follows: frozenset[int]) -> _Part:  # noqa: ANN401
        parts = [self.of(branch, follows) for branch in branches]
        firsts = [part.first | (follows if part.can_be_empty else set()) for part in parts]
        if sum(map(len, firsts)) > len(frozenset().union(*firsts)):
            self.steps *= len(parts)
        return _Part(
            frozenset().union(*(part.first for part in parts)),
            frozenset().union(*(part.every for part in parts)),
            any(part.can_be_empty for part in parts),
            any(part.repeats for part in parts),
        )

    def _repeat(self, kind: str, value: Any, follows: frozenset[int]) -> _Part:  # noqa: ANN401
        least, most, body = value
        is_optional = int(most) == _MAX_ONCE
        part = self.of(body, follows if is_optional else _ALL)
        if is_optional:
            is_open = least == 0 and bool(part.first & follows or part.can_be_empty)
            self.steps *= 2 if is_open else 1
        elif part.repeats or part.can_be_empty or _has_choice(body):
            raise PatternError("a repeat holds another repeat, an option or nothing at all")
        elif kind != "POSSESSIVE_REPEAT" and least != most and part.every & follows:
            self.steps *= self._max_chars
        return _Part(
            part.first,
            part.every,
            part.can_be_empty or least == 0,
            part.repeats or not is_optional,
        )


def compiled(pattern: str, max_chars: int) -> re.Pattern[str]:
    """The pattern, compiled, with ASCII classes.

    Raises:
      PatternError: it is not one, or it could take too many steps on a line of `max_chars`.
    """
    try:
        tree = _parser.parse(pattern, re.ASCII)
        expression = re.compile(pattern, re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"not a regular expression: {error}") from None
    if expression.flags & ~re.ASCII:
        raise PatternError("it has flags; write the character classes out")
    cost = _Cost(max_chars)
    cost.of(tree, _END)
    if cost.steps > MAX_STEPS:
        raise PatternError(
            f"it could take {cost.steps:.0e} steps on a line of {max_chars} bytes: let repeats end"
            " at a character that they can not hold ([^;]*; and not .*;), or lower max_line_bytes"
        )
    return expression


def _joined(one: _Part, after: _Part) -> _Part:
    return _Part(
        one.first | (after.first if one.can_be_empty else frozenset()),
        one.every | after.every,
        one.can_be_empty and after.can_be_empty,
        one.repeats or after.repeats,
    )


def _has_choice(items: Any) -> bool:  # noqa: ANN401
    """Whether a sequence can match one text in more than one way, or texts of several lengths."""
    for kind, value in items:
        name = str(kind)
        if name == "BRANCH" or name in _REPEATS:
            return True
        if name in ("SUBPATTERN", "ATOMIC_GROUP"):
            inner = value[3] if name == "SUBPATTERN" else value
            if _has_choice(inner):
                return True
    return False


def _characters(kind: str, value: Any) -> frozenset[int]:  # noqa: ANN401
    """The characters that one node takes.

    Raises:
      PatternError: it is no character.
    """
    if kind == "IN":
        is_negated = str(value[0][0]) == "NEGATE"
        inside = [_characters(str(inner), what) for inner, what in value[is_negated:]]
        found: frozenset[int] = frozenset().union(*inside)
        return (_ALL - found) | {_OTHER} if is_negated else found
    if kind == "RANGE":
        return frozenset(range(min(value[0], _OTHER), min(value[1], _OTHER) + 1))
    if kind == "CATEGORY" and str(value) in _CLASSES:
        matches = re.compile(_CLASSES[str(value)], re.ASCII).match
        found = frozenset(code for code in range(_OTHER) if matches(chr(code)))
        return found | {_OTHER} if matches("\u20ac") else found
    simple = {"ANY": _ALL, "LITERAL": frozenset({value}), "NOT_LITERAL": _ALL - {value}}
    if kind not in simple:
        raise PatternError("it looks around or back (lookahead, lookbehind, backreference)")
    return frozenset(min(code, _OTHER) for code in simple[kind])

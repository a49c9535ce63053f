"""A small, strict reading of JSON Schema 2020-12, for tests: a word that it does not know fails.

Only the words that `wire/settings_schema.py` makes, with the meaning of the standard's sections
about applicators and validation (json-schema.org, draft 2020-12).
"""

import operator
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

Schema = dict[str, Any]
Found = Iterator[tuple[str, str]]
Check = Callable[[Schema, Any, str], Found]

_SAYS_NOTHING = {"$schema", "$defs", "title", "description", "default"}
_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    # TOML's dates and times are texts in JSON.
    "string": lambda value: isinstance(value, str | datetime),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool], bool]] = {
    "minimum": ("number", operator.ge, False),
    "maximum": ("number", operator.le, False),
    "exclusiveMinimum": ("number", operator.gt, False),
    "exclusiveMaximum": ("number", operator.lt, False),
    "minLength": ("string", operator.ge, True),
    "maxLength": ("string", operator.le, True),
    "minItems": ("array", operator.ge, True),
    "maxItems": ("array", operator.le, True),
    "minProperties": ("object", operator.ge, True),
    "maxProperties": ("object", operator.le, True),
}


def violations(root: Schema, value: Any) -> list[tuple[str, str]]:
    """Every (path, reason) for which `value` is not what the schema allows."""

    def check(schema: Schema, value: Any, at: str) -> Found:
        for word, meaning in schema.items():
            if word == "$ref":
                yield from check(root["$defs"][meaning.removeprefix("#/$defs/")], value, at)
            elif word in _BOUNDS:
                yield from _bound(word, meaning, value, at)
            elif word not in _SAYS_NOTHING:
                yield from _WORDS[word](check, schema, value, at)

    return list(check(root, value, ""))


def _key(at: str, key: str) -> str:
    return f"{at}.{key}".lstrip(".")


def _bound(word: str, limit: Any, value: Any, at: str) -> Found:
    kind, holds, is_size = _BOUNDS[word]
    if _TYPES[kind](value) and not holds(len(value) if is_size else value, limit):
        yield at, f"{word} {limit}"


def _type(_: Check, schema: Schema, value: Any, at: str) -> Found:
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(_TYPES[name](value) for name in names):
        yield at, f"is not {' or '.join(names)}"


def _enum(_: Check, schema: Schema, value: Any, at: str) -> Found:
    allowed = schema.get("enum") or [schema["const"]]
    if not any(type(each) is type(value) and each == value for each in allowed):
        yield at, f"is none of {allowed}"


def _required(_: Check, schema: Schema, value: Any, at: str) -> Found:
    if isinstance(value, dict):
        missing = [key for key in schema["required"] if key not in value]
        yield from ((_key(at, key), "is required") for key in missing)


def _properties(check: Check, schema: Schema, value: Any, at: str) -> Found:
    if isinstance(value, dict):
        for key, of_key in schema["properties"].items():
            if key in value:
                yield from check(of_key, value[key], _key(at, key))


def _other_properties(check: Check, schema: Schema, value: Any, at: str) -> Found:
    others = schema["additionalProperties"]
    if isinstance(value, dict):
        for key in value.keys() - schema.get("properties", {}).keys():
            if others is False:
                yield _key(at, key), "unknown key"
            else:
                yield from check(others, value[key], _key(at, key))


def _items(check: Check, schema: Schema, value: Any, at: str) -> Found:
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from check(schema["items"], each, f"{at}[{number}]")


def _any_of(check: Check, schema: Schema, value: Any, at: str) -> Found:
    if all(any(True for _ in check(each, value, at)) for each in schema["anyOf"]):
        yield at, "is nothing that is allowed here"


def _all_of(check: Check, schema: Schema, value: Any, at: str) -> Found:
    for each in schema["allOf"]:
        yield from check(each, value, at)


def _if(check: Check, schema: Schema, value: Any, at: str) -> Found:
    if not any(True for _ in check(schema["if"], value, at)):
        yield from check(schema["then"], value, at)


def _nothing(*_: Any) -> Found:
    yield from ()


_WORDS: dict[str, Callable[[Check, Schema, Any, str], Found]] = {
    "type": _type,
    "enum": _enum,
    "const": _enum,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _other_properties,
    "items": _items,
    "anyOf": _any_of,
    "allOf": _all_of,
    "if": _if,
    "then": _nothing,  # without `if`; with it, `_if` takes it
}

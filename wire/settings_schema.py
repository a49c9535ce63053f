"""JSON Schema of a configuration file, for editors that complete, explain and check TOML.

Made from the settings structs alone, so that it can not say something else than the program: types,
limits, defaults and refused keys are theirs, and the words are those of their docstrings.  What a
schema can not say, such as that a trigger is one of the channels, `check` of the programs says.

Invariant: whatever `wire.settings.parse_settings` accepts, the schema accepts.  Dialect: JSON
Schema draft 2020-12 without keywords that older drafts would read otherwise, because the usual
language server for TOML (Taplo) knows older ones.  Pure.
"""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ATTRIBUTES = "Attributes:\n"
_ENTRY = re.compile(r"  ([a-z_0-9]+(?:, [a-z_0-9]+)*): +(.*)")
_LIMITS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_WHICH = "Says which kind of table this is."

Schema = dict[str, Any]


def settings_schema(settings: type[msgspec.Struct], title: str) -> Schema:
    """The schema of the file that is read as `settings`.

    Args:
      settings: struct of the whole file; no two structs in it have one name.
      title: what the file is, for people.
    """
    (root,), tables = msgspec.json.schema_components([settings], ref_template="#/$defs/{name}")
    structs = {each.__name__: each for each in _structs(msgspec.inspect.type_info(settings))}
    described = {name: _described(table, structs[name]) for name, table in tables.items()}
    whole = described.pop(root["$ref"].rpartition("/")[2])
    return {"$schema": DIALECT, "title": title, **whole, "$defs": described}


def schema_text(schema: Schema) -> str:
    """A schema as the text of its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def key_words(settings: type[msgspec.Struct]) -> dict[str, str]:
    """What the docstrings of a struct and of its bases say about its keys, under `Attributes:`."""
    known = {field.encode_name for field in msgspec.structs.fields(settings)}
    words: dict[str, str] = {}
    for each in reversed(settings.__mro__):
        _, found, attributes = _docstring(each).partition(_ATTRIBUTES)
        names: list[str] = []
        for line in attributes.splitlines() if found else ():
            entry = _ENTRY.fullmatch(line)
            if entry:
                names = [name for name in entry[1].split(", ") if name in known]
                words.update(dict.fromkeys(names, _sentence(entry[2])))
            elif line.startswith("    "):
                words.update({name: f"{words[name]} {line.strip()}" for name in names})
            else:
                break
    return words


def _described(table: Schema, settings: type[msgspec.Struct]) -> Schema:
    """The table's schema with the words of its docstring, as TOML can have it."""
    words = key_words(settings)
    summary = _docstring(settings).partition(_ATTRIBUTES)[0]
    of_tag = {settings.__struct_config__.tag_field: _WHICH}
    keys = {
        name: {"description": text} | _for_toml(key)
        if (text := words.get(name) or of_tag.get(name))
        else _for_toml(key)
        for name, key in table["properties"].items()
    }
    required = {"required": table["required"]} if table["required"] else {}
    return {
        "description": _paragraphs(summary),
        "type": "object",
        "properties": keys,
        **required,
        "additionalProperties": table.get("additionalProperties", True),
    }


def _for_toml(schema: Schema) -> Schema:
    """A value's schema without what TOML or an editor has no use for.

    TOML has no null: a key that may be absent is left out.  A default that is a table or empty says
    nothing that the table itself does not.
    """
    kept = {key: value for key, value in schema.items() if key not in ("anyOf", "discriminator")}
    default = kept.get("default")
    if default is None or isinstance(default, dict) or default in ("", [], ()):
        kept.pop("default", None)
    for limit in _LIMITS & kept.keys():
        # `Meta(ge=0)` and `Meta(ge=0.0)` are equal, so `Annotated` may give one for the other,
        # whichever was imported first.
        kept[limit] = int(kept[limit]) if kept[limit] == int(kept[limit]) else kept[limit]
    for inner in ("items", "additionalProperties"):
        if isinstance(kept.get(inner), dict):
            kept[inner] = _for_toml(kept[inner])
    choices = [_for_toml(each) for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if "discriminator" in schema:
        return kept | _tagged(choices, schema["discriminator"])
    if len(choices) == 1:
        return kept | choices[0]
    arrays = [each for each in choices if each.get("type") == "array"]
    if len(choices) == 2 and arrays and arrays[0]["items"] in choices:
        return kept | _one_or_many(arrays[0]["items"])
    return kept | ({"anyOf": choices} if choices else {})


# A plain `anyOf` would check a table that may be one of several as well, but an editor could then
# only say that the whole table is none of them.  `if` and `then` lead to the one that is meant, so
# that the wrong key itself is marked.  Taplo looks for the words about a key through `anyOf`, not
# through `then` (its `collect_schemas`): hence, beside them, an `anyOf` that allows everything.


def _tagged(tables: list[Schema], discriminator: Schema) -> Schema:
    """One of several tables, told apart by a key that says which."""
    tag, references = discriminator["propertyName"], discriminator["mapping"]
    return {
        "type": "object",
        "required": [tag],
        "properties": {tag: {"description": _WHICH, "enum": list(references)}},
        "allOf": [
            {
                "if": {"properties": {tag: {"const": name}}, "required": [tag]},
                "then": {"$ref": reference},
            }
            for name, reference in references.items()
        ],
        "anyOf": [*tables, {}],
    }


def _one_or_many(table: Schema) -> Schema:
    """`[a.b]`, or `[[a.b]]` as often as one likes."""
    return {
        "type": ["array", "object"],
        "items": table,
        "if": {"type": "object"},
        "then": table,
        "anyOf": [table, {}],
    }


def _structs(kind: Any) -> Iterator[type[msgspec.Struct]]:  # noqa: ANN401 - msgspec's own tree
    """Every struct that a value of this type can hold."""
    if isinstance(kind, msgspec.inspect.StructType):
        yield kind.cls
        for field in kind.fields:
            yield from _structs(field.type)
    elif isinstance(kind, msgspec.inspect.UnionType):
        for each in kind.types:
            yield from _structs(each)
    elif item := getattr(kind, "item_type", None):
        yield from _structs(item)


def _docstring(of: type) -> str:
    """A class's own docstring without its indent; empty where it has none."""
    own = of.__dict__.get("__doc__")
    return inspect.cleandoc(own) + "\n" if isinstance(own, str) else ""


def _paragraphs(text: str) -> str:
    """Lines of a docstring as paragraphs that an editor may break where it likes."""
    return "\n\n".join(" ".join(each.split()) for each in text.strip().split("\n\n"))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]

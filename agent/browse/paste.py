"""A walk as tables of the agent's configuration file, ready to paste.  Pure.

Invariant: what is printed loads with the agent's own settings.  Variables that no channel can take
as they are (texts, structures without a description) are printed as comments.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod

from agent.browse.found import READ, Facts, Node, Walk
from agent.sensors.opcua import node_problem
from agent.sensors.opcua.security import SecuritySettings
from wire.errors import one_line

_LONGEST_NAME = 100
_LONGEST_NODE = 1000
_LONGEST_UNIT = 20
_MOST_DIMENSIONS = 4
_LARGEST_ARRAY = 1 << 20
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def tables(walk: Walk, endpoint: str, security: SecuritySettings) -> Iterator[str]:
    """Lines of TOML: one `[[source.opcua]]` with all readable numbers as channels.

    Args:
      walk: what was found.
      endpoint: as the configuration is to name it.
      security: with which the server was asked.
    """
    chosen = [node for node in walk.nodes if _is_offered(node)]
    index = _usual_namespace(chosen)
    yield "# Names are proposals: give each channel the federation's own (see the bundle)."
    if walk.cut:
        yield f"# This is not all of the server: {one_line(walk.cut)}"
    yield "[[source.opcua]]"
    yield f"endpoint = {quoted(endpoint)}"
    if index is not None:
        yield f"namespace_uri = {quoted(walk.namespaces[index])}"
    yield from _security(security)
    if not any(_fits(node) for node in chosen):
        yield ""
        yield "# No readable variable with a number was found here: a source needs one channel."
    taken: set[str] = set()
    for node in chosen:
        facts = node.facts
        if facts is not None:
            yield ""
            yield from _channels(walk, node, facts, index, taken)


def _is_offered(node: Node) -> bool:
    facts = node.facts
    if facts is None or node.note == "see above" or not facts.access & READ:
        return False
    return facts.kind != "other"


def _fits(node: Node) -> bool:
    facts = node.facts
    if facts is None or _unusable(node, facts):
        return False
    return facts.kind == "number" or bool(facts.fields)


def _usual_namespace(nodes: list[Node]) -> int | None:
    counted = Counter(int(node.node_id.NamespaceIndex) for node in nodes)
    return counted.most_common(1)[0][0] if counted else None


def _channels(
    walk: Walk, node: Node, facts: Facts, usual: int | None, taken: set[str]
) -> Iterator[str]:
    unusable = _unusable(node, facts)
    if unusable:
        yield f"# {one_line(node.name)}: left out, {unusable}"
        return
    index = int(node.node_id.NamespaceIndex)
    keys = {"node": quoted(identifier(node))}
    if index != usual:
        keys["namespace_uri"] = quoted(walk.namespaces[index])
    unit = facts.unit[:_LONGEST_UNIT]
    if unit:
        keys["unit"] = quoted(unit)
    if facts.kind == "text":
        yield "# A text: give its states numbers, and take the marks of comment away."
        name = channel_name(walk, node, "", taken)
        lines = _channel(name, {**keys, "states": "{ " + f"{quoted(_now(facts))} = 1" + " }"})
        yield from (f"# {line}" for line in lines)
    elif facts.kind == "structure":
        if not facts.fields:
            yield f"# {one_line(node.name)}: a structure whose numbers the server does not describe"
        for path in facts.fields:
            name = channel_name(walk, node, path, taken)
            yield from _channel(name, {**keys, "field": quoted(path)})
    else:
        if facts.shape:
            keys["shape"] = str(list(facts.shape))
        yield from _channel(channel_name(walk, node, "", taken), keys)


def _channel(name: str, keys: Mapping[str, str]) -> Iterator[str]:
    yield "[[source.opcua.channel]]"
    yield f"name = {quoted(name)}"
    yield from (f"{key} = {value}" for key, value in keys.items())


def _unusable(node: Node, facts: Facts) -> str:
    """Why no channel can name this node; empty when one can."""
    text = identifier(node)
    if len(text) > _LONGEST_NODE or node_problem(text):
        return "its identifier can not be written in a configuration file"
    shape = facts.shape
    if facts.kind == "number" and (
        len(shape) > _MOST_DIMENSIONS or any(not 0 < each <= _LARGEST_ARRAY for each in shape)
    ):
        return f"an array of shape {list(shape)}"
    if facts.kind == "number" and prod(shape) > _LARGEST_ARRAY:
        return f"an array of {prod(shape)} values"
    if facts.kind != "number" and shape:
        return "an array of texts or structures"
    return ""


def _now(facts: Facts) -> str:
    text = getattr(facts.value, "Text", facts.value)
    return text[:100] if isinstance(text, str) and text else "RUN"


def identifier(node: Node) -> str:
    """The node's identifier without its namespace: `s=Torque`."""
    return re.sub(r"^ns=\d+;", "", str(node.node_id.to_string()))


def channel_name(walk: Walk, node: Node, field: str, taken: set[str]) -> str:
    """A name that no other channel here has: the node's, with its parents' where that is taken."""
    words = [_word(node.name)] + [_word(part) for part in field.split(".") if field]
    parent = node.parent
    name = "_".join(words)[:_LONGEST_NAME]
    while name in taken and parent > 0:
        words.insert(0, _word(walk.nodes[parent].name))
        parent = walk.nodes[parent].parent
        name = "_".join(words)[:_LONGEST_NAME]
    number, stem = 2, name[: _LONGEST_NAME - 8]
    while name in taken:
        name = f"{stem}_{number}"
        number += 1
    taken.add(name)
    return name


def _word(name: str) -> str:
    """`SpindleSpeed [1/min]` becomes `spindle_speed_1_min`."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", split.lower()).strip("_") or "channel"


def _security(security: SecuritySettings) -> Iterator[str]:
    keys = {
        key: value
        for key in security.__struct_fields__
        if (value := getattr(security, key)) not in ("", None, False)
    }
    if keys == {"policy": "None"}:
        return
    yield ""
    yield "[source.opcua.security]"
    for key, value in keys.items():
        yield f"{key} = {quoted(value) if isinstance(value, str) else 'true'}"


def quoted(text: str) -> str:
    """A basic string of TOML (v1.0.0, String)."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    number = ord(letter)
    if 0xD800 <= number < 0xE000:  # no Unicode scalar: TOML has no way to write it
        return "?"
    return f"\\U{number:08X}"

"""Mutations that know the formats, so that a mutant gets past the first byte.

A MessagePack or JSON value is changed as a tree and written again with right lengths, except where
the lie is the point: then an item says that it is longer, deeper or of another type than it is.
Protobuf messages are changed field by field with the lengths around them put right.

Everything is decided by the `random.Random` that is passed in, so a seed repeats a run.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from agent.learning.protobuf import (
    DELIMITED,
    FIXED32,
    VARINT,
    ProtobufError,
    read_fields,
    varint,
)

Mutate = Callable[[bytes, random.Random], bytes]
Tree = Any
"""What MessagePack or JSON decodes to; `msgspec.Raw` stands for bytes that are written as is."""

EDGES: tuple[int, ...] = (
    *(0, 1, -1, 2, 127, 128, 255, 256, 257, 512, 513, 4096, 4097, 65535, 65536, 120_000),
    *((1 << 20) + 1, (1 << 24) + 1, (1 << 26) + 1, (1 << 28) + 1, (1 << 31) - 1, 1 << 31),
    *(1 << 32, (1 << 53) - 1, 1 << 53, 1 << 62, (1 << 63) - 1, -(1 << 31), -(1 << 63)),
    (1 << 64) - 1,
)
FLOATS = (0.0, -0.0, 5e-324, 1e-12, 0.5, 1.0, 1.0 + 2**-52, 1e12, 1.1e12, 1e308, -1.0)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
STRINGS: tuple[str, ...] = (
    *("", "a", "coordinator", "press-1", "press-2", "..", "+", "#", "a/b", "\0", "\n", "\x1b[2J"),
    *("x" * 63, "x" * 64, "y" * 501, "é", "\u0663", "online", "folded", "wanted", "0" * 16),
)
LIES = (
    b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1 items
    b"\xdf\xff\xff\xff\xff",  # a map of as many
    b"\xc6\xff\xff\xff\xff",  # 4 GiB of bytes
    b"\xdb\xff\xff\xff\xff",  # 4 GiB of text
    b"\xc9\xff\xff\xff\xff\x01",  # an extension of 4 GiB
    b"\xdc\xff\xff\xc0",
    b"\xa4\xff\xfe\xfd\xfc",  # text that is not UTF-8
    b"\xa3\xed\xa0\x80",  # a surrogate in UTF-8
    b"\xc1",  # never used
    b"\xd6\xff\x00\x00\x00\x01",  # a timestamp
    b"\xd4\x05\x00",  # an extension of nobody
    b"\x82\xa1a\x01\xa1a\x02",  # one key twice
    b"\x91" * 3000 + b"\xc0",  # an abyss of arrays
    b"\x81\xa1x" * 1500 + b"\xc0",  # and of maps
    b"\x81\x91\x01\x01",  # a map whose key is an array
)
WORDS = ("x", "items", "status", "session", "content", "size", "chunks", "", "\n", "__proto__")


def scrambled(data: bytes, dice: random.Random) -> bytes:
    """Change, cut, repeat, insert or overwrite a few bytes."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        where = dice.randrange(len(changed) + 1)
        kind = dice.randrange(6)
        if kind == 0 and changed:
            changed[where % len(changed)] ^= 1 << dice.randrange(8)
        elif kind == 1 and changed:
            changed[where % len(changed)] = dice.randrange(256)
        elif kind == 2:
            del changed[where : where + dice.randrange(1, 20)]
        elif kind == 3:
            changed[where:where] = dice.randbytes(dice.randrange(1, 9))
        elif kind == 4:
            changed[where:where] = changed[where : where + dice.randrange(1, 40)]
        else:
            edge = dice.choice(EDGES) % (1 << 64)
            size = dice.choice((1, 2, 4, 8))
            piece = edge.to_bytes(8, dice.choice(("big", "little")))
            changed[where : where + size] = piece[-size:] if dice.random() < 0.5 else piece[:size]
    return bytes(changed)


def messagepack(data: bytes, dice: random.Random) -> bytes:
    """Change one MessagePack value as a tree; what is none is scrambled."""
    try:
        tree = msgspec.msgpack.decode(data)
        for _ in range(dice.choice((1, 1, 1, 2))):
            tree = changed_tree(tree, dice, messagepack_leaf)
        return msgspec.msgpack.encode(tree)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError):
        return scrambled(data, dice)


def changed_tree(
    tree: Tree, dice: random.Random, leaf: Callable[[Tree, random.Random], Tree]
) -> Tree:
    """Return a tree with one place changed; lists and maps on the way are copied."""
    inside = isinstance(tree, list | dict) and len(tree) > 0
    if not inside or dice.random() < 0.08:
        return leaf(tree, dice)
    if dice.random() < 0.2:
        return _reshaped(tree, dice)
    if isinstance(tree, list):
        at = dice.randrange(len(tree))
        return [*tree[:at], changed_tree(tree[at], dice, leaf), *tree[at + 1 :]]
    key = dice.choice(list(tree))
    return {**tree, key: changed_tree(tree[key], dice, leaf)}


def _reshaped(tree: Tree, dice: random.Random) -> Tree:
    """Drop, repeat, move or rename the items of a list or a map."""
    if isinstance(tree, list):
        at = dice.randrange(len(tree))
        made: tuple[Callable[[], Tree], ...] = (
            lambda: tree[:at] + tree[at + 1 :],
            lambda: [*tree, tree[at]],
            lambda: dice.sample(tree, len(tree)),
            lambda: [tree[at]] * dice.choice((2, 17, 256, 257)),
            lambda: tree[:at],
        )
    else:
        key, other, word = dice.choice(list(tree)), dice.choice(list(tree)), dice.choice(WORDS)
        made = (
            lambda: {name: value for name, value in tree.items() if name != key},
            lambda: {**tree, word: tree[key]},
            lambda: {**tree, key: tree[other], other: tree[key]},
            lambda: {(word if name == key else name): value for name, value in tree.items()},
            lambda: _with_a_key_twice(tree, key, tree[other]),
        )
    return dice.choice(made)()


def _with_a_key_twice(tree: dict[Any, Tree], key: Tree, second: Tree) -> Tree:
    items = [*tree.items(), (key, second)]
    size = len(items)
    head = bytes([0x80 | size]) if size < 16 else b"\xde" + size.to_bytes(2, "big")
    encode = msgspec.msgpack.encode
    return msgspec.Raw(head + b"".join(encode(name) + encode(value) for name, value in items))


def messagepack_leaf(value: Tree, dice: random.Random) -> Tree:
    """Something unlikely in the place of a value, often of its own type."""
    if dice.random() < 0.1:
        return msgspec.Raw(dice.choice(LIES))
    return json_leaf(value, dice) if dice.random() < 0.9 else dice.randbytes(dice.randrange(70))


def json_leaf(value: Tree, dice: random.Random) -> Tree:
    """As `messagepack_leaf`, with what JSON can say."""
    if dice.random() < 0.1:
        return dice.choice((None, True, [], {}, *EDGES, *FLOATS, *NOT_FINITE, *STRINGS))
    match value:
        case bool():
            found: Tree = not value
        case int():
            near = (value + 1, value - 1, value * 2, value ^ (1 << dice.randrange(53)))
            found = dice.choice(near) if dice.random() < 0.6 else dice.choice(EDGES)
            found = max(-(1 << 63), min((1 << 64) - 1, found))
        case float():
            found = dice.choice((value * 2, -value, *FLOATS, *NOT_FINITE))
        case str():
            found = dice.choice((value[:-1], value + "x", value.upper(), *STRINGS))
        case bytes():
            sizes = (0, 31, 32, 33, 63, 64, 65, 512, 513, 2000, 2001)
            found = dice.choice((scrambled(value, dice), (value * 66)[: dice.choice(sizes)]))
        case _:
            found = dice.choice((None, 0, "", [value], {"x": value}))
    return found


def protobuf(data: bytes, dice: random.Random, depth: int = 0) -> bytes:
    """Change one field of a protobuf message; the lengths around it are put right."""
    try:
        fields = [
            _Field(n, kind, _owned(value)) for n, kind, value in read_fields(memoryview(data))
        ]
    except ProtobufError:
        fields = []
    if not fields or depth > 6:
        return scrambled(data, dice)
    at = dice.randrange(len(fields))
    field = fields[at]
    kind = dice.randrange(12)
    if kind == 0:
        del fields[at]
    elif kind == 1:
        fields.insert(dice.randrange(len(fields) + 1), field)
    elif kind == 2:
        fields[at] = _Field(dice.randrange(1, 27), field.kind, field.value)
    elif kind == 3:
        fields[at] = dice.choice(fields)
    elif isinstance(field.value, int):
        fields[at] = _Field(field.number, VARINT, dice.choice((*EDGES, *range(20))))
    elif field.kind == DELIMITED and kind < 10:
        fields[at] = _Field(field.number, DELIMITED, protobuf(field.value, dice, depth + 1))
    else:
        fields[at] = _Field(field.number, field.kind, scrambled(field.value, dice))
    return b"".join(each.encoded() for each in fields)


class _Field(msgspec.Struct, frozen=True):
    number: int
    kind: int
    value: int | bytes

    def encoded(self) -> bytes:
        key = varint(self.number << 3 | self.kind)
        if isinstance(self.value, int):
            return key + varint(self.value)
        if self.kind == DELIMITED:
            return key + varint(len(self.value)) + self.value
        size = 4 if self.kind == FIXED32 else 8
        return key + self.value[:size].ljust(size, b"\0")


def _owned(value: int | memoryview) -> int | bytes:
    return value if isinstance(value, int) else bytes(value)


def safetensors(data: bytes, dice: random.Random) -> bytes:
    """Change header or body of a safetensors file; the header's length is mostly put right."""
    size = int.from_bytes(data[:8], "little")
    text, body = data[8 : 8 + size], data[8 + size :]
    kind = dice.randrange(8)
    if kind == 0:
        return scrambled(data, dice)
    if kind == 1:
        body = scrambled(body, dice)
    elif kind == 2:
        value = dice.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b""))
        at = dice.randrange(len(body) // 4 + 1) * 4
        body = body[:at] + value + body[at + 4 :]
    elif kind == 3:
        text = scrambled(text, dice)
    else:
        try:
            text = json.dumps(changed_tree(json.loads(text), dice, json_leaf)).encode()
        except (ValueError, TypeError, RecursionError):  # msgspec.Raw is no JSON
            text = scrambled(text, dice)
    said = len(text) if dice.random() < 0.9 else dice.choice(EDGES) % (1 << 64)
    return said.to_bytes(8, "little") + text + body


def delta(blocks: int, tail: int) -> Mutate:
    """Mutate a delta of one slab (`wire/deltas.py`): its length mostly follows its widths."""

    def mutate(data: bytes, dice: random.Random) -> bytes:
        if dice.random() < 0.2:
            return scrambled(data, dice)
        widths = bytearray(data[1 : 1 + blocks].ljust(blocks, b"\0"))
        widths[dice.randrange(blocks)] = dice.choice((*range(34), 255))
        rest = bytearray(data[1 + blocks :])
        size = 4 * sum(widths) + tail if dice.random() < 0.9 else dice.randrange(200)
        rest += dice.randbytes(max(0, size - len(rest)))
        if rest and dice.random() < 0.5:
            rest[dice.randrange(len(rest))] = dice.randrange(256)
        return data[:1] + bytes(widths) + bytes(rest[:size])

    return mutate


def topic(data: bytes, dice: random.Random) -> bytes:
    """Change the levels of a topic."""
    levels = data.split(b"/")
    at = dice.randrange(len(levels))
    kind = dice.randrange(6)
    if kind == 0:
        levels[at] = scrambled(levels[at], dice)
    elif kind == 1:
        levels[at] = dice.choice(STRINGS).encode()
    elif kind == 2:
        levels[at] = str(dice.choice(EDGES)).encode()
    elif kind == 3:
        del levels[at]
    elif kind == 4:
        levels.insert(at, dice.choice((b"", b"h", b"0", b"up", b"x" * 66_000)))
    else:
        levels[at] = levels[dice.randrange(len(levels))]
    return b"/".join(levels)


def with_a_byte_before(inner: Mutate) -> Mutate:
    """Mutate what follows a selecting byte; sometimes that byte."""

    def mutate(data: bytes, dice: random.Random) -> bytes:
        first, rest = data[:1] or b"\0", data[1:]
        if dice.random() < 0.03:
            first = dice.randbytes(1)
        return first + inner(rest, dice)

    return mutate


# A sequence of records: operation (1 byte), argument (1 byte), length (2 bytes), payload.


class Record(msgspec.Struct, frozen=True):
    """One step of a stateful case."""

    operation: int
    argument: int
    payload: bytes


def write_records(records: Sequence[Record]) -> bytes:
    """The bytes of a case."""
    return b"".join(
        bytes([each.operation, each.argument])
        + min(len(each.payload), 0xFFFF).to_bytes(2, "big")
        + each.payload[:0xFFFF]
        for each in records
    )


def read_records(data: bytes, most: int) -> list[Record]:
    """The steps of a case: any bytes are some; the last one may be cut."""
    records: list[Record] = []
    while len(data) >= 2 and len(records) < most:
        size = int.from_bytes(data[2:4], "big")
        records.append(Record(data[0], data[1], data[4 : 4 + size]))
        data = data[4 + size :]
    return records


def records_of(pool: Sequence[Record], most: int, inner: Callable[[Record], Mutate]) -> Mutate:
    """Mutate a case's records: their payloads, their order, their number."""

    def mutate(data: bytes, dice: random.Random) -> bytes:
        records = read_records(data, most)
        kind = dice.randrange(10)
        at = dice.randrange(len(records) + 1)
        if not records or kind <= 1:
            records.insert(at, dice.choice(pool))
        elif kind == 2 and len(records) > 1:
            del records[at % len(records)]
        elif kind == 3:
            records.insert(at, records[at % len(records)])
        elif kind == 4:
            dice.shuffle(records)
        else:
            at %= len(records)
            old = records[at]
            if dice.random() < 0.2:
                records[at] = Record(old.operation, dice.randrange(256), old.payload)
            else:
                payload = inner(old)(old.payload, dice)
                records[at] = Record(old.operation, old.argument, payload)
        return write_records(records)

    return mutate

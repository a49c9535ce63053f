"""Thousands of hostile bundles against the reader, in a process of their own.

usage: python -m tests.agent.hostile_bundles NUMBER SEED

An attacker here may even hold an author's key: most mutations are made inside the bundle, hashed
and signed again, so that they get past the signature and reach the validator, the derivation and
the golden vectors. Prints one JSON line: how many were refused, by which error, with which words,
how many mutations turned out harmless (accepted, and then run), and the process's peak memory.
"""

import json
import random
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agent.learning.graph import Graph, Node, ValueInfo, read_graph, write_graph
from agent.model import prepare
from wire.bundle import GOLDEN, MODEL, WEIGHTS, read_bundle
from wire.chunks import sha256
from wire.codec import MAX_BYTES, open_envelope, seal_bytes
from wire.errors import WireError
from wire.manifest import input_shape
from wire.signing import PrivateKey
from wire.tensors import read_safetensors, write_safetensors
from wire.trust import AUTHOR, Trust

Body = dict[str, Any]
"""A bundle's body as plain MessagePack values: {manifest, files}."""

NAMES = ("If", "Loop", "Scan", "RandomNormal", "ImageDecoder", "StringConcat", "Einsum", "Conv")
HUGE = (0, -1, 1, 2**31 - 1, 2**31, 2**40, 2**62, -(2**62))


@dataclass(frozen=True)
class Attacker:
    """Everything that making a hostile bundle needs."""

    good: bytes
    author: PrivateKey
    federation: str
    random: random.Random

    @property
    def body(self) -> Body:
        """A fresh copy of the good bundle's body."""
        opened = open_envelope(self.good, "bundle")
        body: Body = msgspec.msgpack.decode(opened.body)
        return body

    def sign(self, body: Body, *, rehash: bool = True) -> bytes:
        """Hash the files again and sign, as a real author could."""
        if rehash and isinstance(body.get("manifest"), dict) and isinstance(body["files"], dict):
            named = {n: sha256(d) for n, d in body["files"].items() if isinstance(d, bytes)}
            body["manifest"]["files"] = named
        return seal_bytes(
            "bundle",
            msgspec.msgpack.encode(body),
            federation=self.federation,
            signer=AUTHOR,
            counter=1,
            key=self.author,
        )


def scrambled(data: bytes, dice: random.Random) -> bytes:
    """Change, cut, repeat or insert a few bytes."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        where = dice.randrange(max(1, len(changed)))
        kind = dice.randrange(5)
        if kind == 0 and changed:
            changed[where % len(changed)] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del changed[where : where + dice.randrange(1, 40)]
        elif kind == 2:
            changed[where:where] = dice.randbytes(dice.randrange(1, 12))
        elif kind == 3:
            piece = changed[where : where + dice.randrange(1, 60)]
            changed[where:where] = piece
        else:
            edge = struct.pack("<q", dice.choice(HUGE))[: dice.choice((1, 4, 8))]
            changed[where : where + len(edge)] = edge
    return bytes(changed)


def outside(attacker: Attacker) -> bytes:
    """Bytes of the signed file, changed on the way."""
    return scrambled(attacker.good, attacker.random)


def inside(attacker: Attacker) -> bytes:
    """Bytes of one file, hashed and signed again."""
    body = attacker.body
    name = attacker.random.choice((MODEL, MODEL, MODEL, WEIGHTS, GOLDEN))
    body["files"][name] = scrambled(body["files"][name], attacker.random)
    return attacker.sign(body)


def manifest(attacker: Attacker) -> bytes:
    """One value somewhere in the manifest replaced by something unlikely."""
    body, dice = attacker.body, attacker.random
    place: Any = body["manifest"]
    while True:
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = dice.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or dice.random() < 0.3:
            break
        place = place[key]
    values = [*HUGE, 1e300, float("nan"), "", "x" * 5000, "../../etc/passwd", b"\0" * 40]
    values += [None, [], {}, [[]] * 2000, True, "\ud7ff\0"]
    if dice.random() < 0.05:
        del place[key]
    else:
        place[key] = dice.choice(values)
    return attacker.sign(body)


def graph(attacker: Attacker) -> bytes:
    """The graph changed as a graph: other operators, wires, sizes, attributes."""
    body, dice = attacker.body, attacker.random
    good = read_graph(body["files"][MODEL])
    changed = dice.choice((renamed, rewired, resized, attributed, repeated, dropped))(good, dice)
    body["files"][MODEL] = write_graph(changed)
    return attacker.sign(body)


def renamed(good: Graph, dice: random.Random) -> Graph:
    nodes = list(good.nodes)
    index = dice.randrange(len(nodes))
    nodes[index] = replace(nodes[index], op=dice.choice(NAMES))
    return replace(good, nodes=tuple(nodes))


def rewired(good: Graph, dice: random.Random) -> Graph:
    names = [name for node in good.nodes for name in (*node.inputs, *node.outputs)]
    nodes = list(good.nodes)
    index = dice.randrange(len(nodes))
    inputs = list(nodes[index].inputs) or [""]
    inputs[dice.randrange(len(inputs))] = dice.choice([*names, "nowhere", ""])
    nodes[index] = replace(nodes[index], inputs=tuple(inputs))
    if dice.random() < 0.3:
        dice.shuffle(nodes)
    return replace(good, nodes=tuple(nodes))


def resized(good: Graph, dice: random.Random) -> Graph:
    tensors = dict(good.initializers)
    name = dice.choice(list(tensors))
    shape = [*tensors[name].shape, 1][: dice.choice((0, 1, 2, 3))]
    wide = [dice.choice((1, 3, 7, 120)) for _ in shape]
    tensors[name] = np.ones(wide, dice.choice((np.float32, np.int64)))
    if dice.random() < 0.4:
        size = dice.choice((0, 1, 2**20, 2**31, 2**40))
        data = ValueInfo(good.inputs[0].name, "float32", ("N", size))
        return replace(good, inputs=(data,))
    return replace(good, initializers=tensors)


def attributed(good: Graph, dice: random.Random) -> Graph:
    nodes = list(good.nodes)
    index = dice.randrange(len(nodes))
    key = dice.choice(("axis", "transA", "transB", "alpha", "pads", "group", "to", "perm"))
    value: Any = dice.choice((*HUGE, 1e38, "x", (2**40,) * 4, (0.0, 1.0)))
    attributes = {**nodes[index].attributes, key: value}
    nodes[index] = replace(nodes[index], attributes=attributes)
    return replace(good, nodes=tuple(nodes))


def repeated(good: Graph, dice: random.Random) -> Graph:
    """A value grown by reshaping, joining it with itself and multiplying, again and again."""
    nodes, value = list(good.nodes[:-1]), good.nodes[-1].inputs[0]
    for step in range(dice.choice((5, 40, 2500))):
        op = dice.choice(("Concat", "MatMul", "Add", "Exp", "Unsqueeze"))
        inputs = (value, value) if op in ("Concat", "MatMul", "Add") else (value,)
        attributes = {"axis": 1} if op == "Concat" else {}
        nodes.append(Node(op, inputs, (f"grown{step}",), attributes, f"grow{step}"))
        value = f"grown{step}"
    last = good.nodes[-1]
    nodes.append(replace(last, inputs=(value, *last.inputs[1:])))
    return replace(good, nodes=tuple(nodes))


def dropped(good: Graph, dice: random.Random) -> Graph:
    nodes = list(good.nodes)
    del nodes[dice.randrange(len(nodes))]
    return replace(good, nodes=tuple(nodes))


def golden(attacker: Attacker) -> bytes:
    """Golden vectors that lie."""
    body, dice = attacker.body, attacker.random
    tensors = {k: np.array(v) for k, v in read_safetensors(body["files"][GOLDEN]).items()}
    name = dice.choice(list(tensors))
    lie = dice.choice((1.0, -3.0, 1e30, np.inf, np.nan))
    tensors[name] = (tensors[name] + lie).astype(tensors[name].dtype)
    if dice.random() < 0.3:
        tensors[name] = tensors[name].reshape(-1)[: dice.randrange(4)]
    body["files"][GOLDEN] = write_safetensors(tensors)
    return attacker.sign(body)


def zipped(attacker: Attacker) -> bytes:
    """Archives: a bomb, a path that climbs; as the bundle and as one of its files."""
    dice, buffer = attacker.random, BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(dice.choice(("model.onnx", "../../../.ssh/key")), bytes(1 << 20))
    if dice.random() < 0.5:
        return buffer.getvalue()
    body = attacker.body
    body["files"][dice.choice((MODEL, "../" + MODEL, "/etc/passwd", WEIGHTS))] = buffer.getvalue()
    return attacker.sign(body, rehash=dice.random() < 0.8)


def heavy(attacker: Attacker) -> Iterator[bytes]:
    """Few, but as large as the caps allow: the ones that could fill a small gateway's memory."""
    largest = MAX_BYTES["bundle"] - 200_000
    for name in (MODEL, WEIGHTS, GOLDEN):
        body = attacker.body
        body["files"][name] = bytes(largest - sum(len(data) for data in body["files"].values()))
        yield attacker.sign(body)
    good = read_graph(attacker.body["files"][MODEL])
    side = 2047  # a little less than the file may have
    wide = np.zeros(side * side, np.float32)
    for shape in ((side, side), (side * side,), (1, 1, side * side), (side * side, 1, 1)):
        body = attacker.body
        tensors = {**good.initializers, next(iter(good.initializers)): wide.reshape(shape)}
        body["files"][MODEL] = write_graph(replace(good, initializers=tensors))
        yield attacker.sign(body)
    yield from wide_windows(attacker)
    # A value that doubles from node to node, up to where one example no longer fits.
    for doublings in (12, 16, 20, 24):
        body = attacker.body
        nodes, value = list(good.nodes[:-1]), good.nodes[-1].inputs[0]
        for step in range(doublings):
            grown = f"grown{step}"
            nodes.append(Node("Concat", (value, value), (grown,), {"axis": 1}, grown))
            value = grown
        last = good.nodes[-1]
        mean = Node("ReduceMean", (value, "axis"), ("mean",), {"keepdims": 1}, "mean")
        nodes += [mean, Node("Mul", (last.inputs[0], "mean"), ("scaled",), {}, "scaled")]
        nodes.append(replace(last, inputs=("scaled", *last.inputs[1:])))
        tensors = {**good.initializers, "axis": np.array([1], np.int64)}
        body["files"][MODEL] = write_graph(replace(good, nodes=tuple(nodes), initializers=tensors))
        yield attacker.sign(body)


def wide_windows(attacker: Attacker) -> Iterator[bytes]:
    """Windows as long as a long series: few values, but much to copy side by side.

    For models whose input is two series: they are stretched, read through one wide window, and cut
    back to their length, so that the golden rows still fit and are really run.
    """
    good = read_graph(attacker.body["files"][MODEL])
    if len(good.inputs[0].shape) != 3:
        return
    length = int(str(good.inputs[0].shape[2]))
    tensors = {
        **good.initializers,
        "up": np.ones((2, 1, 1), np.float32),
        "from": np.array([0], np.int64),
        "to": np.array([length], np.int64),
        "along": np.array([2], np.int64),
    }
    stretch = Node("ConvTranspose", ("x", "up"), ("long",), {"group": 2, "strides": (250,)}, "up")
    cut = Node("Slice", ("wide", "from", "to", "along"), ("back",), {}, "cut")
    rest = [replace(n, inputs=("back", *n.inputs[1:])) for n in good.nodes[:1]] + [*good.nodes[1:]]
    for taps, op in ((2000, "Conv"), (2000, "MaxPool"), (3500, "Conv"), (3500, "MaxPool")):
        pads = (taps // 2, taps - 1 - taps // 2)
        if op == "Conv":
            tensors["taps"] = np.full((2, 1, taps), 1e-3, np.float32)
            wide = Node(op, ("long", "taps"), ("wide",), {"group": 2, "pads": pads}, "wide")
        else:
            tensors.pop("taps")
            window = {"kernel_shape": (taps,), "pads": pads}
            wide = Node(op, ("long",), ("wide",), window, "wide")
        body = attacker.body
        nodes = (stretch, wide, cut, *rest)
        changed = replace(good, nodes=nodes, initializers=tensors)
        names = {"up": (2, 1, 1), **({"taps": (2, 1, taps)} if op == "Conv" else {})}
        body["manifest"]["tensors"] += [{"name": n, "shape": list(s)} for n, s in names.items()]
        weights = read_safetensors(body["files"][WEIGHTS])
        added = {name: tensors[name] for name in names}
        body["files"][WEIGHTS] = write_safetensors({**weights, **added})
        body["files"][MODEL] = write_graph(changed)
        yield attacker.sign(body)


KINDS: Mapping[str, Callable[[Attacker], bytes]] = {
    "outside": outside,
    "inside": inside,
    "manifest": manifest,
    "graph": graph,
    "golden": golden,
    "zip": zipped,
}


def run(good: bytes, trust: Trust, author: PrivateKey, wanted: int, seed: int) -> dict[str, Any]:
    """Make hostile bundles until `wanted` were refused; say what became of all."""
    attacker = Attacker(good, author, trust.federation, random.Random(seed))
    prepare(read_bundle(good, trust))
    refused: Counter[str] = Counter()
    harmless: Counter[str] = Counter()
    words: Counter[str] = Counter()
    weighty = heavy(attacker)
    while sum(refused.values()) < wanted:
        kind = attacker.random.choice(list(KINDS))
        try:
            data = next(weighty, None) or KINDS[kind](attacker)
        except (RecursionError, OverflowError, TypeError, ValueError, WireError):
            continue  # not even an attacker can write this one down, or send it
        try:
            model = prepare(read_bundle(data, trust))
        except WireError as error:
            refused[kind] += 1
            words[str(error)[:300]] += 1
            if not str(error):
                raise
        else:
            harmless[kind] += 1
            rows = np.zeros((2, *input_shape(model.manifest)), np.float32)
            model.backend.infer(read_bundle(data, trust).weights, rows)
    return {
        "refused": dict(refused),
        "harmless": dict(harmless),
        "reasons": len(words),
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """This process's largest resident set; unlike getrusage's without that of its parent."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Read (bundle, charter, root, author) from stdin as MessagePack; print the verdict."""
    from wire.signing import PublicKey  # noqa: PLC0415 - only this entry point needs it
    from wire.trust import read_charter  # noqa: PLC0415

    good, charter, root, author = msgspec.msgpack.decode(sys.stdin.buffer.read())
    trust = read_charter(charter, PublicKey(root))
    found = run(good, trust, PrivateKey(author), int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()

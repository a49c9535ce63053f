"""Everything that is fuzzed, by name: what takes the bytes, where it starts, how it is changed.

Invariant of each: any bytes give a value or `WireError` (the graph's door: `GraphError`), and the
error's words fit on one line of a log.
"""

import importlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache

import msgspec
import numpy as np

from agent.learning.graph import GraphError
from tests.fuzz import decoders
from tests.fuzz.mutating import (
    FLOATS,
    NOT_FINITE,
    Mutate,
    delta,
    messagepack,
    protobuf,
    safetensors,
    scrambled,
    topic,
    with_a_byte_before,
)
from tests.fuzz.people import renewals
from tests.fuzz.script import UnfitWordsError, unfit
from tests.fuzz.seeds import (
    KIND_ORDER,
    bodies,
    bundle_files,
    envelopes,
    graphs,
    judgements,
    standards,
    topic_seeds,
    vectors,
)
from wire.bundle import GOLDEN, MODEL, WEIGHTS
from wire.deltas import encode
from wire.errors import WireError
from wire.messages import NOVELTY_BINS
from wire.sparse import encode_sparse
from wire.tensors import Bits

KIND_BYTES = {kind: bytes([index]) for index, kind in enumerate(KIND_ORDER)}
INTEGERS = [b"\0\x10abcdabcd", b"\0\x11abcd", b"\0\x12!2", b"\0\x16!2\x03"]


@dataclass(frozen=True)
class Target:
    """One entry point.

    Attributes:
      run: takes the bytes.
      seeds: where mutation starts.
      mutate: changes a case, knowing its format.
      longest: bytes of the longest case.
      refusal: the one error that is promised.
    """

    run: Callable[[bytes], None]
    seeds: list[bytes]
    mutate: Mutate
    longest: int = 8192
    refusal: type[Exception] = WireError


class Outcome(Enum):
    """What became of a case."""

    VALUE = "value"
    REFUSED = "refused"
    UNFIT = "refused in words unfit for a log"


def check(target: Target, data: bytes) -> tuple[Outcome, str]:
    """Run one case; return what became of it, and why its words are unfit.

    Raises whatever is neither a value nor the promised refusal.
    """
    try:
        target.run(data)
        return Outcome.VALUE, ""
    except UnfitWordsError as error:
        return Outcome.UNFIT, str(error)
    except target.refusal as error:
        problem = unfit(str(error))
        return (Outcome.UNFIT, problem) if problem else (Outcome.REFUSED, "")


def mutant(target: Target, data: bytes, dice: random.Random) -> bytes:
    """A case made from another one."""
    for _ in range(dice.choice((1, 1, 1, 1, 2, 4))):
        change = scrambled if dice.random() < 0.08 else target.mutate
        data = change(data, dice)[: target.longest]
    return data


def bundle_body(data: bytes, dice: random.Random) -> bytes:
    """Change a bundle's manifest, or one of its files as what it is."""
    try:
        body = msgspec.msgpack.decode(data)
        name = dice.choice((MODEL, WEIGHTS, GOLDEN, ""))
        inner = {MODEL: protobuf, WEIGHTS: safetensors, GOLDEN: safetensors}.get(name)
        if inner is None:
            body["manifest"] = msgspec.Raw(
                messagepack(msgspec.msgpack.encode(body["manifest"]), dice)
            )
        else:
            body["files"][name] = inner(body["files"][name], dice)
        return msgspec.msgpack.encode(body)
    except (msgspec.MsgspecError, *decoders.WRONG_SHAPE):
        return messagepack(data, dice)


def message_body(data: bytes, dice: random.Random) -> bytes:
    """Change a body, by its kind."""
    kind, body = decoders.kind_and_rest(data)
    return data[:1] + (bundle_body if kind == "bundle" else messagepack)(body, dice)


@cache
def target(name: str) -> Target:
    """One target by name; what only the others need is not imported."""
    make = {
        "topics": lambda: Target(decoders.topics, topic_seeds(), topic, 70_000),
        "envelopes": _envelopes,
        "messages": _messages,
        "bundles": lambda: Target(decoders.bundles, bodies()["bundle"], bundle_body, 32_768),
        "graphs": lambda: Target(decoders.graphs, graphs(), protobuf, 32_768, GraphError),
        "safetensors": _safetensors,
        "renewals": _renewals,
        "integers": lambda: Target(decoders.integers, INTEGERS, scrambled),
        "bitmaps": lambda: Target(decoders.bitmaps, [b"\x01\x80", bytes(512)], scrambled),
        "deltas": _deltas,
        "assemblies": _assemblies,
        "sparse": _sparse,
        "standards": lambda: Target(decoders.standards, standards(), safetensors, 2048),
        "evaluations": _evaluations,
        "novelty": _novelty,
        "stored": _stored,
        "web": _web,
        "coordinator": _coordinator,
        "agent": _agent,
        "helper": _helper,
    }
    return make[name]()


def _envelopes() -> Target:
    seeds = [KIND_BYTES[kind] + data for kind, data in envelopes()]
    return Target(decoders.envelopes, seeds, with_a_byte_before(messagepack), 16_384)


def _messages() -> Target:
    seeds = [KIND_BYTES[kind] + body for kind, found in bodies().items() for body in found]
    return Target(decoders.messages, seeds, message_body, 16_384)


def _safetensors() -> Target:
    files = bundle_files()
    seeds = [bytes.fromhex(vectors()["weights"]["file"]), files[WEIGHTS], files[GOLDEN]]
    return Target(decoders.safetensors, seeds, safetensors)


def _renewals() -> Target:
    question, answer = renewals()
    seeds = [b"\0" + question, b"\x80" + answer]
    return Target(decoders.renewals, seeds, with_a_byte_before(messagepack), 16_384)


def _deltas() -> Target:
    base = decoders.DELTA_BASE
    words = len(base) // 4 * 4
    moved = (np.frombuffer(base[:words], "<f4") * np.float32(1.0001)).tobytes()
    honest = encode(base, moved + base[words:][::-1])
    return Target(decoders.weight_deltas, [honest or b"", b"\x01"], delta(4, len(base) - words))


def _assemblies() -> Target:
    seeds = [bytes([0, lie]) + bytes(range(256)) * 5 for lie in range(6)]
    return Target(decoders.assemblies, seeds, scrambled)


def _sparse() -> Target:
    dice = np.random.default_rng(1)
    seeds = []
    widths: tuple[Bits, ...] = (16, 8, 4)
    for choice, bits in enumerate(widths):
        for count, kept in ((40, 9), (16_000, 60), (300, 0)):
            vector = np.zeros(count, np.int16)
            vector[dice.permutation(count)[:kept]] = dice.integers(1, 8, kept)
            said = (count << 2 | choice).to_bytes(2, "big")
            seeds.append(said + encode_sparse(vector, bits))
    return Target(decoders.sparse, seeds, scrambled)


def _evaluations() -> Target:
    found = [bytes([task]) + msgspec.msgpack.encode(each) for task, each in judgements()]
    return Target(decoders.evaluations, found, with_a_byte_before(messagepack))


def _novelty() -> Target:
    size = 2 * NOVELTY_BINS
    edges = np.array((*FLOATS, *NOT_FINITE))
    seeds = [np.full(size, 0.125), np.linspace(0, 1, size), np.zeros(size), np.resize(edges, size)]
    return Target(decoders.novelty, [seed.astype("<f8").tobytes() for seed in seeds], scrambled)


def _stored() -> Target:
    from_disk = importlib.import_module("tests.fuzz.stored_case")
    return Target(from_disk.run, from_disk.seeds(), from_disk.mutate)


def _web() -> Target:
    case = importlib.import_module("tests.fuzz.web_case")
    return Target(case.run, case.seeds(), case.mutate, 20_000)


def _coordinator() -> Target:
    case = importlib.import_module("tests.fuzz.coordinator_case")
    return Target(case.run, case.seeds(), case.mutate())


def _agent() -> Target:
    case = importlib.import_module("tests.fuzz.agent_case")
    return Target(case.run, case.seeds(), case.mutate())


def _helper() -> Target:
    case = importlib.import_module("tests.fuzz.helper_case")
    return Target(case.run, case.seeds(), with_a_byte_before(messagepack), 16_384)

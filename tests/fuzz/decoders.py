"""Entry points that take bytes from outside, each as `bytes -> None`.

What may come out of each is nothing or `WireError` (for the graph's door `GraphError`); what was
read must be what a second look at it says.  Behind a signature the bytes are signed rightly first,
so that the parser behind it is what is tested.
"""

import math
from collections.abc import Callable
from typing import ParamSpec

import msgspec
import numpy as np

from agent.learning.derive import output_shape
from agent.learning.graph import read_graph, write_graph
from agent.model import prepare
from coordinator.threshold import threshold_of
from tests.coordinator.small_federation import FEDERATION, MANIFEST, ROOT_KEY
from tests.fuzz.people import AGENT, SIGNERS, TOPICS, TRUST, present, signed
from tests.fuzz.script import check_words
from tests.fuzz.seeds import KIND_ORDER
from wire.bundle import read_bundle, read_draft
from wire.chunks import Assembly, check_content, describe, from_bitmap, split, to_bitmap
from wire.codec import KINDS, Opened, open_envelope, parse_body, seal, unseal
from wire.deltas import decode
from wire.errors import MalformedError, WireError
from wire.evaluation import add
from wire.figures import METRICS_OF, figure
from wire.manifest import Alarm
from wire.messages import NOVELTY_BINS, Content, Evaluation, Head, Masks, Message, UpdateHeader
from wire.novelty import distance
from wire.renewal import read_renewal, read_renewed
from wire.signing import PublicKey
from wire.sparse import decode_sparse, encode_sparse, largest_sparse_bytes
from wire.standards import read_standard, write_standard
from wire.tally import Tally, check_evaluation, tally_of
from wire.tensors import Bits, pack_integers, read_integers, read_safetensors, write_safetensors
from wire.topics import HEADER_PART, check_name, natural
from wire.trust import read_charter, read_credential

P = ParamSpec("P")
WRONG_SHAPE = (TypeError, KeyError, ValueError, AttributeError, RecursionError, OverflowError)
"""What plain Python says of a tree that is not shaped as expected."""
DELTA_BASE = np.linspace(-1, 1, 103).astype("<f4").tobytes() + b"abc"
_LABEL = MANIFEST.label
TASKS = (
    MANIFEST,
    msgspec.structs.replace(
        MANIFEST,
        loss="cross_entropy",
        label=_LABEL and msgspec.structs.replace(_LABEL, classes=("good", "worn", "broken")),
    ),
    msgspec.structs.replace(MANIFEST, loss="mse"),
    msgspec.structs.replace(MANIFEST, loss="reconstruction", label=None),
    msgspec.structs.replace(MANIFEST, loss="reconstruction", label=None, alarm=Alarm(share=0.5)),
)
"""A bundle of each kind of task, and one that asks for rows by error."""
KIND_TYPES: dict[str, type[Message]] = {kind: what for what, kind in KINDS.items()}


def kind_and_rest(data: bytes) -> tuple[str, bytes]:
    """The kind that a case is about, and its bytes."""
    return KIND_ORDER[(data[0] if data else 0) % len(KIND_ORDER)], data[1:]


def topics(data: bytes) -> None:
    """Topics as paho gives them: valid UTF-8 of at most 65,535 bytes."""
    text = data[:65_535].decode("utf-8", "replace")
    for parse in (check_name, natural):
        _may_refuse(parse, text, "name")
    for kind in ("state", "report", "ask", "renew"):
        _may_refuse(TOPICS.agent_of, text, kind)
    _may_refuse(TOPICS.parse_helper, text)
    found = TOPICS.parse_update(text)
    part = HEADER_PART if found.chunk is None else found.chunk
    again = TOPICS.update(found.agent, found.incarnation, found.sequence, part)
    _same(again, text)


def envelopes(data: bytes) -> None:
    """Any bytes as an envelope of any kind: outside, signature, body."""
    kind, envelope = kind_and_rest(data)
    opened = open_envelope(envelope, kind)
    signer, key = SIGNERS[kind]
    if kind == "charter":
        read_charter(envelope, key.public)
    elif kind == "bundle":
        _may_refuse(read_draft, envelope)
        read_bundle(envelope, TRUST)
    else:
        what = KIND_TYPES[kind]
        unseal(envelope, what, federation=FEDERATION, signer=signer, key=key.public)
    opened.verify(FEDERATION, key.public)  # nothing that was not signed came this far


def messages(data: bytes) -> None:
    """Any body under the right signature."""
    kind, body = kind_and_rest(data)
    envelope = signed(kind, body)
    signer, key = SIGNERS[kind]
    if kind == "charter":
        read_charter(envelope, ROOT_KEY.public)
    elif kind == "credential":
        read_credential(envelope, TRUST)
    elif kind == "bundle":
        read_bundle(envelope, TRUST)
    else:
        _read_twice(kind, envelope, signer, key.public)


def _read_twice(kind: str, envelope: bytes, signer: str, key: PublicKey) -> None:
    what = KIND_TYPES[kind]
    value, _ = unseal(envelope, what, federation=FEDERATION, signer=signer, key=key)
    for content in contents_of(value):
        _may_refuse(check_content, content)
    again = seal(value, federation=FEDERATION, signer=signer, counter=1, key=SIGNERS[kind][1])
    _same(parse_body(open_envelope(again, kind), what), value)


def contents_of(value: Message) -> list[Content]:
    """The contents that a message names."""
    match value:
        case UpdateHeader():
            return [value.content]
        case Masks():
            return [value.content] if value.content is not None else []
        case Head():
            optional = [value.statistics] if value.statistics is not None else []
            return [value.bundle, value.train.content, value.serve.content, *optional]
        case _:
            return []


def bundles(data: bytes) -> None:
    """A bundle's body, hashed and signed by a real author: read, then made ready to run."""
    try:
        body = msgspec.msgpack.decode(data)
        named = {name: describe(file).digest for name, file in body["files"].items()}
        body["manifest"]["files"] = named
        data = msgspec.msgpack.encode(body)
    except (msgspec.MsgspecError, MalformedError, *WRONG_SHAPE):
        pass  # what can not be hashed goes as it is
    prepare(read_bundle(signed("bundle", data), TRUST), "numpy")


def graphs(data: bytes) -> None:
    """The graph's door; what it lets in can be written, and read again as the same."""
    graph = read_graph(data)
    again = read_graph(write_graph(graph))
    _same((again.nodes, again.inputs, again.outputs), (graph.nodes, graph.inputs, graph.outputs))
    output_shape(graph)


def safetensors(data: bytes) -> None:
    """Weights and golden files."""
    tensors = read_safetensors(data)
    again = read_safetensors(write_safetensors(tensors))
    _same(list(again), list(tensors))
    for name, tensor in tensors.items():
        if not np.array_equal(again[name], tensor):
            raise AssertionError(f"tensor {name!r} changed")


def renewals(data: bytes) -> None:
    """A rightly signed question for a newer certificate, or an answer: what is let in fits."""
    if data[:1] < b"\x80":
        asked = read_renewal(signed("renewal", data[1:]), AGENT, TRUST)
        _same(asked.credential.agent, AGENT)
        return
    has = present()
    newer = read_renewed(signed("renewed", data[1:]), has)
    _same((newer.own.agent, newer.own.public_key), (AGENT, has.credential.public_key))
    _same(newer.certificate.public_key(), has.certificate.public_key())
    if newer.certificate.not_valid_before_utc < has.certificate.not_valid_before_utc:
        raise AssertionError("an older certificate was taken")


def integers(data: bytes) -> None:
    """An update's content: its first two bytes say how many integers of which width."""
    bits, count, content = _bits_and_count(data)
    found = read_integers(content, bits, count)
    _same((found.shape, found.itemsize), ((count,), 2 if bits == 16 else 1))
    packed = found.tobytes() if bits != 4 else pack_integers(found, bits)
    _same(packed, content)


def sparse(data: bytes) -> None:
    """A sparse content, after the same two bytes; half of the parameters may be kept."""
    bits, count, content = _bits_and_count(data)
    most = count // 2
    found = decode_sparse(content, bits, count, most)
    kept = int(np.count_nonzero(found))
    _same(found.shape, (count,))
    if kept > most or len(content) > largest_sparse_bytes(bits, count, most):
        raise AssertionError(f"{kept} of at most {most} kept, in {len(content)} bytes")
    _same(encode_sparse(found, bits), content)  # a vector has one encoding


def _bits_and_count(data: bytes) -> tuple[Bits, int, bytes]:
    """Width of an integer and how many, from 14 bits and two."""
    first = int.from_bytes(data[:2], "big")
    widths: tuple[Bits, ...] = (16, 8, 4, 4)
    return widths[first & 3], first >> 2, data[2:]


def standards(data: bytes) -> None:
    """The file in which a head names the statistics of all sites: three columns."""
    found = read_standard(data, 3)
    _same((found.mean.shape, found.deviation.shape), ((3,), (3,)))
    if not (np.isfinite(found.mean).all() and (found.deviation > 0).all()):
        raise AssertionError(f"standardised by {found}")
    again = read_standard(write_standard(found), 3)
    _same(again.mean.tolist(), found.mean.tolist())
    _same(again.deviation.tolist(), found.deviation.tolist())


def evaluations(data: bytes) -> None:
    """A site's counts about a bundle of the first byte's task: figures that are numbers, or none.

    They add up with those of the same task, in any order.
    """
    manifest = TASKS[(data[0] if data else 0) % len(TASKS)]
    said = parse_body(Opened("report", "press-1", 1, data[1:], bytes(64)), Evaluation)
    check_evaluation(said, manifest)
    one = tally_of(said)
    for tally in (one, one + Tally(), Tally() + one, one + one, add([said] * 5)):
        _same((tally.kind is None, tally.rows % max(one.rows, 1)), (False, 0))
        for metric in METRICS_OF[tally.kind or "binary"]:
            found = figure(metric, tally)
            if found is not None and not math.isfinite(found):
                raise AssertionError(f"{metric} is {found} of {said!r:.300}")
        if manifest.alarm is not None:
            threshold = threshold_of(tally, manifest.alarm)
            if threshold is not None and not 0.0 < threshold < math.inf:
                raise AssertionError(f"alarms from {threshold} by {said!r:.300}")


def novelty(data: bytes) -> None:
    """Two histograms of any numbers."""
    size = NOVELTY_BINS * 8
    told = [data[at : at + size].ljust(size, b"\0") for at in (0, size)]
    one, other = (tuple(np.frombuffer(each, "<f8").tolist()) for each in told)
    with np.errstate(all="ignore"):  # a warning is no finding
        apart = distance(one, other), distance(other, one), distance(one, one)
    if not (0.0 <= apart[0] <= 1.0 + 1e-9 and abs(apart[0] - apart[1]) < 1e-9):
        raise AssertionError(f"{apart[0]} apart, and {apart[1]} the other way")
    _same(apart[2], 0.0)


def bitmaps(data: bytes) -> None:
    """Bitmaps of wanted chunks: trailing zero bytes mean nothing."""
    wanted = from_bitmap(data[:512])
    _same(to_bitmap(wanted), data[:512].rstrip(b"\0"))


def assemblies(data: bytes) -> None:
    """Chunks in any order under a header that may lie; each: index (2 bytes), length (2), bytes.

    The first byte says how large the chunks are, the second how the header lies.
    """
    if len(data) < 2:
        return
    chunk_bytes, lie = 256 + data[0], data[1] % 6
    whole = data[2:]
    told = describe(whole, chunk_bytes) if whole else describe(b"x", chunk_bytes)
    content = lying(told, lie)
    assembly = Assembly(content)
    steps = whole
    chunks = split(whole, chunk_bytes)
    while len(steps) >= 4:
        index, size = int.from_bytes(steps[:2], "big") % 5000, int.from_bytes(steps[2:4], "big")
        honest = index < len(chunks) and size & 1
        _may_refuse(assembly.add, index, chunks[index] if honest else steps[:size])
        _check_assembly(assembly)
        steps = steps[4 + size % 64 :]
    for index, chunk in enumerate(chunks):
        _may_refuse(assembly.add, index, chunk)
    _check_assembly(assembly)
    if not assembly.missing:
        _same(assembly.join(), whole)


def weight_deltas(data: bytes) -> None:
    """Any bytes as the difference of two weights files; what decodes has the announced size."""
    found = decode(DELTA_BASE, data, len(DELTA_BASE))
    _same(len(found), len(DELTA_BASE))
    for size in (len(DELTA_BASE) - 1, len(DELTA_BASE) + 4):
        _may_refuse(decode, DELTA_BASE, data, size)


def lying(told: Content, lie: int) -> Content:
    """A description that contradicts itself in one of six ways; 0 is the truth."""
    change = msgspec.structs.replace
    lies = (
        told,
        change(told, size=told.size + 1),
        change(told, chunk_bytes=told.chunk_bytes + 1),
        change(told, digest=bytes(32)),
        change(told, chunks=(*told.chunks[:-1], bytes(32))),
        change(told, size=max(1, told.size - 1)),
    )
    return lies[lie]


def _check_assembly(assembly: Assembly) -> None:
    held = held_bytes(assembly)
    if held > assembly.content.size:
        raise AssertionError(f"{held} bytes are held for a content of {assembly.content.size}")


def held_bytes(assembly: Assembly) -> int:
    """Bytes of chunks that an assembly holds."""
    chunks: list[bytes | None] = vars(assembly)["_chunks"]
    return sum(len(chunk) for chunk in chunks if chunk is not None)


def _may_refuse(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    try:
        call(*args, **kwargs)
    except WireError as error:
        check_words(error)


def _same(got: object, expected: object) -> None:
    if got != expected:
        raise AssertionError(f"read twice: {got!r:.300} is not {expected!r:.300}")

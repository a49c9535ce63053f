"""Properties of decoders that no example can show: every byte, every prefix, every cap, bombs."""

import json
import math
import random
import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coordinator.small_federation import FEDERATION, ROOT_KEY
from tests.fuzz.decoders import KIND_TYPES
from tests.fuzz.mutating import EDGES, LIES, NOT_FINITE
from tests.fuzz.people import SIGNERS, TRUST, bundle, signed
from tests.fuzz.seeds import KIND_ORDER, bodies
from wire.bundle import read_bundle
from wire.chunks import from_bitmap, to_bitmap
from wire.codec import KINDS, MAX_BYTES, open_envelope, parse_body, seal, unseal
from wire.errors import MalformedError, TooLargeError, WireError
from wire.messages import (
    BINS,
    TERMINAL,
    Charter,
    Choice,
    Content,
    Credential,
    Errors,
    Evaluation,
    Grant,
    Head,
    Message,
    Policy,
    Readiness,
    Receipt,
    Receipts,
    Report,
    Statistics,
    UpdateHeader,
    VersionRef,
)
from wire.tensors import MAX_HEADER_BYTES, read_safetensors
from wire.trust import read_charter, read_credential

counts = st.integers(0, (1 << 53) - 1)
positives = st.integers(1, (1 << 53) - 1)
digests = st.binary(min_size=32, max_size=32)
incarnations = st.text("0123456789abcdef", min_size=16, max_size=16)
names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
contents = st.builds(
    Content,
    digest=digests,
    size=st.integers(1, 256 << 20),
    chunk_bytes=st.integers(256, 16 << 20),
    chunks=st.lists(digests, min_size=1, max_size=5).map(tuple),
)
versions = st.builds(VersionRef, version=counts, content=contents)
headers = st.builds(
    UpdateHeader,
    agent=names,
    incarnation=incarnations,
    sequence=positives,
    lineage=counts,
    base_version=counts,
    base_digest=digests,
    examples=counts,
    weight=st.integers(1, 1 << 20),
    scale=st.floats(0, 1, exclude_min=True),
    bits=st.sampled_from((4, 8, 16)),
    kept=counts,
    saturated=counts,
    content=contents,
    dropped=st.text(max_size=40),
)
receipts = st.builds(
    Receipts,
    items=st.lists(
        st.builds(
            Receipt,
            incarnation=incarnations,
            sequence=positives,
            digest=digests,
            status=st.sampled_from(("wanted", "later", "committed", *TERMINAL)),
            reason=st.text(max_size=500),
            version=counts,
            wanted=st.binary(max_size=512),
        ),
        max_size=5,
    ).map(tuple),
    incarnation=st.just("") | incarnations,
    highest=counts,
)
bins = st.lists(st.integers(0, (1 << 40) - 1), min_size=BINS, max_size=BINS).map(tuple)
sums = st.floats(-1e24, 1e24)
evaluations = st.builds(
    Evaluation,
    digest=digests,
    positives=bins,
    negatives=bins,
    confusion=st.lists(st.integers(0, (1 << 40) - 1), max_size=9).map(tuple),
    loss=sums,
    errors=st.none()
    | st.builds(
        Errors,
        rows=st.integers(0, (1 << 40) - 1),
        **dict.fromkeys(("error", "absolute", "squared", "label", "label_squared"), sums),
    ),
)
columns = st.lists(sums, min_size=1, max_size=5).map(tuple)
reports = st.builds(
    Report,
    head=positives,
    evaluations=st.lists(evaluations, min_size=1, max_size=1).map(tuple),
    choice=st.none()
    | st.builds(
        Choice,
        model=st.sampled_from(("global", "fine_tuned", "ditto", "local")),
        normalisation=st.sampled_from(("shared", "local")),
        reason=st.text(max_size=500),
        evaluation=st.builds(Evaluation, digest=digests, loss=sums),
    ),
    statistics=st.none()
    | st.builds(
        Statistics,
        bundle=digests,
        count=st.integers(0, (1 << 40) - 1),
        sums=columns,
        squares=columns,
    ),
)
asks = st.builds(
    Readiness,
    base_version=counts,
    examples=counts,
    loss=st.none() | st.floats(0, 1e12),
    novelty=st.lists(st.floats(0, 1), max_size=64).map(tuple),
    uplink_s=st.floats(0, 1e12),
    power=st.sampled_from(("mains", "battery")),
    battery=st.none() | st.floats(0, 1),
    temperature_c=st.none() | st.floats(-100, 300),
)
grants = st.builds(Grant, number=positives, base_version=counts)
heads = st.builds(
    Head,
    sequence=positives,
    lineage=counts,
    bundle=contents,
    train=versions,
    candidate=st.none() | versions,
    statistics=st.none() | contents,
    serve=versions,
    policy=st.builds(Policy, clip_norm=st.floats(0, 1e12), proximal=st.floats(0, 1e12)),
    training=st.sampled_from(("open", "closed")),
)


def read(kind: str, envelope: bytes) -> object:
    """Read a message of a kind as its receiver does."""
    signer, key = SIGNERS[kind]
    if kind == "charter":
        return read_charter(envelope, ROOT_KEY.public)
    if kind == "credential":
        return read_credential(envelope, TRUST)
    if kind == "bundle":
        return read_bundle(envelope, TRUST)
    what = KIND_TYPES[kind]
    return unseal(envelope, what, federation=FEDERATION, signer=signer, key=key.public)


def valid(kind: str) -> bytes:
    """A message of a kind that is accepted."""
    envelope = bundle() if kind == "bundle" else signed(kind, bodies()[kind][-1])
    read(kind, envelope)
    return envelope


@settings(deadline=None)
@given(st.one_of(headers, receipts, heads, reports, asks, grants))
def test_every_value_comes_back_as_it_was(message: Message) -> None:
    kind = KINDS[type(message)]
    signer, key = SIGNERS[kind]
    data = seal(message, federation=FEDERATION, signer=signer, counter=7, key=key)
    assert read(kind, data) == (message, 7)


@settings(deadline=None)
@given(st.sets(st.integers(0, 4095)))
def test_every_set_of_chunks_comes_back_from_its_bitmap(indices: set[int]) -> None:
    assert from_bitmap(to_bitmap(sorted(indices))) == sorted(indices)


@pytest.mark.parametrize("kind", KIND_ORDER)
def test_every_changed_byte_of_a_signed_message_is_refused(kind: str) -> None:
    envelope, dice = valid(kind), random.Random(kind)
    every = range(len(envelope))
    for position in every if len(every) < 1500 else dice.sample(every, 1500):
        changed = bytearray(envelope)
        changed[position] ^= dice.randrange(1, 256)
        with pytest.raises(WireError):
            read(kind, bytes(changed))


@pytest.mark.parametrize("kind", KIND_ORDER)
def test_every_prefix_of_a_message_is_malformed(kind: str) -> None:
    envelope = valid(kind)
    for length in range(len(envelope)):
        with pytest.raises(MalformedError):
            open_envelope(envelope[:length], kind)


@pytest.mark.parametrize("kind", KIND_ORDER)
def test_a_prefix_of_a_body_under_the_right_signature_is_malformed(kind: str) -> None:
    body = bodies()[kind][-1]
    for length in random.Random(1).sample(range(len(body)), min(len(body), 300)):
        with pytest.raises(MalformedError):
            read(kind, signed(kind, body[:length]))


@pytest.mark.parametrize("kind", [kind for kind in KIND_ORDER if kind != "bundle"])
def test_a_message_may_be_as_large_as_its_cap_and_no_larger(kind: str) -> None:
    def of_size(size: int) -> bytes:
        pad = size - len(valid(kind))
        while True:
            body = padded(bodies()[kind][-1], pad)
            signer, _ = SIGNERS[kind]
            data = msgspec.msgpack.encode([1, kind, signer, 1, body, bytes(64)])
            if len(data) == size:
                return body
            pad -= len(data) - size

    cap = MAX_BYTES[kind]
    for size in (cap - 1, cap):
        envelope = signed(kind, of_size(size))
        assert len(envelope) == size
        read(kind, envelope)
    body = of_size(cap + 1)
    with pytest.raises(TooLargeError):
        signed(kind, body)
    signer, _ = SIGNERS[kind]
    with pytest.raises(TooLargeError):
        read(kind, msgspec.msgpack.encode([1, kind, signer, 1, body, bytes(64)]))


def padded(body: bytes, size: int) -> bytes:
    """The same map with a field more that nobody knows, of about this size."""
    fields = msgspec.msgpack.decode(body)
    return msgspec.msgpack.encode({**fields, "later": bytes(max(0, size))})


def test_a_bundle_over_its_cap_is_refused_before_it_is_decoded() -> None:
    for size, error in (
        (MAX_BYTES["bundle"], MalformedError),
        (MAX_BYTES["bundle"] + 1, TooLargeError),
    ):
        with pytest.raises(error):
            open_envelope(bytes(size), "bundle")


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a decoded body holds something."""
    found = [path]
    if isinstance(tree, dict | list):
        inside = tree.items() if isinstance(tree, dict) else enumerate(tree[:1])
        for key, value in inside:
            found += places(value, (*path, key))
    return found


def with_value(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The same tree with another value at one place."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = with_value(copy[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("kind", KIND_ORDER)
def test_a_lying_item_anywhere_in_a_body_gives_a_value_or_a_wire_error_in_little_memory(
    kind: str,
) -> None:
    body = msgspec.msgpack.decode(bodies()[kind][-1])
    where, dice = places(body), random.Random(kind)
    values: list[Any] = [msgspec.Raw(lie) for lie in LIES] + [
        *EDGES,
        *NOT_FINITE,
        None,
        [],
        {},
        "\0",
        b"",
    ]
    cases = [(path, value) for path in where for value in values]
    encoded = [
        msgspec.msgpack.encode(with_value(body, path, value))
        for path, value in dice.sample(cases, min(len(cases), 1200))
    ]
    envelopes = [signed(kind, data) for data in encoded if len(data) < MAX_BYTES[kind] - 150]
    read(kind, valid(kind))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for envelope in envelopes:
        try:
            read(kind, envelope)
        except WireError as error:
            assert str(error)  # noqa: PT017 - not every case is refused
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 1 << 20


def numbers() -> list[tuple[str, tuple[Any, ...]]]:
    """Every number in the golden bodies but the bundle's, some of which may be anything."""
    found = []
    for kind in KIND_TYPES:
        body = msgspec.msgpack.decode(bodies()[kind][-1])
        for path in places(body):
            value = body
            for key in path:
                value = value[key]
            if isinstance(value, int | float):
                found.append((kind, path))
    return found


MAY_BE_LARGE = {"squared", "label", "label_squared", "error", "absolute", "sums", "squares"}
"""Sums of numbers of any size and sign, as is the loss of an evaluation."""


@pytest.mark.parametrize("value", [*NOT_FINITE, (1 << 64) - 1, -(1 << 63), 1 << 53, -1, 2.5e300])
def test_a_number_that_no_field_takes_is_refused_in_every_field(value: float) -> None:
    assert len(numbers()) > 60
    for kind, path in numbers():
        is_sum = MAY_BE_LARGE & set(path) or (kind == "report" and path[-1] == "loss")
        if (is_sum and abs(value) < 1e24) or (path[-1] == "temperature_c" and value == -1):
            continue
        body = with_value(msgspec.msgpack.decode(bodies()[kind][-1]), path, value)
        with pytest.raises(MalformedError):
            read(kind, signed(kind, msgspec.msgpack.encode(body)))


@pytest.mark.parametrize("kind", KIND_ORDER)
def test_text_that_is_not_utf_8_is_refused_wherever_text_belongs(kind: str) -> None:
    body = msgspec.msgpack.decode(bodies()[kind][-1])
    raw = msgspec.Raw(b"\xa4\xff\xfe\xfd\xfc")
    for path in places(body)[1:]:
        changed = with_value(body, path, raw)
        with pytest.raises(MalformedError):
            read(kind, signed(kind, msgspec.msgpack.encode(changed)))


@pytest.mark.parametrize("kind", KIND_ORDER)
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1x", b"\x81\x91", b"\xdd\0\0\0\1"])
def test_an_abyss_is_malformed_outside_and_inside(kind: str, opening: bytes) -> None:
    depth = min(MAX_BYTES[kind] - 300, 200_000) // len(opening)
    bomb = opening * depth + b"\xc0"
    with pytest.raises(MalformedError):
        open_envelope(bomb, kind)
    with pytest.raises(MalformedError):
        read(kind, signed(kind, bomb))
    with pytest.raises(MalformedError):  # as the value of a field that nobody knows
        read(kind, signed(kind, b"\x81\xa5later" + bomb))


def test_of_a_key_that_stands_twice_one_is_read_and_both_are_checked() -> None:
    def state(first: bytes, second: bytes) -> bytes:
        return b"\x83\xa6status\xa6online\xa7session" + first + b"\xa7session" + second

    envelope = signed("coordinator-state", state(b"\x07", b"\x08"))
    (value, _) = unseal(
        envelope,
        KIND_TYPES["coordinator-state"],
        federation=FEDERATION,
        signer="coordinator",
        key=SIGNERS["coordinator-state"][1].public,
    )
    assert msgspec.structs.asdict(value)["session"] == 8
    for first, second in ((b"\x07", b"\xff"), (b"\xff", b"\x07")):
        with pytest.raises(MalformedError):
            read("coordinator-state", signed("coordinator-state", state(first, second)))


# Safetensors


def safetensors(header: object, body: bytes, said: int | None = None) -> bytes:
    """A file with this header; `said` lies about its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if said is None else said
    return size.to_bytes(8, "little") + text + body


def entry(shape: object = (1,), offsets: object = (0, 4), dtype: object = "F32") -> object:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FOUR = struct.pack("<f", 1.5)


def test_an_honest_file_is_read() -> None:
    assert read_safetensors(safetensors({"a": entry()}, FOUR))["a"].tolist() == [1.5]


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(shape=[-1])},
        {"a": entry(shape=[1.0])},
        {"a": entry(shape=[True])},
        {"a": entry(shape=[10**30])},
        {"a": entry(shape=[1 << 32, 1 << 32])},
        {"a": entry(shape=[0])},
        {"a": entry(shape=[[1]])},
        {"a": entry(shape="1")},
        {"a": entry(shape=[1] * 9)},
        {"a": entry(offsets=[0])},
        {"a": entry(offsets=[0, 4, 4])},
        {"a": entry(offsets=[1, 5])},
        {"a": entry(offsets=[-4, 0])},
        {"a": entry(offsets=[0, 1 << 70])},
        {"a": entry(dtype="F64")},
        {"a": entry(dtype=["F32"])},
        {"a": entry(), "b": entry()},
        {"a": None},
        {"a": []},
        [],
        None,
        1,
        b'{"a":1,"a":1}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe",
        b'{"\xed\xa0\x80":1}',
        b"9" * 5000,
        b"NaN",
        b"",
    ],
)
def test_a_header_that_lies_is_refused(header: object) -> None:
    with pytest.raises(WireError):
        read_safetensors(safetensors(header, FOUR))


@pytest.mark.parametrize("said", [0, 1, 200, MAX_HEADER_BYTES + 1, (1 << 63) - 1, (1 << 64) - 1])
def test_a_header_of_another_length_than_it_says_is_refused(said: int) -> None:
    with pytest.raises(WireError):
        read_safetensors(safetensors({"a": entry()}, FOUR, said))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(MalformedError, match="not finite"):
        read_safetensors(safetensors({"a": entry()}, struct.pack("<f", value)))


def test_bytes_between_and_behind_tensors_are_refused() -> None:
    for body in (FOUR + b"\0", FOUR[:3], b""):
        with pytest.raises(MalformedError):
            read_safetensors(safetensors({"a": entry()}, body))


def test_a_body_is_parsed_only_once_it_is_known_whose_it_is() -> None:
    """A stranger's credential with a body that no parser survives is refused by its signature."""
    data = msgspec.msgpack.encode([1, "credential", "enrolment", 1, LIES[0], bytes(64)])
    with pytest.raises(WireError, match="does not verify"):
        read_credential(data, TRUST)
    with pytest.raises(MalformedError):
        parse_body(open_envelope(data, "credential"), Credential)
    assert Charter in KINDS

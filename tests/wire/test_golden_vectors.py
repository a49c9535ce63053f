"""The vectors of `tests/golden/wire`: what `wire/PROTOCOL.md` means, byte by byte.

The files are static and are never changed after their protocol version was released.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wire import errors
from wire.chunks import from_bitmap, to_bitmap
from wire.codec import KINDS, seal, unseal
from wire.deltas import decode, encode
from wire.errors import MalformedError
from wire.signing import PrivateKey
from wire.tensors import flatten, quantize, read_integers, read_params, write_params
from wire.topics import HEADER_PART, Topics, UpdateTopic, shard

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "wire"
VECTORS: list[dict[str, Any]] = [
    json.loads(path.read_text()) for path in sorted(FOLDER.glob("version-*.json"))
]
KIND_TYPES = {kind: what for what, kind in KINDS.items()}


def each(key: str) -> pytest.MarkDecorator:
    """One test for every item under `key` in every version's file."""
    items = [(vectors, item) for vectors in VECTORS for item in vectors[key]]
    names = [f"v{v['version']}-{item.get('name', at)}" for at, (v, item) in enumerate(items)]
    return pytest.mark.parametrize(("vectors", "item"), items, ids=names)


def shown(value: Any) -> Any:
    """A decoded message as the vectors write it: bytes as 0x and hexadecimal digits."""
    match value:
        case bytes():
            return f"0x{value.hex()}"
        case dict():
            return {name: shown(inner) for name, inner in value.items()}
        case list() | tuple():
            return [shown(inner) for inner in value]
        case _:
            return value


def meant(value: Any) -> Any:
    """The inverse of `shown`."""
    match value:
        case str() if value.startswith("0x"):
            return bytes.fromhex(value[2:])
        case dict():
            return {name: meant(inner) for name, inner in value.items()}
        case list():
            return [meant(inner) for inner in value]
        case _:
            return value


def builtins(message: object) -> Any:
    return shown(msgspec.to_builtins(message, builtin_types=(bytes,)))


def private_key(vectors: dict[str, Any], name: str) -> PrivateKey:
    return PrivateKey(bytes.fromhex(vectors["keys"][name]["private"]))


def test_there_are_vectors_of_every_message_kind() -> None:
    for vectors in VECTORS:
        assert {item["kind"] for item in vectors["messages"]} == set(KIND_TYPES)
    assert VECTORS


def test_public_keys_are_those_of_the_private_keys() -> None:
    for vectors in VECTORS:
        for name, key in vectors["keys"].items():
            assert private_key(vectors, name).public.raw.hex() == key["public"]


@each("messages")
def test_a_message_is_encoded_to_exactly_these_bytes(
    vectors: dict[str, Any], item: dict[str, Any]
) -> None:
    what = KIND_TYPES[item["kind"]]
    message = msgspec.convert(meant(item["message"]), what)
    envelope = seal(
        message,
        federation=vectors["federation"],
        signer=item["signer"],
        counter=item["counter"],
        key=private_key(vectors, item["key"]),
    )
    assert envelope.hex() == item["envelope"]


@each("messages")
def test_a_message_is_decoded_from_these_bytes(
    vectors: dict[str, Any], item: dict[str, Any]
) -> None:
    message, counter = unseal(
        bytes.fromhex(item["envelope"]),
        KIND_TYPES[item["kind"]],
        federation=vectors["federation"],
        signer=item["signer"],
        key=private_key(vectors, item["key"]).public,
    )
    assert builtins(message) == item["message"]
    assert counter == item["counter"]


@each("messages")
def test_the_signature_covers_the_bytes_that_the_specification_says(
    vectors: dict[str, Any], item: dict[str, Any]
) -> None:
    signed = b"\0".join(
        text.encode() for text in ("journeyman-v1", vectors["federation"], item["kind"])
    )
    signed += b"\0" + item["signer"].encode() + b"\0" + item["counter"].to_bytes(8, "big")
    signed += bytes.fromhex(item["body"])
    assert signed.hex() == item["signed"]
    version, kind, signer, counter, body, signature = msgspec.msgpack.decode(
        bytes.fromhex(item["envelope"])
    )
    assert (version, kind, signer, counter) == (
        vectors["version"],
        item["kind"],
        item["signer"],
        item["counter"],
    )
    assert body.hex() == item["body"]
    public = bytes.fromhex(vectors["keys"][item["key"]]["public"])
    Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)


@each("deltas")
def test_a_delta_has_exactly_these_bytes(vectors: dict[str, Any], item: dict[str, Any]) -> None:
    base, target, delta = (bytes.fromhex(item[name]) for name in ("base", "target", "delta"))
    assert encode(base, target) == delta
    assert decode(base, delta, len(target)) == target


@each("refused")
def test_these_bytes_are_refused_with_this_error(
    vectors: dict[str, Any], item: dict[str, Any]
) -> None:
    with pytest.raises(getattr(errors, item["error"])):
        unseal(
            bytes.fromhex(item["envelope"]),
            KIND_TYPES[item["kind"]],
            federation=vectors["federation"],
            signer=item["signer"],
            key=private_key(vectors, item["key"]).public,
        )


def test_a_field_of_a_later_version_is_ignored() -> None:
    for vectors in VECTORS:
        item = vectors["unknown_field"]
        message, _ = unseal(
            bytes.fromhex(item["envelope"]),
            KIND_TYPES[item["kind"]],
            federation=vectors["federation"],
            signer=item["signer"],
            key=private_key(vectors, item["key"]).public,
        )
        assert builtins(message) == item["message"]


@each("topics")
def test_a_topic_means_this_update(vectors: dict[str, Any], item: dict[str, Any]) -> None:
    topics = Topics(vectors["federation"])
    update = UpdateTopic(item["agent"], item["incarnation"], item["sequence"], item["chunk"])
    part = HEADER_PART if update.chunk is None else update.chunk
    assert topics.parse_update(item["topic"]) == update
    assert topics.update(update.agent, update.incarnation, update.sequence, part) == item["topic"]


def test_these_topics_are_refused() -> None:
    for vectors in VECTORS:
        for topic in vectors["refused_topics"]:
            with pytest.raises(MalformedError):
                Topics(vectors["federation"]).parse_update(topic)


def test_agents_belong_to_these_shards() -> None:
    for vectors in VECTORS:
        for agent, number in vectors["shards"].items():
            assert shard(agent) == number


@each("bitmaps")
def test_a_bitmap_means_these_chunks(vectors: dict[str, Any], item: dict[str, Any]) -> None:
    assert to_bitmap(item["indices"]).hex() == item["bitmap"]
    assert from_bitmap(bytes.fromhex(item["bitmap"])) == item["indices"]


def test_weights_are_this_file_and_this_flat_vector() -> None:
    for vectors in VECTORS:
        item = vectors["weights"]
        shapes = [(name, tuple(shape)) for name, shape in item["shapes"]]
        params = read_params(bytes.fromhex(item["file"]), shapes)
        assert flatten(params).tolist() == item["vector"]
        assert write_params(params).hex() == item["file"]


@each("integers")
def test_the_bytes_of_an_update_mean_these_integers(
    vectors: dict[str, Any], item: dict[str, Any]
) -> None:
    data = bytes.fromhex(item["bytes"])
    assert read_integers(data, item["bits"], len(item["values"])).tolist() == item["values"]


@each("rounding")
def test_a_delta_is_rounded_by_its_uniform_numbers_to_these_integers(
    vectors: dict[str, Any], item: dict[str, Any]
) -> None:
    class Fixed(np.random.Generator):
        """Gives the uniform numbers of the vector."""

        def random(self, *_arguments: Any, **_keywords: Any) -> Any:
            return np.array(item["uniform"])

    data, saturated = quantize(
        np.array(item["delta"]), item["scale"], item["bits"], Fixed(np.random.PCG64(0))
    )
    assert read_integers(data, item["bits"], len(item["delta"])).tolist() == item["values"]
    assert saturated == item["saturated"]

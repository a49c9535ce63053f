"""Where fuzzing starts: the golden vectors of the wire, and small honest cases of each format."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tests.fuzz.people import TOPICS, bundle, credential
from wire.bundle import MODEL
from wire.codec import KINDS, MAX_BYTES, open_envelope
from wire.messages import AgentState

GOLDEN = Path(__file__).parents[1] / "golden"
FIELDS = sorted({field for what in KINDS for field in what.__struct_fields__})
KIND_ORDER = sorted(MAX_BYTES)
"""A case of `envelope` or `message` names its kind by its first byte, modulo their number."""


@cache
def vectors() -> dict[str, Any]:
    """The vectors of the protocol's version 1."""
    found: dict[str, Any] = json.loads((GOLDEN / "wire" / "version-1.json").read_text())
    return found


@cache
def envelopes() -> list[tuple[str, bytes]]:
    """Kind and bytes of every golden envelope, refused ones included, and of one bundle."""
    golden = [*vectors()["messages"], *vectors()["refused"], vectors()["unknown_field"]]
    found = [(item["kind"], bytes.fromhex(item["envelope"])) for item in golden]
    return [(kind, data) for kind, data in found if len(data) <= 4096] + [("bundle", bundle())]


@cache
def bodies() -> dict[str, list[bytes]]:
    """Bodies of each kind; births carry a credential of the fuzzed agent."""
    found: dict[str, list[bytes]] = {kind: [] for kind in KIND_ORDER}
    for item in vectors()["messages"]:
        found[item["kind"]].append(bytes.fromhex(item["body"]))
    found["bundle"].append(open_envelope(bundle(), "bundle").body)
    birth = AgentState(
        status="online", incarnation="0123456789abcdef", session=7, credential=credential()
    )
    found["agent-state"].append(msgspec.msgpack.encode(birth))
    return found


@cache
def topic_seeds() -> list[bytes]:
    """Topics that parse, and some that must not."""
    good = [item["topic"] for item in vectors()["topics"]]
    digest = hashlib.sha256(b"x").hexdigest()
    good += [TOPICS.state("press-1"), TOPICS.report("press-1"), TOPICS.head]
    good += [TOPICS.coordinator_state, TOPICS.model(digest, 3), TOPICS.bundle(digest, 0)]
    return [topic.encode() for topic in good + vectors()["refused_topics"]]


@cache
def graphs() -> list[bytes]:
    """ONNX files: what the exporters wrote, as far as it is small, and the bundle's graph."""
    found = [path.read_bytes() for path in sorted((GOLDEN / "onnx").glob("*.onnx"))]
    return [*[data for data in found if len(data) < 8192], bundle_files()[MODEL]]


@cache
def bundle_files() -> dict[str, bytes]:
    """The files of the bundle."""
    body = msgspec.msgpack.decode(bodies()["bundle"][0])
    files: dict[str, bytes] = body["files"]
    return files


def dictionary() -> list[bytes]:
    """Words that a fuzzer without knowledge of the formats would have to guess."""
    words = [*FIELDS, *KIND_ORDER, "online", "offline", "pause", "resume", "open", "closed"]
    words += ["committed", "folded", "refused", "void", "dropped", "wanted", "later"]
    words += ["F32", "I64", "dtype", "shape", "data_offsets", "__metadata__", "plant-net"]
    found = [word.encode() for word in words]
    return found + [msgspec.msgpack.encode(word) for word in words]

"""Where fuzzing starts: the golden vectors of the wire, and small honest cases of each format."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tests.fuzz.people import TOPICS, bundle, credential
from wire.bundle import MODEL
from wire.codec import KINDS, MAX_BYTES, open_envelope
from wire.messages import BINS, AgentState, Errors, Evaluation
from wire.standards import Standard, write_standard

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
    good += [TOPICS.state("press-1"), TOPICS.report("press-1"), TOPICS.ask("press-1"), TOPICS.head]
    good += [TOPICS.coordinator_state, TOPICS.model(digest, 3), TOPICS.bundle(digest, 0)]
    good += [TOPICS.charter, TOPICS.helper_ask("notary"), TOPICS.helper_masks("notary", digest, 2)]
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


@cache
def judgements() -> list[tuple[int, Evaluation]]:
    """An evaluation for each bundle of `decoders.TASKS`, in their order."""
    digest, most = bytes(32), (1 << 40) - 1
    low, high = (5,) * 128 + (0,) * 128, (0,) * 100 + (3,) * 156
    numbers = Errors(
        rows=40, error=-3.5, absolute=20.0, squared=16.25, label=4000.0, label_squared=410_000.0
    )
    squared = Errors(rows=40, error=20.0, absolute=20.0, squared=16.0, label=0.0, label_squared=0.0)
    return [
        (0, Evaluation(digest=digest, positives=high, negatives=low, alarms=(200, 3), loss=12.5)),
        (0, Evaluation(digest=digest, positives=(most,) * BINS, negatives=(most,) * BINS)),
        (1, Evaluation(digest=digest, confusion=(5, 1, 0, 2, 7, 1, 0, 0, 3), loss=9.0)),
        (2, Evaluation(digest=digest, errors=numbers, loss=16.25)),
        (3, Evaluation(digest=digest, errors=squared, loss=20.0)),
        (
            4,
            Evaluation(
                digest=digest,
                errors=squared,
                loss=20.0,
                rows_by_error=(0,) * 151 + (40,) + (0,) * 104,
            ),
        ),
    ]


@cache
def standards() -> list[bytes]:
    """Statistics of three columns, of two, and one with a deviation that can not be."""
    mean, deviation = np.array([1.0, -2.0, 300.0]), np.array([1.0, 1e-30, 2.0])
    good = write_standard(Standard(mean, deviation))
    few = write_standard(Standard(mean[:2], deviation[:2]))
    return [good, few, write_standard(Standard(mean, -deviation))]


def dictionary() -> list[bytes]:
    """Words that a fuzzer without knowledge of the formats would have to guess."""
    words = [*FIELDS, *KIND_ORDER, "online", "offline", "pause", "resume", "open", "closed"]
    words += ["mains", "battery", "global", "fine_tuned", "ditto", "local", "shared", "mean"]
    words += ["deviation", "training", "agent", "order", "version", "authorization", "Bearer "]
    words += ["committed", "folded", "refused", "void", "dropped", "wanted", "later"]
    words += ["F32", "I64", "dtype", "shape", "data_offsets", "__metadata__", "plant-net"]
    found = [word.encode() for word in words]
    return found + [msgspec.msgpack.encode(word) for word in words]

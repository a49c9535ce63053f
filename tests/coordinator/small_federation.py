"""A small federation for the coordinator's tests: 612 parameters, fixed keys, updates by hand."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Buffer
from coordinator.config import CoordinatorSettings, Identity
from coordinator.federation import Federation
from coordinator.ingest import Update
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.store import KnownAgent, Store
from wire.bundle import (
    GOLDEN,
    MODEL,
    WEIGHTS,
    Channel,
    Label,
    Level,
    Manifest,
    Tensor,
    read_bundle,
    write_bundle,
)
from wire.chunks import describe, sha256
from wire.codec import seal
from wire.evaluation import evaluate
from wire.messages import Charter, Evaluation, UpdateHeader, VersionRef
from wire.settings import parse_settings
from wire.signing import PrivateKey
from wire.tensors import flatten, unflatten, write_params
from wire.trust import ROOT, Trust, read_charter

FEDERATION = "plant-net"
ROOT_KEY, ENROLMENT_KEY, COORDINATOR_KEY, AUTHOR_KEY = (
    PrivateKey(bytes([number] * 32)) for number in (1, 2, 3, 4)
)
PARAMS = {
    "w": np.linspace(-1, 1, 600, dtype=np.float32).reshape(50, 12),
    "b": np.zeros(12, np.float32),
}
P = 612
SCALE = 0.01
MANIFEST = Manifest(
    name="spindle",
    revision=1,
    channels=(Channel(name="torque", unit="N.m"),),
    label=Label(channel="failure"),
    features=(Level(channel="torque", mean=40.0, std=10.0),),
    tensors=(Tensor(name="w", shape=(50, 12)), Tensor(name="b", shape=(12,))),
    files={},
)
TABLES = f"""
[coordinator]
state_dir = "state"
bundle = "bundle.jm"
[trust]
root = "{ROOT_KEY.public.raw.hex()}"
charter = "keys/charter.jm"
key = "keys/coordinator.key"
[broker]
"""
POLICY = f"[policy]\nscale = {SCALE}\nweight_cap = 1000\nclip_norm = 100.0\n"
Delta = NDArray[np.int8] | NDArray[np.int16]


def bundle_bytes(federation: str = FEDERATION, author: PrivateKey = AUTHOR_KEY) -> bytes:
    files = {MODEL: b"not read here", WEIGHTS: write_params(PARAMS), GOLDEN: b"nor this"}
    return write_bundle(MANIFEST, files, federation, author)


def trust(k_min: int = 1, **changes: Any) -> Trust:
    charter = Charter(
        federation=FEDERATION,
        epoch=1,
        enrolment_key=ENROLMENT_KEY.public.raw,
        coordinator_key=COORDINATOR_KEY.public.raw,
        author_keys=(AUTHOR_KEY.public.raw,),
        k_min=k_min,
    )
    charter = msgspec.structs.replace(charter, **changes)
    envelope = seal(charter, federation=FEDERATION, signer=ROOT, counter=1, key=ROOT_KEY)
    return read_charter(envelope, ROOT_KEY.public)


def identity(k_min: int = 1, source: Path = Path("coordinator.toml"), **changes: Any) -> Identity:
    """The coordinator's; `changes` replace fields of the charter."""
    trusted, data = trust(k_min, **changes), bundle_bytes()
    bundle = read_bundle(data, trusted)
    return Identity(source, trusted, COORDINATOR_KEY, bundle, data, bundle.weights)


def settings(
    toml: str = "", policy: str = POLICY, chunk_bytes: int = 120_000
) -> CoordinatorSettings:
    tables = TABLES.replace("[trust]", f"chunk_bytes = {chunk_bytes}\n[trust]")
    return parse_settings(tables + toml + "\n" + policy, CoordinatorSettings, "coordinator.toml")


def open_federation(
    store: Store,
    toml: str = "",
    *,
    policy: str = POLICY,
    k_min: int = 1,
    chunk_bytes: int = 120_000,
    **changes: Any,
) -> Federation:
    """A federation on this store; `changes` replace fields of the charter."""
    who = identity(k_min, **changes)
    return Federation(store, settings(toml, policy, chunk_bytes), who, 0.0)


def enrol(store: Store, agent: str, site: str) -> None:
    store.keep_agent(KnownAgent(agent, site, bytes(32), 1, "0" * 16, 1), "online")


@dataclass
class Site:
    """An agent that numbers its updates as the outbox does."""

    agent: str = "press-1"
    incarnation: str = "0123456789abcdef"
    sequence: int = 0
    made: list[Update] = field(default_factory=list)

    def update(
        self,
        base: VersionRef,
        delta: Delta | None = None,
        *,
        weight: int = 10,
        **changes: Any,
    ) -> Update:
        """The next update, trained from `base`; `changes` replace fields of its header."""
        self.sequence += 1
        if delta is None:
            delta = np.random.default_rng(self.sequence).integers(-127, 128, P).astype(np.int8)
        content = delta.tobytes()
        bits: Literal[8, 16] = 8 if delta.dtype.itemsize == 1 else 16
        header = UpdateHeader(
            agent=self.agent,
            incarnation=self.incarnation,
            sequence=self.sequence,
            lineage=0,
            base_version=base.version,
            base_digest=base.content.digest,
            examples=weight,
            weight=weight,
            scale=SCALE,
            bits=bits,
            content=describe(content, 256),
        )
        made = Update(msgspec.structs.replace(header, **changes), content)
        self.made.append(made)
        return made


def evaluation(digest: bytes, quality: float, rows: int = 400) -> Evaluation:
    """Held-out counts of a model that tells failures apart the better, the larger `quality`."""
    rng = np.random.default_rng(5)
    labels = np.arange(rows) % 4 == 0
    scores = 1 / (1 + np.exp(-rng.normal(0, 1, rows) - quality * labels))
    return evaluate(digest, labels, scores)


def memory_of(federation: Federation) -> dict[str, bytes | int | tuple[str, ...]]:
    """Everything that must be the same after a restart, from the working memory itself."""
    memory = vars(federation)
    current = memory["_current"]
    model, buffer = current.model, buffer_in(federation)
    return {
        "state": msgspec.msgpack.encode(federation.saved),
        "params": model.params.tobytes(),
        "optimizer": model.optimizer.tobytes(),
        "memory": model.memory.tobytes(),
        "centre": model.centre.tobytes(),
        "average": current.average.tobytes(),
        "total": buffer.total.tobytes(),
        "members": msgspec.msgpack.encode(buffer.members),
        "weight": buffer.weight,
        "head": federation.head_envelope,
    }


def buffer_in(federation: Federation) -> Buffer:
    """What waits to become a version, from the working memory."""
    buffer = vars(federation)["_current"].model.buffer
    assert isinstance(buffer, Buffer)
    return buffer


def start_params() -> NDArray[np.float32]:
    return flatten(PARAMS)


def refold(store: Store, updates: list[Update], optimizer: str = "sgd") -> dict[int, bytes]:
    """Compute every version again from its members; {version: SHA-256 of its weights}."""
    content = {
        (made.header.agent, made.header.incarnation, made.header.sequence): made.content
        for made in updates
    }
    rule = make_server_optimizer(ServerOptimizerSettings(name=optimizer))  # type: ignore[arg-type]
    state, params = rule.init(P), start_params()
    members: dict[int, list[tuple[bytes, int]]] = {}
    for version, agent, incarnation, sequence, coefficient in store.memberships():
        members.setdefault(version, []).append((content[agent, incarnation, sequence], coefficient))
    digests = {}
    for version in sorted(members):
        total, weight = np.zeros(P, np.int64), 0
        for data, coefficient in members[version]:
            total += np.frombuffer(data, np.int8).astype(np.int64) * coefficient
            weight += coefficient
        state, params = rule.apply(
            np.multiply(total, SCALE / weight, dtype=np.float64), state, params
        )
        digests[version] = sha256(write_params(unflatten(params, MANIFEST.shapes)))
    return digests

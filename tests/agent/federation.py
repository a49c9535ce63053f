"""A small federation for tests of the agent: keys on disk, one bundle, heads at will."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.adoption import Adoption
from agent.authoring import BundleSettings, build_bundle, read_bundle_settings
from agent.config import AgentSettings, Identity, read_agent_settings, read_identity
from agent.model import shared_of
from wire.bundle import Bundle, read_bundle
from wire.chunks import describe, split
from wire.codec import seal
from wire.keys import (
    AUTHOR_KEY,
    CHARTER,
    COORDINATOR_KEY,
    make_agent,
    make_federation,
)
from wire.messages import Content, Head, Policy, VersionRef
from wire.signing import PrivateKey, parse_public_key, read_private_key
from wire.tensors import Params, write_params
from wire.topics import Topics
from wire.trust import COORDINATOR, Trust, read_charter

FEDERATION = "plant-net"
AGENT = "gateway-1"
SITE = "site-1"
JOB = Path(__file__).parents[2] / "configs" / "jobs" / "ai4i.toml"
NODES = {
    "air_temperature": "AirTemperature",
    "process_temperature": "ProcessTemperature",
    "rotational_speed": "RotationalSpeed",
    "torque": "Torque",
    "tool_wear": "ToolWear",
    "machine_failure": "MachineFailure",
    "product_count": "ProductCount",
}
CHANNELS = list(NODES)
POLICY = Policy(min_rows=64, epochs=1, learning_rate=0.01, scale=0.002, clip_norm=3.0)
CHUNK_BYTES = 2048


@dataclass(frozen=True)
class Publication:
    """A signed head and the retained chunks of everything that it names, by topic."""

    head: Head
    envelope: bytes
    chunks: dict[str, bytes]


@dataclass(frozen=True)
class Federation:
    """The keys of everybody, and a bundle of the milling job with one small hidden layer."""

    keys: Path
    root: str
    trust: Trust
    coordinator: PrivateKey
    author: PrivateKey
    bundle: bytes

    @property
    def topics(self) -> Topics:
        """Topics of the federation."""
        return Topics(FEDERATION)

    @property
    def opened(self) -> Bundle:
        """The bundle, verified."""
        return read_bundle(self.bundle, self.trust)

    @property
    def start(self) -> Params:
        """The bundle's initial weights."""
        return self.opened.weights

    def moved(self, step: float) -> Params:
        """Weights of a later version: all of the initial ones moved by `step`."""
        return {name: (value + step).astype("<f4") for name, value in self.start.items()}

    def learning(self, **changes: object) -> "Federation":
        """The same federation with another bundle: the same job but for these keys of its file."""
        settings = msgspec.structs.replace(_small_job(), **changes)
        return replace(self, bundle=build_bundle(JOB, settings, FEDERATION, self.author))

    def publish(
        self,
        sequence: int,
        *,
        version: int = 0,
        train: Params | None = None,
        serve: Params | None = None,
        candidate: Params | None = None,
        bundle: bytes | None = None,
        statistics: bytes | None = None,
        policy: Policy = POLICY,
        training: Literal["open", "closed"] = "open",
        threshold: float | None = None,
        key: PrivateKey | None = None,
    ) -> Publication:
        """Sign a head; weights that are not given are the initial ones, and only shared ones go."""
        manifest = self.opened.manifest
        parts = {
            "bundle": bundle or self.bundle,
            "train": write_params(shared_of(manifest, train or self.start)),
            "serve": write_params(shared_of(manifest, serve or train or self.start)),
        }
        if candidate is not None:
            parts["candidate"] = write_params(shared_of(manifest, candidate))
        if statistics is not None:
            parts["statistics"] = statistics
        named = {name: describe(data, CHUNK_BYTES) for name, data in parts.items()}
        head = Head(
            sequence=sequence,
            lineage=0,
            bundle=named["bundle"],
            train=VersionRef(version=version, content=named["train"]),
            serve=VersionRef(version=version, content=named["serve"]),
            candidate=VersionRef(version=version, content=named["candidate"])
            if candidate is not None
            else None,
            statistics=named.get("statistics"),
            policy=policy,
            training=training,
            threshold=threshold,
        )
        chunks: dict[str, bytes] = {}
        for name, data in parts.items():
            kind = "bundle" if name == "bundle" else "model"
            chunks |= _chunks(f"{self.topics.base}/{kind}", named[name], data)
        return Publication(head, self.seal_head(head, key), chunks)

    def seal_head(self, head: Head, key: PrivateKey | None = None) -> bytes:
        """Sign a head as the coordinator, or with another key in its name."""
        return seal(
            head,
            federation=FEDERATION,
            signer=COORDINATOR,
            counter=head.sequence,
            key=key or self.coordinator,
        )


def _chunks(prefix: str, content: Content, data: bytes) -> dict[str, bytes]:
    return {
        f"{prefix}/{content.digest.hex()}/{index}": chunk
        for index, chunk in enumerate(split(data, content.chunk_bytes))
    }


def feed(adoption: Adoption, publication: Publication) -> None:
    """Take a head and the chunks that it makes the agent want, as the broker would send them."""
    adoption.on_head(publication.envelope)
    prefixes = tuple(wanted.removesuffix("+") for wanted in adoption.wanted())
    for topic, chunk in publication.chunks.items():
        if topic.startswith(prefixes or ("nothing",)):
            adoption.on_chunk(topic, chunk)


def milled(count: int, labels: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """Rows of `CHANNELS` as a milling machine would give them, with these values of the label."""
    random = np.random.default_rng(3)
    return np.column_stack(
        [
            random.normal(300, 2, count),
            random.normal(310, 1.5, count),
            random.normal(1539, 179, count),
            random.normal(40, 10, count),
            random.uniform(0, 240, count),
            np.broadcast_to(labels, count),
            np.arange(count),
        ]
    )


def found_federation(directory: Path) -> Federation:
    """Make all keys and the bundle in a new directory."""
    root = make_federation(directory, FEDERATION)
    make_agent(directory, FEDERATION, AGENT, SITE)
    author = read_private_key(directory / AUTHOR_KEY)
    return Federation(
        keys=directory,
        root=root.raw.hex(),
        trust=read_charter((directory / CHARTER).read_bytes(), parse_public_key(root.raw.hex())),
        coordinator=read_private_key(directory / COORDINATOR_KEY),
        author=author,
        bundle=build_bundle(JOB, _small_job(), FEDERATION, author),
    )


def _small_job() -> BundleSettings:
    settings = read_bundle_settings(JOB)
    assert settings.family is not None
    small = msgspec.structs.replace(settings.family, hidden=(8,))
    return msgspec.structs.replace(settings, family=small, alarm=None)


def agent_toml(
    federation: Federation,
    *,
    broker_port: int = 1883,
    endpoint: str = "opc.tcp://127.0.0.1:4840/machine",
    namespace_uri: str = "urn:nobody",
    nodes: dict[str, str] | None = None,
    more: Sequence[str] = (),
) -> str:
    """A configuration file with every required key; `more` are whole lines at its end."""
    channels = "".join(
        f'\n[[source.opcua.channel]]\nname = "{name}"\nnode = "s={node}"\n'
        for name, node in (nodes or NODES).items()
    )
    extra = "\n".join(more)
    return f"""\
[agent]
state_dir = "state"

[trust]
root = "{federation.root}"
charter = "{federation.keys}/charter.jm"
credential = "{federation.keys}/{AGENT}.credential"
key = "{federation.keys}/{AGENT}.key"

[broker]
port = {broker_port}
keepalive_s = 2
ack_timeout_s = 3

[training]
pause_s = 0.1
priority = "low"
budget.enabled = false

[rows]
trigger = "product_count"

[source.opcua]
endpoint = "{endpoint}"
namespace_uri = "{namespace_uri}"
publishing_interval_ms = 50
{channels}
{extra}
"""


def read_back(path: Path) -> tuple[AgentSettings, Identity]:
    """What the agent makes of a configuration file."""
    settings = read_agent_settings(path)
    return settings, read_identity(path, settings.trust)

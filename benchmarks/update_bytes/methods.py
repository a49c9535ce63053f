"""The ways to send a delta, each by the product's own functions, and their real bytes.

`float32` is what is compared with: the clipped delta as it is, which the product does not offer.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.feedback import Residual, make_sparse, nothing
from wire.chunks import describe, sha256
from wire.codec import seal
from wire.messages import Policy, UpdateHeader
from wire.signing import PrivateKey
from wire.sparse import decode_sparse, encode_sparse, kept_count
from wire.tensors import Bits, clip, quantize, read_integers

CLIP_NORM = 10.0
_BUNDLE = bytes(32)
_KEY = PrivateKey(bytes(range(32)))


@dataclass(frozen=True)
class Method:
    """How a delta is sent.

    Attributes:
      name: in the table.
      policy: bits, scale, kept_share, clip_norm as a head would name them; None for float32.
      remembers: whether what a sparse update leaves out is remembered (error feedback).
    """

    name: str
    policy: Policy | None
    remembers: bool = False

    @property
    def kept_share(self) -> float:
        """Share of the parameters that may be sent."""
        return self.policy.kept_share if self.policy is not None else 1.0


def integers(name: str, bits: Bits, scale: float) -> Method:
    """All parameters, as integers."""
    return Method(name, Policy(bits=bits, scale=scale, clip_norm=CLIP_NORM))


def largest(name: str, share: float, scale: float, *, remembers: bool) -> Method:
    """The largest parameters, as 8-bit integers."""
    policy = Policy(bits=8, scale=scale, kept_share=share, clip_norm=CLIP_NORM)
    return Method(name, policy, remembers)


FLOAT32 = Method("float32", None)


@dataclass(frozen=True)
class Sent:
    """An update on the wire.

    Attributes:
      content: its chunks' bytes.
      kept: the header's; 0 when dense.
      saturated: parameters that did not fit.
    """

    content: bytes
    kept: int = 0
    saturated: int = 0


@dataclass
class Senders:
    """All clients' agents: what they send, and what they remember."""

    method: Method
    residuals: dict[int, Residual] = field(default_factory=dict)

    def send(self, client: int, delta: NDArray[np.float64], rng: np.random.Generator) -> Sent:
        """What the client puts into its outbox; its residual changes."""
        policy = self.method.policy
        if policy is None:
            return Sent(clip(delta, CLIP_NORM).astype("<f4").tobytes())
        if policy.kept_share == 1.0:
            content, saturated = quantize(
                clip(delta, policy.clip_norm), policy.scale, policy.bits, rng
            )
            return Sent(content, saturated=saturated)
        residual = self.residuals.get(client) or nothing(len(delta), _BUNDLE, 0)
        made = make_sparse(delta, residual, policy, rng)
        if self.method.remembers:
            self.residuals[client] = made.residual
        kept = kept_count(policy.kept_share, len(delta))
        return Sent(encode_sparse(made.integers, policy.bits), kept, made.saturated)


def received(policy: Policy, sent: Sent, parameters: int) -> NDArray[np.signedinteger]:
    """The integers that a coordinator reads from the content."""
    if sent.kept:
        return decode_sparse(sent.content, policy.bits, parameters, sent.kept)
    return read_integers(sent.content, policy.bits, parameters)


def bytes_on_the_wire(method: Method, sent: Sent, client: int, number: int, base: int) -> int:
    """Bytes of the signed header and of the content; MQTT's own 60 or so a packet not counted."""
    policy = method.policy or Policy()
    header = UpdateHeader(
        agent=f"client-{client:03}",
        incarnation="0123456789abcdef",
        sequence=number + 1,
        lineage=0,
        base_version=base,
        base_digest=sha256(base.to_bytes(8, "big")),
        examples=60,
        weight=60,
        scale=policy.scale,
        bits=policy.bits,
        kept=sent.kept,
        saturated=sent.saturated,
        content=describe(sent.content),
    )
    envelope = seal(
        header,
        federation="bench-bytes",
        signer=header.agent,
        counter=(1 << 32) + number,
        key=_KEY,
    )
    return len(envelope) + len(sent.content)

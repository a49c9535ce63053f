"""What the head names: contents, the chunks they are cut into, and the signed head itself.

Functions over the store and the saved state; the federation decides, these write it down.  Bytes
stay in the store as long as a head names them, a rollback may need them, or the strategy keeps them
as bases of stale updates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from coordinator.config import Identity
from coordinator.store import Saved, Store
from wire.chunks import describe
from wire.codec import open_envelope, parse_body, seal
from wire.deltas import encode
from wire.errors import SignatureError
from wire.messages import MAX_DELTAS, Content, Delta, Head, Policy, TreeHead, VersionRef
from wire.signing import PublicKey
from wire.trust import COORDINATOR


@dataclass(frozen=True)
class Named:
    """Bytes that the head names, to be published in the chunks that `content` lists."""

    kind: Literal["bundle", "model"]
    content: Content
    data: bytes


def keep(store: Store, data: bytes, chunk_bytes: int) -> Content:
    """Store bytes that the next head will name."""
    content = describe(data, chunk_bytes)
    store.keep_content(content.digest, data)
    return content


def named(store: Store, saved: Saved) -> list[Named]:
    """What the head names, each content once."""
    return [
        Named(
            "bundle" if content is saved.bundle else "model",
            content,
            store.content(content.digest),
        )
        for content in saved.contents
    ]


def delta_between(store: Store, base: bytes, target: bytes, chunk_bytes: int) -> Delta | None:
    """The way from one content to another, kept, or None where it would save nothing."""
    data = encode(store.content(base), store.content(target))
    if data is None:
        return None
    return Delta(base=base, target=target, content=keep(store, data, chunk_bytes))


def still_useful(saved: Saved, ways: list[Delta | None]) -> tuple[Delta, ...]:
    """The newest ways, so that an agent some versions behind is served by deltas too."""
    return (*saved.deltas, *(way for way in ways if way is not None))[-MAX_DELTAS:]


def recut(saved: Saved, describe_again: Callable[[Content], Content]) -> dict[str, object]:
    """Changes to the saved state that cut everything it names into other chunks."""

    def of(ref: VersionRef) -> VersionRef:
        return msgspec.structs.replace(ref, content=describe_again(ref.content))

    return {
        "bundle": describe_again(saved.bundle),
        "train": of(saved.train),
        "serve": of(saved.serve),
        "candidate": of(saved.candidate) if saved.candidate else None,
        "statistics": describe_again(saved.statistics) if saved.statistics else None,
        "deltas": tuple(
            msgspec.structs.replace(delta, content=describe_again(delta.content))
            for delta in saved.deltas
        ),
    }


def seal_head(
    saved: Saved,
    policy: Policy,
    training: Literal["open", "closed"],
    identity: Identity,
    log: TreeHead,
) -> tuple[Head, bytes]:
    """The head of a saved state, over the audit log as it is now, and its signed envelope."""
    head = Head(
        sequence=saved.head_sequence,
        lineage=saved.lineage,
        bundle=saved.bundle,
        train=saved.train,
        candidate=saved.candidate,
        serve=saved.serve,
        statistics=saved.statistics,
        deltas=saved.deltas,
        policy=policy,
        training=training,
        recovery=saved.recovery,
        log=log,
        threshold=saved.threshold,
    )
    envelope = seal(
        head,
        federation=identity.trust.federation,
        signer=COORDINATOR,
        counter=head.sequence,
        key=identity.key,
    )
    return head, envelope


def is_signed_by(envelope: bytes, federation: str, key: PublicKey) -> bool:
    """Whether a head of our own was signed with this key, and not with one before it."""
    try:
        open_envelope(envelope, "head").verify(federation, key)
    except SignatureError:
        return False
    return True


def parse_head(envelope: bytes) -> Head:
    """Read a head of our own."""
    return parse_body(open_envelope(envelope, "head"), Head)

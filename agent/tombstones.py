"""Tombstones: what stays of an update whose content is gone, so that its id has an outcome.

The one place that buries, whatever the reason: the outbox is over its quota, or the disk rotted.
"""

import logging

import msgspec

from agent.config import Identity
from agent.outbox import Doomed, Outbox
from wire.codec import Counter, seal, unseal
from wire.errors import WireError
from wire.messages import Content, UpdateHeader

logger = logging.getLogger(__name__)


def bury_doomed(outbox: Outbox, identity: Identity, counter: Counter) -> None:
    """Bury what is damaged and then, until the quota is met, the oldest."""
    for doomed in (*outbox.damaged(), *outbox.over_quota()):
        if outbox.bury(doomed.id, tombstone(doomed, identity, counter)):
            logger.warning("update %s was dropped: %s", doomed.id, doomed.reason)


def tombstone(doomed: Doomed, identity: Identity, counter: Counter) -> bytes:
    """Sign a header that says that the update's content is gone, and why."""
    header = _announced(doomed, identity) or _reconstructed(doomed, identity)
    return seal_update(msgspec.structs.replace(header, dropped=doomed.reason), identity, counter)


def seal_update(header: UpdateHeader, identity: Identity, counter: Counter) -> bytes:
    """Sign an update's header."""
    return seal(
        header,
        federation=identity.trust.federation,
        signer=identity.agent,
        counter=counter.next(),
        key=identity.key,
    )


def _announced(doomed: Doomed, identity: Identity) -> UpdateHeader | None:
    if doomed.header is None:
        return None
    try:
        header, _ = unseal(
            doomed.header,
            UpdateHeader,
            federation=identity.trust.federation,
            signer=identity.agent,
            key=identity.key.public,
        )
    except WireError as error:  # signed with an earlier key of this agent
        logger.warning("the header of update %s does not verify: %s", doomed.id, error)
        return None
    return header


def _reconstructed(doomed: Doomed, identity: Identity) -> UpdateHeader:
    """Say what the outbox still knows; the id and the digest are all that a tombstone is for."""
    content = Content(
        digest=doomed.digest or bytes(32), size=1, chunk_bytes=256, chunks=(bytes(32),)
    )
    return UpdateHeader(
        agent=identity.agent,
        incarnation=doomed.id.incarnation,
        sequence=doomed.id.sequence,
        lineage=doomed.lineage,
        base_version=doomed.base_version,
        base_digest=bytes(32),
        examples=0,
        weight=1,
        scale=1.0,
        bits=8,
        content=content,
    )

"""What the audit log says of a hidden sum that is opened: its manifest, and who endorsed it."""

from collections.abc import Mapping

from coordinator.audit import Audit
from coordinator.secure.rows import SecureRows
from wire.messages import HelperKeys, Recipient


def note_opened(
    audit: Audit, rows: SecureRows, openers: Mapping[str, HelperKeys | Recipient], manifest: bytes
) -> None:
    """Record a manifest that is waiting for its masks, in the transaction that opens it.

    Args:
      audit: the log.
      rows: manifests and endorsements.
      openers: the charter's helpers, or its recipient, by their signing key in hexadecimal; one
        that it names no more is recorded by its key.
      manifest: SHA-256 of the envelope; nothing is recorded for one that does not wait.
    """
    envelope = dict(rows.undecided()).get(manifest)
    if envelope is None:
        return
    accepted = [key for key, (accepts, _) in rows.endorsements(manifest).items() if accepts]
    names = (openers[key].name if key in openers else key for key in accepted)
    audit.note_manifest(envelope, tuple(sorted(names)))

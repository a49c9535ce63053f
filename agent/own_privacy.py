"""This agent's privacy, from its files: settings, ledger, and what waits in the outbox."""

from collections.abc import Iterator
from pathlib import Path

from agent.outbox import Outbox
from agent.privacy import Ledger, Privacy, PrivacyTable
from wire.codec import open_envelope, parse_body
from wire.errors import WireError
from wire.messages import Spent, UpdateHeader


def open_privacy(table: PrivacyTable, outbox: Outbox, directory: Path) -> Privacy:
    """Bring together what decides about privacy; reads nothing yet.

    Args:
      table: the site's own settings.
      outbox: whose waiting updates carry marks.
      directory: the agent's state directory, locked by this process.
    """
    return Privacy(table, Ledger(directory), lambda: _unsent_marks(outbox))


def _unsent_marks(outbox: Outbox) -> Iterator[Spent]:
    """Marks in updates that the coordinator may not have seen; read when a ledger was lost."""
    for at in outbox.open_updates():
        offer = outbox.offer(at)
        if offer is None:
            continue
        try:
            spent = parse_body(open_envelope(offer.header, "update"), UpdateHeader).spent
        except WireError:  # rotten; it becomes a tombstone, and was never sent whole
            continue
        if spent is not None:
            yield spent

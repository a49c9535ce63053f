"""A process that charges updates and puts them into its outbox, and says what it has done.

    python -m tests.power.ledger_work DIRECTORY RUN SABOTAGE

Each update is charged first and added then, with the mark in its header; after each of the two the
releases in the ledger are promised.  Run `first` begins, `second` goes on where a kill left it.
"""

import os
import sys
from pathlib import Path

from agent.outbox import Outbox
from agent.privacy import Ledger
from agent.privacy.accounting import gaussian_cost
from tests.power.replay import Promises
from tests.power.sabotage import sabotage
from wire.messages import Spent
from wire.spent import added

OUTBOX = "outbox.db"
COST = added(Spent(releases=1), gaussian_cost(4.0))


def main() -> None:
    """Do one run."""
    directory = Path(sys.argv[1])
    sabotage(sys.argv[3])
    promises = Promises(directory)
    ledger, outbox = Ledger(directory), Outbox(directory / OUTBOX, 1 << 30)
    for _ in range(3):
        releases = ledger.charge(COST, "update").releases
        promises.make(charged=releases)
        outbox.add(0, 0, lambda *_, mark=releases: (b"%d" % mark, b"content"))
        promises.make(charged=releases)
    os._exit(0)  # without closing anything, as a kill does


if __name__ == "__main__":
    main()

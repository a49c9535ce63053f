"""Kills an agent's account again and again: `python -m tests.agent.privacy_kills DIRECTORY RUNS`.

In each run a child charges updates and puts them into its outbox until it is killed (SIGKILL at a
random moment) or the budget is spent.  When it is, a new card begins in another folder.  Prints one
JSON document: for each card, the releases in its ledger and the marks in its outbox's headers.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from agent.outbox import Outbox
from agent.privacy import BudgetSpent, Ledger, Privacy, PrivacyTable
from wire.messages import Policy, Spent

POLICY = Policy(privacy="update", noise_multiplier=4.0, clip_norm=0.1, bits=16)
TABLE = PrivacyTable(unit="update", epsilon=3.0, delta=1e-6)
LONGEST_S = 0.008
"""Some updates are made in it, and a child that opens its files is not always through."""
EXHAUSTED = 7


def work(directory: Path) -> None:
    """Charge and make updates until there is no budget left."""
    outbox = Outbox(directory / "outbox.db", 1 << 30)
    privacy = Privacy(TABLE, Ledger(directory))
    privacy.on_mark(Spent())
    while True:
        try:
            spent = privacy.charge(POLICY, 100)
        except BudgetSpent:
            os._exit(EXHAUSTED)
        header = str(spent.releases if spent else 0).encode()
        outbox.add(0, 0, lambda *_, header=header: (header, b"content"))


def run_and_kill(directory: Path, after_s: float) -> bool:
    """Let a child work for so long; whether it came to the end of its budget."""
    child = os.fork()
    if child == 0:
        work(directory)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == EXHAUSTED


def account_of(directory: Path) -> dict[str, object]:
    """What is on a card."""
    outbox = Outbox(directory / "outbox.db", 1 << 30)
    offers = [outbox.offer(at) for at in outbox.open_updates()]
    outbox.close()
    marks = [int(offer.header) for offer in offers if offer is not None]
    return {"releases": Ledger(directory).account.spent.releases, "marks": marks}


def main() -> None:
    """Do all runs."""
    root, runs = Path(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(9)
    cards: list[Path] = []
    killed, is_spent = 0, True
    while killed < runs:
        if is_spent:
            cards.append(root / str(len(cards)))
            cards[-1].mkdir()
        is_spent = run_and_kill(cards[-1], chance.uniform(0.0, LONGEST_S))
        killed += not is_spent
    while not is_spent:
        is_spent = run_and_kill(cards[-1], 0.2)
    print(json.dumps({"killed": killed, "cards": [account_of(card) for card in cards]}))


if __name__ == "__main__":
    main()

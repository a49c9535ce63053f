"""The ledger of privacy, beside the outbox, through every power cut."""

from pathlib import Path

import pytest

from agent.outbox import Outbox
from agent.privacy import Ledger
from tests.power.ledger_work import OUTBOX
from tests.power.replay import Promise, assert_the_log_is_complete, record, replay


def check(directory: Path, promises: list[Promise]) -> None:
    """Nothing charged is forgotten, and no update is there that the ledger does not know of."""
    charged = Ledger(directory).account.spent.releases
    promised = promises[-1]["charged"] if promises else 0
    assert charged in (promised, promised + 1)
    if not (directory / OUTBOX).exists():
        return
    outbox = Outbox(directory / OUTBOX, 1 << 30)
    offers = [outbox.offer(at) for at in outbox.open_updates()]
    outbox.close()
    marks = [int(offer.header) for offer in offers if offer is not None]
    assert len(marks) == len(offers)
    assert len(set(marks)) == len(marks)
    assert max(marks, default=0) <= charged


@pytest.mark.parametrize(("broken", "is_found"), [("", False), ("nofsync", True)])
def test_no_power_cut_leaves_an_update_that_was_not_charged(
    shim: Path, scratch: Path, broken: str, is_found: bool
) -> None:
    runs = [["first", broken], ["second", broken]]
    recording = record(shim, "tests.power.ledger_work", runs, scratch / "work")
    assert_the_log_is_complete(recording)
    outcome = replay(recording, check, scratch, 10_000)
    print(f"ledger and outbox: {outcome}")
    assert outcome.states > 100
    assert bool(outcome.failed) is is_found, "\n".join(outcome.failures)

"""A process that keeps rows in the ring as the agent does, and says what it has done.

    python -m tests.power.history_work DIRECTORY RUN SABOTAGE

After each call, the rows that can be read are promised, but as softly as the ring promises them:
a power cut may take the last ones.  Run `first` dies without closing, `second` closes, `third`
dies again.
"""

import hashlib
import os
import sys
from pathlib import Path

from agent.history import History
from agent.signals.rows import Rows, rows_of
from tests.power.replay import Promises
from tests.power.sabotage import sabotage

FILE = "history.db"
CAPACITY_ROWS = 60
CHANNELS = ("torque", "speed", "failure")


def open_history(directory: Path) -> History:
    """The ring of the directory."""
    return History(directory / FILE, CHANNELS, CAPACITY_ROWS, 0.25)


def rows_at(seconds: range) -> Rows:
    """The rows of some moments; every value follows from its moment."""
    values = [(float(second), second / 7, float(-second)) for second in seconds]
    return rows_of(values, [second * 1_000_000 for second in seconds])


def account_of(history: History) -> list[object]:
    """How many rows there are, and what is read of them."""
    held_out, training = history.read(held_out=True), history.read(held_out=False)
    return [
        history.count,
        *(hashlib.sha256(rows.values.tobytes()).hexdigest() for rows in (held_out, training)),
    ]


def main() -> None:
    """Append; every seventh row comes again, and the ring is full in the second run."""
    directory, run = Path(sys.argv[1]), sys.argv[2]
    sabotage(sys.argv[3])
    history, promises = open_history(directory), Promises(directory)
    promises.make(account=account_of(history), is_safe=False)
    start = {"first": 0, "second": 40, "third": 90}[run]
    for batch in range(start, start + 50, 5):
        history.append(rows_at(range(max(0, batch - 2), batch + 5)))
        promises.make(account=account_of(history), is_safe=False)
    if run == "second":
        account = account_of(history)
        history.close()
        promises.make(account=account, is_safe=True)
    os._exit(0)


if __name__ == "__main__":
    main()

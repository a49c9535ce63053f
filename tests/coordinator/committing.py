"""A process that commits updates to a coordinator's file until it is killed.

    python -m tests.coordinator.committing DATABASE

Offers 60 updates over and over in batches, as agents do, and prints `AGENT SEQUENCE STATUS` for
every receipt after its commit, then `done` once each update is folded.
"""

import sys

from coordinator.federation import Federation
from coordinator.ingest import Update
from coordinator.store import Store
from tests.coordinator.small_federation import PARAMS, Site, open_federation
from wire.chunks import describe
from wire.messages import VersionRef
from wire.tensors import write_params

TOML = '[strategy]\ngoal = 4\n[server_optimizer]\nname = "momentum"\n[gate]\nevery = 3\n'


def offered() -> list[Update]:
    """The 60 updates, all trained from version 0."""
    base = VersionRef(version=0, content=describe(write_params(PARAMS)))
    sites = [Site(f"press-{number}") for number in range(3)]
    return [site.update(base) for _ in range(20) for site in sites]


def commit_all(federation: Federation, updates: list[Update]) -> None:
    """Offer in batches of three and say what the receipts say."""
    for start in range(0, len(updates), 3):
        result = federation.commit(updates[start : start + 3], 0.0)
        for agent, receipt in result.receipts:
            sys.stdout.write(f"{agent} {receipt.sequence} {receipt.status}\n")
        sys.stdout.flush()


def main() -> None:
    """Commit until everything is folded."""
    store = Store(sys.argv[1])
    federation = open_federation(store, TOML)
    commit_all(federation, offered())
    sys.stdout.write("done\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

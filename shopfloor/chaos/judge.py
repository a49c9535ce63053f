"""The verdict on a finished run, from the files that it left.

Everything is read again from the disk, so a run that was kept can be judged again, and a run that
was tampered with is judged as what it became (`tests/fleet/test_chaos.py`).
"""

from dataclasses import dataclass, field

from shopfloor.chaos.accounts import StoreAccount, read_buried, read_outbox, read_store
from shopfloor.chaos.helpers import problems_of, read_helper
from shopfloor.chaos.layout import DECAY, FEDERATION, LEARNING_RATE, STALENESS_CAP, Layout
from shopfloor.chaos.reckoning import Heard, Reckoning, reckon
from shopfloor.chaos.refold import Recipe, refold
from shopfloor.chaos.schedule import AGENTS, HELPERS
from shopfloor.chaos.tape import Tape
from shopfloor.ledger import Ledger
from wire.bundle import read_bundle
from wire.keys import CHARTER, ROOT_KEY
from wire.sealing_keys import read_sealing_key
from wire.signing import read_private_key
from wire.tensors import flatten
from wire.trust import read_charter


@dataclass(frozen=True)
class Verdict:
    """What the files of all programs say, held against each other.

    Attributes:
      differences: where the weights do not follow from the updates; empty when all bits are equal.
      set_aside: files that a program took for damaged; none of these faults damages one.
      helpers: what helpers did that they must never do.
    """

    reckoning: Reckoning
    differences: list[str]
    store: StoreAccount
    set_aside: list[str]
    helpers: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Updates without an outcome."""
        return len(self.reckoning.lost)

    @property
    def doubled(self) -> int:
        """Updates with two outcomes, or counted twice."""
        return len(self.reckoning.doubled)

    @property
    def largest_staleness(self) -> int:
        """Versions between the base of an update and the one before its own, at most."""
        stale = [
            version - 1 - member.base_version
            for version, members in self.store.members.items()
            for member in members
        ]
        return max(stale, default=0)


def judge(layout: Layout) -> Verdict:
    """Hold the files of everybody against each other; all programs have ended."""
    agents = [read_outbox(agent, layout.outbox(agent)) for agent in AGENTS]
    store = read_store(layout.store)
    tape, ledger = Tape(layout.tape, FEDERATION), Ledger(layout.witness)
    ledger.read_new()
    offered = {(update, digest) for update, found in tape.digests().items() for digest in found}
    observed = {(update, fact.digest) for update, fact in ledger.updates.items()}
    heard = Heard(frozenset(offered | observed), ledger.told)
    announced = {head.train for head in ledger.heads}
    differences = refold(_recipe(layout), store, announced, tape)
    last = max(store.versions)
    if ledger.head is None or ledger.head.train[0] != last:
        differences.append(f"no head was seen that named the last version, {last}")
    tape.close()
    reckoning = reckon([*agents, *read_buried(layout.buried)], store, heard)
    set_aside = [str(file) for file in layout.directory.glob("*/*.damaged-*")]
    return Verdict(reckoning, differences, store, sorted(set_aside), _helpers(layout))


def _helpers(layout: Layout) -> list[str]:
    living = [read_helper(name, layout.state(name)) for name in layout.helpers]
    replaced, copied = None, None
    if layout.replaced.exists():
        replaced = read_helper(HELPERS[-1], layout.replaced)
        copied = read_helper(HELPERS[-1], layout.copy(HELPERS[-1]))
    return problems_of(living, replaced, copied)


def _recipe(layout: Layout) -> Recipe:
    keys = layout.directory / "keys"
    trust = read_charter((keys / CHARTER).read_bytes(), read_private_key(keys / ROOT_KEY).public)
    bundle = read_bundle((layout.directory / "bundle.jm").read_bytes(), trust)
    start = flatten(bundle.weights)
    return Recipe(
        start,
        bundle.manifest.shared_shapes,
        LEARNING_RATE,
        STALENESS_CAP,
        DECAY,
        sealing_keys=tuple(
            read_sealing_key(layout.sealing_key(name), "a helper's").raw for name in layout.helpers
        ),
        federation=FEDERATION,
        k_min=trust.charter.k_min,
    )

"""Masked or encrypted client updates: from the header to the buffer that becomes a version.

    header ─► fits the policy? ─► strategy.admit ─► row, committed
    rows ─► strategy.is_ready ─► manifest ─► (helpers, or the recipient) ─► sums ─► Buffer

Until its sum is opened nothing is known of an update but its header; so nothing is clipped or
measured here, and who may harm a version is bounded by buckets (`coordinator/robust.py`).
Inside the caller's transactions.
"""

import numpy as np

from coordinator.aggregate import Buffer, Member
from coordinator.current import Current
from coordinator.ingest import Update
from coordinator.secure.rows import Sealed
from coordinator.secure.sums import Opened, Terms
from coordinator.secure.ways import Way
from coordinator.strategies.strategy import Offer, Rejected
from wire.chunks import sha256
from wire.messages import UpdateHeader

_LOOK_S, _SELDOM_S = 0.001, 10.0
"""Ten thousand take a quarter of a second to look through."""
UpdateKey = tuple[str, str, int]
"""Agent, incarnation, sequence."""


class HiddenUpdates:
    """The buffer's place under `protection = "masked"` and `"encrypted"`."""

    def __init__(self, current: Current, way: Way) -> None:
        self._current, self._way = current, way
        self._rows = current.store.secure
        self._since_s: float | None = None
        self._look_s = 0.0

    @property
    def update_bytes(self) -> int:
        """Size of every content."""
        return self._way.update_bytes

    def problem_with(self, header: UpdateHeader) -> str:
        """What the header alone decides against; empty when it may come."""
        return self._way.problem_with(header)

    def take(self, update: Update, offer: Offer) -> Member | Rejected:
        """Keep an update that fits the policy as a row, or say why it does not count."""
        header, current = update.header, self._current
        if len(update.content) != header.content.size:
            return Rejected(f"{len(update.content)} bytes came of {header.content.size}")
        if problem := self._way.problem_with_content(update):
            return Rejected(problem)
        model = current.model
        is_synchronous = current.settings.strategy.name == "fedavg"
        seen = self._pretended(self._rows.free("update") if is_synchronous else [])
        weight = current.rules.strategy.admit(offer, seen, model.version)
        if isinstance(weight, Rejected):
            return weight
        sealed = Sealed(
            report=sha256(update.envelope),
            purpose="update",
            subject=bytes(32),
            agent=header.agent,
            site=offer.site,
            incarnation=header.incarnation,
            sequence=header.sequence,
            weight=header.weight,
            base_version=header.base_version,
            base_digest=header.base_digest,
            lineage=header.lineage,
            count=current.parameters,
            ring=self._way.ring,
            scale=header.scale,
            bits=header.bits,
        )
        self._rows.add(sealed, update.envelope, update.content)
        return _member(sealed, weight, 0)

    def propose(self, now_s: float) -> bool:
        """Decide on the next sum when the strategy wants one and none is on its way; whether.

        With many thousands waiting, for helpers that are all away, to look takes a while; then it
        is done seldom.
        """
        if now_s < self._look_s:
            return False
        waiting = len(self._rows.free("update"))
        self._look_s = now_s + min(waiting * _LOOK_S, _SELDOM_S)
        if not waiting:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = now_s
        if any(self._rows.undecided_of("update")):
            return False
        age_s = now_s - self._since_s
        current, policy = self._current, self._current.usual_policy
        terms = Terms(
            version=current.model.version,
            weight_cap=policy.weight_cap,
            staleness_cap=policy.staleness_cap,
            staleness_floor=policy.staleness_floor,
            is_damped=current.settings.strategy.name == "fedbuff",
            buckets=current.settings.robust.buckets,
            most=self._way.most,
        )

        def is_ready(chosen: list[Sealed]) -> bool:
            return current.rules.strategy.is_ready(self._pretended(chosen), age_s)

        is_proposed = self._way.propose(terms, is_ready)
        if is_proposed:
            self._since_s = now_s
        return is_proposed

    def stranded(self, now_s: float) -> list[Sealed]:
        """Once training is closed: updates of too few sites for a sum, after a version's deadline.

        Nobody will come to make them enough; they get an outcome rather than wait for ever.
        """
        current = self._current
        free = self._rows.free("update")
        if current.store.training == "open" or not free or self._rows.undecided_of("update"):
            return []
        if self._since_s is None or now_s - self._since_s < current.settings.strategy.deadline_s:
            return []
        few = len({each.site for each in free}) < current.identity.trust.charter.k_min
        return free if few else []

    def buffer(self, opened: Opened) -> tuple[Buffer, list[UpdateKey]]:
        """The buffer that a sum stands for, and whose updates are in it."""
        manifest, current = opened.manifest, self._current
        buckets = current.settings.robust.buckets
        summed = np.zeros((buckets, manifest.count), np.int64)
        filled = sorted({member.bucket for member in manifest.members})
        for row, bucket in zip(opened.sums, filled, strict=True):
            summed[bucket] = row
        members = tuple(
            _member(sealed, share.coefficient, share.bucket)
            for sealed, share in zip(opened.members, manifest.members, strict=True)
        )
        weight = sum(member.weight for member in members)
        keys = [(each.agent, each.incarnation, each.sequence) for each in opened.members]
        return Buffer(summed, members, weight), keys

    def late(self) -> list[Sealed]:
        """Under synchronous rounds: updates of a round that is over."""
        if self._current.settings.strategy.name != "fedavg":
            return []
        newest = self._current.model.version
        return [each for each in self._rows.free("update") if each.base_version != newest]

    def _pretended(self, rows: list[Sealed]) -> Buffer:
        """A buffer with these members and no numbers: what strategies decide by."""
        members = tuple(_member(each, each.weight, 0) for each in rows)
        return Buffer(np.zeros((1, 0), np.int64), members, sum(each.weight for each in rows))


def _member(sealed: Sealed, weight: int, bucket: int) -> Member:
    return Member(
        agent=sealed.agent,
        site=sealed.site,
        base_version=sealed.base_version,
        weight=weight,
        coefficient=weight,
        bucket=bucket,
    )

"""Masked figures: what a site counts on its own rows, for sums over sites and for nobody else.

One report about each subject, for ever: the helpers take no second one (`wire/SECURE.md`).  So it
is made once in a life of the agent, told again as it is, and a larger number of rows waits for the
next subject.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent.config import Identity
from wire.chunks import sha256
from wire.codec import seal
from wire.figures_vector import RING, encode_evaluations, encode_statistics, subject_of
from wire.masking import mask, seal_seeds
from wire.messages import (
    Evaluation,
    FiguresHeader,
    Head,
    Report,
    SealedFigures,
    Statistics,
)

_Figures = Literal["evaluation", "statistics"]
_KEPT = 16
"""Subjects remembered; a head names three at a time."""


@dataclass
class MaskedFigures:
    """Makes and remembers one site's masked figures."""

    identity: Identity
    _made: OrderedDict[tuple[str, bytes], SealedFigures] = field(default_factory=OrderedDict)

    def sealed(self, report: Report, head: Head) -> Report:
        """The same report, with nothing in it that is this site's alone.

        Args:
          report: as it would be told without masks.
          head: the one that it is about.
        """
        by_digest = {each.digest: each for each in report.evaluations}
        digests = judged(head)
        parts: list[SealedFigures] = []
        if digests and all(digest in by_digest for digest in digests):
            parts.append(self._evaluation([by_digest[digest] for digest in digests]))
        if report.statistics is not None:
            parts.append(self._statistics(report.statistics))
        return Report(head=report.head, sealed=tuple(parts))

    def _evaluation(self, evaluations: list[Evaluation]) -> SealedFigures:
        subject = subject_of([each.digest for each in evaluations])
        return self._once("evaluation", subject, encode_evaluations(evaluations))

    def _statistics(self, statistics: Statistics) -> SealedFigures:
        return self._once("statistics", statistics.bundle, encode_statistics(statistics))

    def _once(self, purpose: _Figures, subject: bytes, vector: NDArray[np.int64]) -> SealedFigures:
        known = self._made.get((purpose, subject))
        if known is None:
            known = self._made[purpose, subject] = self._make(purpose, subject, vector)
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return known

    def _make(self, purpose: _Figures, subject: bytes, vector: NDArray[np.int64]) -> SealedFigures:
        identity, charter = self.identity, self.identity.trust.charter
        data, seeds = mask(vector, RING)
        digest = sha256(data)

        masked = seal_seeds(
            seeds,
            RING,
            [helper.sealing for helper in charter.helpers],
            federation=charter.federation,
            name=(identity.agent, f"{purpose}/{subject.hex()}"),
            digest=digest,
        )
        header = FiguresHeader(
            agent=identity.agent,
            purpose=purpose,
            subject=subject,
            count=len(vector),
            digest=digest,
            masked=masked,
        )
        envelope = seal(
            header,
            federation=charter.federation,
            signer=identity.agent,
            counter=0,
            key=identity.key,
        )
        return SealedFigures(header=envelope, vector=data)


def judged(head: Head) -> list[bytes]:
    """Digests of the weights that masked evaluations are about: what is served, and a candidate.

    None without a candidate: each sum about the same weights, over nearly the same sites, tells a
    little of those that are in one of them only.  Not the newest version: under masks nobody learns
    how each did, and it changes too often for many sites to speak of the same one.
    """
    if head.candidate is None or head.candidate.content.digest == head.serve.content.digest:
        return []
    return [head.serve.content.digest, head.candidate.content.digest]

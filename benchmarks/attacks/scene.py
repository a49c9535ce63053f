"""Ten sites in a federation with three helpers, and what can be read of one of them."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.config import Identity
from agent.learning.ir import Params
from benchmarks.attacks import crafted
from benchmarks.attacks.consortium import BASE, SITES, Consortium
from benchmarks.attacks.inversion import best_correlations, neurons
from benchmarks.attacks.reports import MASKED, Report
from benchmarks.attacks.victims import (
    HIDDEN,
    ONE_STEP,
    PIXELS,
    Digits,
    Victim,
    digits,
    plan_of,
    sent,
)
from wire.messages import Base
from wire.signing import PrivateKey
from wire.trust import Trust

Integers = NDArray[np.int64]
ROWS, RECONSTRUCTED = 8, 0.9


class Scene:
    """Ten sites with eight rows each; the first one is the victim.

    Attributes:
      consortium: everybody's keys and the helpers.
      victim: the report that is to be opened.
      others: reports of the nine other sites.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.consortium = Consortium(directory)
        self._rng = np.random.default_rng(seed)
        self.rows = [digits().drawn(ROWS, self._rng) for _ in SITES]
        self.identities = [
            self.consortium.identity(f"agent-{at}", site) for at, site in enumerate(SITES)
        ]
        self._model = Victim()
        self.victim, *self.others = self.reports()

    @property
    def everybody(self) -> list[Report]:
        """Reports of all sites, the victim's first."""
        return [self.victim, *self.others]

    def reports(
        self, weights: Sequence[int] = (1,) * len(SITES), base: Base = BASE, sequence: int = 1
    ) -> list[Report]:
        """Reports of all sites, trained from the honest weights."""
        return [
            self._report(identity, rows, self._model.base, weight, base, sequence)
            for identity, rows, weight in zip(self.identities, self.rows, weights, strict=True)
        ]

    def dead_reports(self, base: Base) -> list[Report]:
        """Reports of all sites but the victim's, from weights without gradients."""
        start = crafted.dead(HIDDEN, 0)
        return [
            self._report(identity, rows, start, 1, base, 2)
            for identity, rows in zip(self.identities[1:], self.rows[1:], strict=True)
        ]

    def nothing_from(self, sites: Sequence[str], by: PrivateKey | None = None) -> list[Report]:
        """Reports that say nothing, of nine agents that the coordinator has invented."""
        zeros = np.zeros(len(self.victim.content) // 4, np.int64)
        return [
            self.consortium.report(self.consortium.identity(f"sybil-{at}", site, by), zeros)
            for at, site in enumerate(sites)
        ]

    def report_under(self, trust: Trust) -> Report:
        """What the victim sends when it believes in a charter."""
        identity = dataclasses.replace(self.identities[0], trust=trust)
        update = self.update(self.rows[0], self._model.base)
        return self.consortium.report(identity, update, sequence=9)

    def found(self, vectors: Sequence[Integers]) -> float:
        """Share of the victim's rows that can be read in one of the vectors."""
        candidates = [neurons(vector.astype(np.float64), PIXELS, HIDDEN) for vector in vectors]
        best = [best_correlations(each, self.rows[0].x) for each in candidates]
        return max(float(np.mean(each >= RECONSTRUCTED)) for each in best)

    def guessed(self) -> float:
        """The share that as many rows of other people give."""
        others = digits().drawn(HIDDEN, self._rng).x.astype(np.float64)
        return float(np.mean(best_correlations(others, self.rows[0].x) >= RECONSTRUCTED))

    def update(self, rows: Digits, start: Params) -> Integers:
        """All rows, one step, rounded."""
        policy = msgspec.structs.replace(ONE_STEP, batch_size=ROWS, scale=MASKED.scale)
        return sent(self._model.delta(start, rows, plan_of(policy, 0)), policy, self._rng)

    def _report(
        self,
        identity: Identity,
        rows: Digits,
        start: Params,
        weight: int,
        base: Base,
        sequence: int,
    ) -> Report:
        return self.consortium.report(
            identity, self.update(rows, start), weight=weight, base=base, sequence=sequence
        )


@contextmanager
def scene_in(directory: Path, seed: int) -> Iterator[Scene]:
    """A scene whose stores are gone afterwards."""
    with TemporaryDirectory(dir=directory) as place:
        scene = Scene(Path(place), seed)
        with scene.consortium:
            yield scene

"""The evaluation that a person sees: one line for each version, on stdout.

In synchronous training each round gets its line: once every participating site has reported, else
when the next round begins, from those that did.  In asynchronous training a version that is
replaced before a quorum reported is not printed.
"""

import sys
from dataclasses import dataclass, field

from coordinator.federation import Federation
from coordinator.gate import Quality, pooled, sites_of
from coordinator.store import Store
from wire.messages import Evaluation


@dataclass
class EvaluationLog:
    """Prints each version's pooled quality at most once.

    Attributes:
      store: where the sites' evaluations are.
      is_synchronous: versions are rounds, and none of them goes unprinted.
      sites: distinct sites whose reports make a line complete.
    """

    store: Store
    is_synchronous: bool
    sites: int
    _version: int = -1
    _digest: bytes = b""
    _reports: dict[str, Evaluation] = field(default_factory=dict)
    _printed: bool = True

    def resume(self, federation: Federation) -> None:
        """After a restart: a version whose reports are all here was printed before."""
        self._turn_to(federation)
        self._printed = self._is_complete()

    def print_new(self, federation: Federation) -> None:
        """Print the current version's quality when enough sites reported on it."""
        if federation.saved.train.version != self._version:
            if self.is_synchronous and self._reports:
                self._print()
            self._turn_to(federation)
        elif not self._printed:
            self._reports = self.store.evaluations(self._digest)
        if self._is_complete():
            self._print()

    def _turn_to(self, federation: Federation) -> None:
        train = federation.saved.train
        self._version, self._digest = train.version, train.content.digest
        self._reports = self.store.evaluations(self._digest)
        self._printed = False

    def _is_complete(self) -> bool:
        return len(sites_of(self._reports)) >= self.sites

    def _print(self) -> None:
        if not self._printed:
            self._printed = True
            noun = "round" if self.is_synchronous else "version"
            line = _line(pooled(list(self._reports.values())), len(sites_of(self._reports)))
            sys.stdout.write(f"{noun} {self._version}: {line}\n")
            sys.stdout.flush()


def _line(quality: Quality, sites: int) -> str:
    def figure(value: float | None) -> str:
        return "  -  " if value is None else f"{value:.3f}"

    return (
        f"PR-AUC {figure(quality.pr_auc)}  ROC-AUC {figure(quality.roc_auc)}"
        f"  on {quality.rows} held-out rows ({quality.positives} failures) of {sites} sites"
    )

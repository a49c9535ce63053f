"""The evaluation that a person sees: one line for each version, on stdout.

In synchronous training each round gets its line: once every participating site has reported, else
when the next round begins, from those that did.  In asynchronous training a version that is
replaced before a quorum reported is not printed.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.federation import Federation
from coordinator.gate import sites_of
from coordinator.store import Store
from wire.evaluation import add
from wire.figures import WORDS, Metric, figure, number
from wire.messages import Evaluation
from wire.tally import Kind, Tally

SHOWN: Mapping[Kind, tuple[Metric, ...]] = {
    "binary": ("pr_auc", "roc_auc"),
    "classes": ("f1", "accuracy"),
    "numbers": ("rmse", "mae"),
    "reconstruction": ("loss",),
}


@dataclass
class EvaluationLog:
    """Prints each version's pooled quality at most once.

    Attributes:
      store: where the sites' evaluations are.
      is_synchronous: versions are rounds, and none of them goes unprinted.
      sites: distinct sites whose reports make a line complete.
      k_min: of the charter: a sum of fewer distinct sites is not shown.
    """

    store: Store
    is_synchronous: bool
    sites: int
    k_min: int = 1
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
            sys.stdout.write(f"{noun} {self._version}: {self._line()}\n")
            sys.stdout.flush()

    def _line(self) -> str:
        sites = len(sites_of(self._reports))
        if sites < self.k_min:
            return f"no figures: of {sites} sites, and the charter shows {self.k_min} or more"
        return line_of(add(self._reports[name] for name in sorted(self._reports)), sites)


def line_of(tally: Tally, sites: int) -> str:
    """What a person reads about the pooled rows of so many sites, in figures of their task."""
    figures = "  ".join(
        f"{WORDS[metric]} {_number(metric, figure(metric, tally))}"
        for metric in SHOWN[tally.kind or "binary"]
    )
    failures = f" ({tally.failures} failures)" if tally.kind == "binary" else ""
    return f"{figures}  on {tally.rows} held-out rows{failures} of {sites} sites"


def _number(metric: Metric, value: float | None) -> str:
    """Of one width for shares, so that lines can be compared by eye."""
    return number(metric, value) if value is not None else "  -  "

"""The evaluation that a person sees: one line for each version, on stdout.

In synchronous training it is printed after each round, once every participating site has reported
(a version that is replaced sooner is not printed).
"""

from dataclasses import dataclass

from coordinator.federation import Federation
from coordinator.gate import Quality, pooled
from coordinator.store import Store


@dataclass
class EvaluationLog:
    """Prints each version's pooled quality once."""

    store: Store
    noun: str
    sites: int
    _version: int = -1
    _digest: bytes = b""
    _printed: bool = True

    def print_new(self, federation: Federation) -> None:
        """Print the current version's quality when enough sites reported on it."""
        train = federation.saved.train
        if train.version != self._version:
            self._version, self._digest = train.version, train.content.digest
            self._printed = False
        if self._printed:
            return
        reports = self.store.evaluations(self._digest)
        if len({reporter.partition("/")[0] for reporter in reports}) < self.sites:
            return
        self._printed = True
        print(_line(self.noun, self._version, pooled(list(reports.values()))), flush=True)


def _line(noun: str, version: int, quality: Quality) -> str:
    def figure(value: float | None) -> str:
        return "  -  " if value is None else f"{value:.3f}"

    return (
        f"{noun} {version}: PR-AUC {figure(quality.pr_auc)}  ROC-AUC {figure(quality.roc_auc)}"
        f"  on {quality.rows} held-out rows ({quality.positives} failures) of {quality.sites} sites"
    )

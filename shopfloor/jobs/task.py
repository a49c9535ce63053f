"""What a job is to the demo: whose rows, which bundle, how the federation learns, how it is judged.

Responsible for the words that all jobs share.  Invariant: a site's `test` rows are written to no
file that an agent reads; they judge, after the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["pr_auc", "roc_auc", "accuracy", "rmse"]
Columns = dict[str, NDArray[Any]]
TIME = "time"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"  # where a wheel has them
if not CONFIGS.exists():
    CONFIGS = CONFIGS.parents[1] / "configs"  # a checkout has them at the top
JOBS = CONFIGS / "jobs"


class DataError(Exception):
    """Rows that a job can not use; the message names file, line and column, and what to do."""


@dataclass(frozen=True, eq=False)
class SiteRows:
    """One site's rows.

    Attributes:
      name: of the site: letters, digits and dashes.
      train: what its machines say: an array for each channel and for the label, the first axis the
        rows; `time` in seconds since 1970, growing; the group's channel where there is one.
        Columns that the bundle does not name stay in the site's file and are read by nobody.
      test: the same for rows that nobody trains on.
    """

    name: str
    train: Columns
    test: Columns

    def __post_init__(self) -> None:
        for side in (self.train, self.test):
            lengths = {len(values) for values in side.values()}
            if len(lengths) != 1 or TIME not in side or np.any(np.diff(side[TIME]) <= 0):
                raise DataError(f"{self.name}: columns of one length and growing times are needed")


@dataclass(frozen=True)
class Task:
    """A thing to learn.

    Attributes:
      name: as `--job` has it.
      title: for people.
      bundle: name of its description in configs/jobs/; beside it, NAME.coordinator.toml says how
        the federation learns it.
      metric: what it is judged by; smaller is better for `rmse` alone.
      generate: seed to the sites of the simulated shop floor.
      read: a path that a person gave, and a seed, to sites.
      group: channel whose change begins another engine or order; "" for none.
      late_labels: labels come in a file, later than the rows.
      holdout_share: of a site's rows, those that judge candidates and choose what is served.
      holdout_stretch_s: for windows: stretches of so many seconds are held out as a whole.
      personal: keys of an agent's [personal] table.
      unit: of the label, for `rmse`.
      moving: channel that is moved to show drift; "": the bundle's first.
    """

    name: str
    title: str
    bundle: str
    metric: Metric
    generate: Callable[[int], Sequence[SiteRows]]
    read: Callable[[Path, int], Sequence[SiteRows]]
    group: str = ""
    late_labels: bool = False
    holdout_share: float = 0.1
    holdout_stretch_s: float = 3600.0
    personal: str = ""
    unit: str = ""
    moving: str = ""

    @property
    def description(self) -> Path:
        """The bundle's description."""
        return JOBS / f"{self.bundle}.toml"

    @property
    def federation(self) -> Path:
        """The coordinator's tables: strategy, server optimizer, gate, policy."""
        return JOBS / f"{self.bundle}.coordinator.toml"

"""A head in use: its model, its weights, and how they see the rows of this agent.

Pure, but for the runtime that computes.  Says of itself when what its inputs are standardised by is
still missing (`Adopted.unready`); until then it refuses to make examples and to score.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.model import Model
from agent.signals.features import Moments, measure
from agent.signals.labels import no_labels, read_labels
from wire.errors import BundleError
from wire.messages import Head
from wire.standards import Standard
from wire.tensors import Params


@dataclass(frozen=True, eq=False)
class Examples:
    """What the model learns from.

    Attributes:
      inputs: float32 (N, ...), standardised.
      labels: as the loss takes them (`agent.learning.losses.Loss`): float32 (N, 1), int64 (N,) for
        classes, float32 (N, 0) for reconstruction.
      unknown: rows left out because their class is none of the bundle's.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[Any]
    unknown: int = 0

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
class Adopted:
    """A head whose contents are all here and checked.

    Attributes:
      train, candidate, serve: all tensors of the model: the shared ones of that version, and this
        site's own local ones.
      input_columns: where this agent's rows hold the model's channels.
      label_column: where they hold the label; None for a model that has none.
      standard: what inputs are standardised by; None for the features' constants alone.
    """

    head: Head
    model: Model
    train: Params
    candidate: Params | None
    serve: Params
    input_columns: tuple[int, ...]
    label_column: int | None
    standard: Standard | None = None

    @property
    def unready(self) -> str:
        """Why this is neither trained nor scored with yet; empty when it may be."""
        if self.standard is not None:
            return ""
        return {
            "given": "",
            "local": "waiting for rows of this site to standardise by",
            "federated": "waiting for the statistics of all sites",
        }[self.model.manifest.standardise]

    def score(self, params: Params, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score rows of this agent's channels, see `agent.model.scores`: float64 (N, C) to (N,).

        Raises:
          BundleError: it is `unready`.
        """
        self._check_ready()
        return self.model.score(params, rows[:, self.input_columns], self.standard)

    def outputs(self, params: Params, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's raw outputs, (N, ...), for inputs that `examples` made."""
        return self.model.outputs(params, inputs)

    def examples(self, rows: NDArray[np.float64]) -> Examples:
        """Cut rows of this agent's channels, (N, C), into inputs and labels; unlabelled ones go.

        Raises:
          BundleError: it is `unready`.
        """
        self._check_ready()
        label = self.model.manifest.label
        if label is None or self.label_column is None:
            labels = no_labels(len(rows))
        else:
            labels = read_labels(self.model.manifest, label, rows[:, self.label_column])
        used = rows[labels.known][:, self.input_columns]
        return Examples(self.model.inputs(used, self.standard), labels.values, labels.unknown)

    def moments(self, rows: NDArray[np.float64]) -> Moments:
        """Sums over rows of this agent's channels, (N, C), of the inputs before standardising."""
        inputs = self.model.inputs(rows[:, self.input_columns])
        return measure(self.model.manifest.features, inputs)

    def _check_ready(self) -> None:
        if self.unready:
            raise BundleError(f"bundle {self.model.manifest.name}: {self.unready}")

"""A head in use: its model, its weights, and how they see the rows of this agent.

Pure, but for the runtime that computes.  Says of itself when what its inputs are standardised by is
still missing (`Adopted.unready`); until then it refuses to make examples and to score.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.model import Model, scores
from agent.signals.features import Moments, apply_standard, measure
from agent.signals.labels import no_labels, read_labels
from agent.signals.rows import Rows
from agent.signals.windows import example_inputs, window_starts
from wire.errors import BundleError
from wire.manifest import Window
from wire.messages import Head
from wire.standards import Standard
from wire.tensors import Params


@dataclass(frozen=True, eq=False)
class Examples:
    """What the model learns from.

    Attributes:
      inputs: float32 (N, ...), standardised; of single rows or of windows of them.
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
class Live:
    """What a model sees of rows that are to be scored.

    Attributes:
      ends: int64 (N,), which rows end a whole window, ascending.
      inputs: float32 (N, ...), standardised.
    """

    ends: NDArray[np.int64]
    inputs: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Adopted:
    """A head whose contents are all here and checked.

    Attributes:
      train, candidate, serve: all tensors of the model: the shared ones of that version, and this
        site's own local ones.
      input_columns: which of this agent's channels are the model's.
      label_column: which one is the label; None for a model that has none.
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
    def threshold(self) -> float:
        """Score from which a row raises an alarm: what all sites' counts say, else the bundle's."""
        learned = self.head.threshold
        return self.model.manifest.threshold if learned is None else learned

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

    @property
    def rows_needed(self) -> int:
        """How many rows next to each other the model looks at to score the last one."""
        window = self.model.manifest.window
        return 1 if window is None else window.length

    @property
    def in_stretches(self) -> bool:
        """Whether rows are held out by stretches of time, since examples are cut out of several."""
        return self.rows_needed > 1

    def score(self, params: Params, rows: Rows) -> NDArray[np.float64]:
        """Score rows of this agent's channels, see `agent.model.scores`: float64 (R,).

        NaN for a row before which there are not as many as a window needs.

        Raises:
          BundleError: it is `unready`.
        """
        live = self.live(rows)
        by_row = np.full(len(rows), np.nan)
        found = self.outputs(params, live.inputs)
        by_row[live.ends] = scores(self.model.manifest, found, live.inputs)
        return by_row

    def live(self, rows: Rows, after: int = 0) -> Live:
        """Inputs of the rows that end a whole window.

        Args:
          rows: of this agent's channels.
          after: how many rows at the beginning are only there for the windows of later ones.

        Raises:
          BundleError: it is `unready`.
        """
        self._check_ready()
        ends = self._ends(rows, stride=1)
        ends = ends[ends >= after]
        return Live(ends, self._inputs(rows, ends, self.standard))

    def outputs(self, params: Params, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's raw outputs, (N, ...), for inputs that `examples` made."""
        return self.model.outputs(params, inputs)

    def examples(self, rows: Rows) -> Examples:
        """Cut rows of this agent's channels into inputs and labels; unlabelled ones go.

        Raises:
          BundleError: it is `unready`.
        """
        self._check_ready()
        window, label = self.model.manifest.window, self.model.manifest.label
        ends = self._ends(rows, stride=1 if window is None else window.stride)
        if label is None or self.label_column is None:
            labels = no_labels(len(ends))
        else:
            labels = read_labels(self.model.manifest, label, rows.values[ends, self.label_column])
        inputs = self._inputs(rows, ends[labels.known], self.standard)
        return Examples(inputs, labels.values, labels.unknown)

    def moments(self, rows: Rows) -> Moments:
        """Sums over examples cut of rows, of the inputs before standardising."""
        window = self.model.manifest.window
        ends = self._ends(rows, stride=1 if window is None else window.stride)
        return measure(self.model.manifest.features, self._inputs(rows, ends, None))

    def _ends(self, rows: Rows, stride: int) -> NDArray[np.int64]:
        """The last row of every example: int64 (N,), ascending."""
        if self.model.manifest.window is None:
            return np.arange(len(rows), dtype=np.int64)
        length = self.rows_needed
        return window_starts(rows.groups, Window(length=length, stride=stride)) + length - 1

    def _inputs(
        self, rows: Rows, ends: NDArray[np.int64], standard: Standard | None
    ) -> NDArray[np.float32]:
        """Inputs of the examples that end at these rows."""
        manifest = self.model.manifest
        values = {
            channel.name: rows.arrays[column] if channel.shape else rows.values[:, column]
            for channel, column in zip(manifest.channels, self.input_columns, strict=True)
        }
        inputs = example_inputs(manifest, values, ends - (self.rows_needed - 1))
        return inputs if standard is None else apply_standard(manifest.features, inputs, standard)

    def _check_ready(self) -> None:
        if self.unready:
            raise BundleError(f"bundle {self.model.manifest.name}: {self.unready}")

"""One job's figures in every place that serves it, and how they are printed."""

from dataclasses import dataclass
from typing import Final

from shopfloor.jobs.served_on import Board, Int8, NotServed, Places
from shopfloor.jobs.task import Metric, Task

ALLOWED: Final[dict[Metric, float]] = {"pr_auc": 2.0, "roc_auc": 2.0, "accuracy": 2.0, "rmse": 5.0}
"""Loss of int8: points, of RMSE percent."""
NOT_FOR_INT8: Final = {
    "energy": "follows the lagging power factor too steeply near 100 %: rounding that input alone"
    " to 8 bits makes most of the loss, so this job is for the float runtimes"
}
"""Jobs that the allowance does not judge, and why; their loss is printed all the same."""
SCORES: Final[dict[Metric, str]] = {
    "pr_auc": "PR-AUC",
    "roc_auc": "ROC-AUC",
    "accuracy": "accuracy",
    "rmse": "RMSE",
}


@dataclass(frozen=True)
class Line:
    """One job's figures.

    Attributes:
      task: which job.
      rows: test rows that judged.
      places: what was served.
      values: the metric by place; the board's are the reference's.
      apart: the distance between numpy's and ONNX Runtime's outputs over the outputs' own size.
      tolerance: of the bundle, which `apart` has to keep.
    """

    task: Task
    rows: int
    places: Places
    values: dict[str, float]
    apart: float
    tolerance: float

    @property
    def loss(self) -> float | None:
        """Of int8 against ONNX Runtime, points or, of RMSE, percent; None where it has no int8."""
        given, made = self.values["onnxruntime"], self.values.get("int8")
        if made is None:
            return None
        return 100.0 * ((made / given - 1.0) if self.task.metric == "rmse" else given - made)

    @property
    def share(self) -> float | None:
        """The loss as a share of what is allowed; None where no allowance judges it."""
        if self.loss is None or self.task.name in NOT_FOR_INT8:
            return None
        return self.loss / ALLOWED[self.task.metric]

    @property
    def is_exact(self) -> bool:
        """Whether all that must agree does."""
        int8, board = self.places.int8, self.places.board
        unlike = (int8.unlike or 0) if isinstance(int8, Int8) else 0
        unlike += board.unlike if isinstance(board, Board) else 0
        return self.apart <= self.tolerance and not unlike


HEADER: Final = (
    f"{'job':14}{'metric':9}{'test rows':>10}{'onnxruntime':>13}{'numpy':>10}{'int8':>10}"
    f"{'loss':>14}  {'.tflite':>8}  board: flash, RAM, rows"
)


def told(line: Line) -> str:
    """One job's line of the table."""
    metric, int8, board = line.task.metric, line.places.int8, line.places.board
    figures = "".join(
        f"{line.values[place]:>{width}.4f}" if place in line.values else f"{'-':>{width}}"
        for place, width in (("onnxruntime", 13), ("numpy", 10), ("int8", 10))
    )
    unit = "%" if metric == "rmse" else "points"
    loss = "-" if line.loss is None else f"{line.loss:+.2f} {unit}"
    size = f"{int8.file_bytes / 1000:.1f} kB" if isinstance(int8, Int8) else "-"
    on_board = "no: see below" if isinstance(board, NotServed) else _told_of_board(board)
    head = f"{line.task.name:14}{SCORES[metric]:9}{line.rows:10,}"
    return f"{head}{figures}{loss:>14}  {size:>8}  {on_board}"


def _told_of_board(board: Board) -> str:
    equal = f"{board.unlike} UNLIKE" if board.unlike else "equal to the reference"
    flash, ram = board.content_bytes / 1000, board.arena_bytes / 1000
    return f"{flash:.1f} kB, {ram:.1f} kB, {len(board.rows)} rows {equal}"


def reasons(lines: list[Line]) -> list[str]:
    """Why some place does not serve a job, and who computed the int8 outputs."""
    said = []
    for line in lines:
        for place in ("int8", "board"):
            found = getattr(line.places, place)
            if isinstance(found, NotServed):
                said.append(f"{line.task.name}: not on {place}: {found.reason}")
        if line.task.name in NOT_FOR_INT8:
            said.append(f"{line.task.name}: not for int8: {NOT_FOR_INT8[line.task.name]}")
        int8 = line.places.int8
        if isinstance(int8, Int8) and int8.judges != "LiteRT":
            said.append(f"{line.task.name}: LiteRT is not here, int8 is the {int8.judges}'s")
        elif isinstance(int8, Int8) and int8.unlike:
            said.append(f"{line.task.name}: LiteRT DIFFERS from the reference, {int8.unlike} rows")
    return said

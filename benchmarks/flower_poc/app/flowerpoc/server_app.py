"""FedAvg as Flower ships it; after each round every seed's model is judged on held-out rows.

What happens is written, one JSON object a line, to the file that the run's configuration names:
`round` after each evaluation, `failed` if a client's reply is missing, `done` at the end.
"""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from flowerpoc.arrays import from_record, to_record
from flowerpoc.metrics import average_precision, roc_auc
from flowerpoc.mlp import scores
from flowerpoc.splits import SITES, Rows, held_out_rows, initial_tensors, parse_seeds

Tell = Callable[[dict[str, Any]], None]

app = ServerApp()


class CompleteFedAvg(FedAvg):
    """FedAvg that fails instead of going on without a client: a comparison needs all sites."""

    tell: Tell

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Refuse a round in which a client failed, else average as Flower does."""
        replies = list(replies)
        errors = [reply.error.reason for reply in replies if reply.has_error()]
        if errors or len(replies) != len(SITES):
            reason = (
                f"round {server_round}: {len(replies)} of {len(SITES)} replies, errors: {errors}"
            )
            self.tell({"event": "failed", "reason": reason})
            raise RuntimeError(reason)
        return super().aggregate_train(server_round, replies)


@app.main()
def serve(grid: Grid, context: Context) -> None:
    """Run all rounds, then judge and record every seed's final model."""
    config = context.run_config
    folder, seeds = Path(str(config["splits"])), parse_seeds(str(config["seeds"]))
    rows = held_out_rows(folder, seeds)

    def tell(event: dict[str, Any]) -> None:
        with Path(str(config["events"])).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**event, "monotonic_s": time.monotonic()}) + "\n")

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        judged = scores(from_record(arrays), rows.x)
        pr_auc = [average_precision(y, s) for y, s in zip(rows.y, judged, strict=True)]
        tell({"event": "round", "round": server_round, "pr_auc": pr_auc})
        return MetricRecord({"pr-auc": float(np.mean(pr_auc))})

    strategy = CompleteFedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=len(SITES),
        min_available_nodes=len(SITES),
    )
    strategy.tell = tell
    result = strategy.start(
        grid=grid,
        initial_arrays=to_record(initial_tensors(folder, seeds)),
        num_rounds=int(config["rounds"]),
        timeout=float(config["round-timeout-s"]),
        evaluate_fn=evaluate,
    )
    final = scores(from_record(result.arrays), rows.x)
    judged = {str(seed): _judged(rows, final, row) for row, seed in enumerate(seeds)}
    tell({"event": "done", "seeds": judged})


def _judged(rows: Rows, logits: NDArray[np.float32], row: int) -> dict[str, Any]:
    y, site, logit = rows.y[row], rows.site[row], logits[row]
    return {
        "pr_auc": average_precision(y, logit),
        "roc_auc": roc_auc(y, logit),
        "pr_auc_own_rows": {
            name: average_precision(y[site == name], logit[site == name]) for name in SITES
        },
        "held_out_logits": [round(float(value), 5) for value in logit],
    }

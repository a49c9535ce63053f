"""FedAvg as Flower ships it, over one client; writes a line of JSON after each round."""

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def serve(grid: Grid, context: Context) -> None:
    """Run all rounds."""
    config = context.run_config

    def tell(server_round: int, _arrays: ArrayRecord) -> MetricRecord:
        with Path(str(config["events"])).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"round": server_round}) + "\n")
        return MetricRecord({"round": server_round})

    strategy = FedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1
    )
    weights = np.zeros(int(config["parameters"]), np.float32)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"w": Array(weights)}),
        num_rounds=int(config["rounds"]),
        timeout=300.0,
        evaluate_fn=tell,
    )

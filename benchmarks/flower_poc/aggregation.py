"""Flower's FedAvg aggregation, timed: one pass for each line on standard input.

`python aggregation.py PARAMETERS UPDATES` prints G parameters per CPU-second of each pass, from
`FitRes` with serialized float32 parameters to aggregated arrays.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy reads it
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import sys
import time

import numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.server.strategy.aggregate import aggregate_inplace


def main() -> None:
    """Make the updates, then a pass for each line."""
    parameters, updates = int(sys.argv[1]), int(sys.argv[2])
    rng = np.random.default_rng(0)
    weights = rng.choice(np.arange(20, 10_000), updates, replace=False).tolist()
    values = rng.normal(0.0, 0.03, parameters).astype(np.float32)
    results = [
        (None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters([np.roll(values, at)]), rows, {}))
        for at, rows in enumerate(weights)
    ]
    for _ in sys.stdin:
        started = time.process_time()
        aggregate_inplace(results)
        print(updates * parameters / (time.process_time() - started) / 1e9, flush=True)


if __name__ == "__main__":
    main()

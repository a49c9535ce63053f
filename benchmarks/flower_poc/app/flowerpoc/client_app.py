"""One site: trains every seed's model on that seed's rows of the site."""

import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flowerpoc.arrays import from_record, to_record
from flowerpoc.mlp import Recipe, train
from flowerpoc.splits import SITES, parse_seeds, training_rows

app = ClientApp()


@app.train()
def fit(message: Message, context: Context) -> Message:
    """Train on the site that the node's configuration names."""
    config = context.run_config
    site = str(context.node_config["site"])
    seeds = parse_seeds(str(config["seeds"]))
    round_number = int(message.content["config"]["server-round"])
    rows = training_rows(Path(str(config["splits"])), seeds, site)
    recipe = Recipe(
        epochs=int(config["epochs"]),
        batch=int(config["batch"]),
        learning_rate=float(config["learning-rate"]),
        proximal_mu=float(config["proximal-mu"]),
    )
    # A generator for each seed, so that a seed's result does not depend on its companions.
    rngs = [np.random.default_rng([seed, SITES.index(site), round_number]) for seed in seeds]
    started_s = time.perf_counter()
    tensors = train(from_record(message.content["arrays"]), rows.x, rows.y, recipe, rngs)
    metrics = MetricRecord(
        {"num-examples": rows.y.shape[1], "train-s": time.perf_counter() - started_s}
    )
    content = RecordDict({"arrays": to_record(tensors), "metrics": metrics})
    return Message(content, reply_to=message)

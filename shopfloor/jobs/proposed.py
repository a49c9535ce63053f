"""What proposals from a run's models are worth, on the line whose best set-points are known.

Every member asks under the same drawn conditions, from set-points that its people ran; its test
rows calibrate.  Reads only.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.model import Model
from shopfloor.jobs.baselines import POOLED, model_in
from shopfloor.jobs.process import PROCESS
from shopfloor.jobs.proposals import CHANNELS, Asked, Learned, Rows, asking, knowing, tell
from shopfloor.jobs.record import Proposals
from shopfloor.jobs.run import JobRun
from shopfloor.jobs.task import Columns
from shopfloor.line import LABEL, SETTINGS, draw_conditions
from wire.standards import Standard
from wire.tensors import Params

_CONDITIONS = 24
"""That each site asks for."""
_VERSIONS = 4
"""At hand on a gateway: served, trained from, candidate, and the last one trained from."""


def proposals_of(
    run: JobRun, model: Model, served: Params, standard: Standard | None
) -> Proposals | None:
    """Judge proposals from what was learned; None where no best set-points are known.

    Args:
      run: that has ended.
      model: ready to compute.
      served: the federation's weights.
      standard: the federation's.
    """
    plant = run.plant
    if plant.task.name != PROCESS.name or plant.options.data is not None:
        return None
    arrays = run.baselines()
    federated = Learned([served, *_others(run, model)], standard)
    pooled = _alone(arrays, POOLED, served)
    conditions = draw_conditions(_CONDITIONS, plant.options.seed)
    found = []
    for site in plant.members:
        rows = rows_of_site(site.rows.test)
        asked = asking(present_of(rows, len(conditions)), conditions)
        ways = {"local": _alone(arrays, site.name, served), "federated": federated}
        found.append(regrets(model, ways | {"pooled": pooled}, rows, asked))
    mean = {way: float(np.mean([each[way] for each in found])) for way in found[0]}
    best = min(each["local"] for each in found)
    return Proposals(unit=PROCESS.unit, best_local=best, **mean)


def regrets(
    model: Model, ways: Mapping[str, Learned], rows: Rows, asked: Asked
) -> dict[str, float]:
    """Mean regret at one site by way, and as its people run it."""
    found = {"people": asked.regret(asked.present)}
    for way, learned in ways.items():
        found[way] = asked.regret(tell(knowing(model, learned, rows), asked).settings)
    return found


def rows_of_site(columns: Columns) -> Rows:
    """Rows by the line's channels."""
    values = np.column_stack([columns[name] for name in CHANNELS]).astype(np.float64)
    return Rows(values, columns[LABEL].astype(np.float64))


def present_of(rows: Rows, number: int) -> NDArray[np.float64]:
    """So many set-points that people ran, evenly spread over the rows: (number, 3)."""
    at = np.linspace(0, len(rows.values) - 1, number).astype(np.int64)
    return rows.values[at, : len(SETTINGS)]


def _alone(arrays: Mapping[str, NDArray[Any]], name: str, like: Params) -> Learned:
    params, standard = model_in(arrays, name, like)
    return Learned([params], standard)


def _others(run: JobRun, model: Model) -> list[Params]:
    """The newest weights that the coordinator published, without the served ones."""
    shapes, heads = model.manifest.shared_shapes, run.ledger.heads
    digests = dict.fromkeys(
        digest
        for head in reversed(heads)
        for digest in (head.train[1], head.serve[1])
        if digest != heads[-1].serve[1] and run.ledger.has_model(digest)
    )
    return [run.ledger.model(digest, shapes) for digest in list(digests)[: _VERSIONS - 1]]

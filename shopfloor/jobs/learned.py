"""What a run's federation learned, and what each site serves of it.

Reads what the programs left; changes nothing.
"""

import contextlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.learning.personalise import GLOBAL
from agent.model import Model, prepare
from agent.own_model import OwnModelFile
from shopfloor.jobs.judging import Floats, answers
from shopfloor.jobs.plant import JobSite
from shopfloor.jobs.run import JobRun
from wire.bundle import read_draft
from wire.manifest import columns
from wire.standards import Standard, read_standard
from wire.tensors import Params, read_params


@dataclass(frozen=True, eq=False)
class Learned:
    """What the federation learned.

    Attributes:
      model: ready to compute.
      served: its weights in the end.
      standard: what inputs are standardised by.
      version, versions: the served one's number, and how many were made.
      threshold: that the head names; None: the bundle's.
    """

    model: Model
    served: Params
    standard: Standard | None
    version: int
    versions: int
    threshold: float | None


def learned_in(run: JobRun) -> Learned:
    """Read what the coordinator serves."""
    model = prepare(read_draft((run.plant.directory / "bundle.jm").read_bytes())[0])
    manifest = model.manifest
    with contextlib.closing(run.open_store()) as store:
        saved, head = store.load(), run.head
        if saved is None or head is None:
            raise RuntimeError("a run that has ended has a head")
        served = read_params(store.content(saved.serve.content.digest), manifest.shared_shapes)
        standard = None
        if saved.statistics is not None:
            data = store.content(saved.statistics.digest)
            standard = read_standard(data, sum(map(columns, manifest.features)))
    return Learned(model, served, standard, saved.serve.version, saved.version, saved.threshold)


def served_answers(learned: Learned, site: JobSite, inputs: NDArray[np.float32]) -> Floats:
    """Answers of the model that a site serves, its own or the federation's: (N,).

    Args:
      learned: what the federation learned.
      site: whose model.
      inputs: rows of any site, as the federation's model takes them.
    """
    own = OwnModelFile(site.state).load()
    if own is None or own.serving.kind == GLOBAL:
        return answers(learned.model, learned.served, inputs)
    serving = own.serving
    return answers(learned.model, serving.params, serving.inputs(inputs))

"""A site is judged by the model that it serves, with the inputs that it takes."""

from pathlib import Path

import numpy as np
import pytest

from agent.authoring import build_bundle, read_bundle_settings
from agent.learning.personalise import GLOBAL, Candidate, Kind
from agent.model import prepare
from agent.own_model import Basis, Chosen, OwnModelFile, Serving
from shopfloor.jobs.judging import answers
from shopfloor.jobs.learned import Learned, served_answers
from shopfloor.jobs.plant import JobSite
from shopfloor.jobs.task import JOBS, TIME, SiteRows
from wire.bundle import read_draft
from wire.signing import PrivateKey
from wire.standards import Standard


@pytest.mark.parametrize(
    "kind", [GLOBAL, Kind("global", "local"), Kind("fine_tuned"), Kind("ditto", "local")]
)
def test_weights_and_normalisation_are_those_of_what_the_site_serves(
    tmp_path: Path, kind: Kind
) -> None:
    path = JOBS / "ai4i.toml"
    draft = read_draft(build_bundle(path, read_bundle_settings(path), "a", PrivateKey(bytes(32))))[
        0
    ]
    model, served = prepare(draft), draft.weights
    learned = Learned(model, served, None, 1, 1, None)
    rows = SiteRows("a", {TIME: np.arange(3.0)}, {TIME: np.arange(3.0)})
    site = JobSite(rows, "gateway-a", 0, tmp_path / "a.toml", tmp_path)
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    assert np.array_equal(served_answers(learned, site, x), answers(model, served, x))
    own = served if kind.model == "global" else {name: 2 * w for name, w in served.items()}
    standard = Standard(np.full(5, 0.5), np.full(5, 2.0)) if kind.normalisation == "local" else None
    candidate = Candidate(kind, own, standard)
    basis = Basis(bytes(32), bytes(32), 1, 100)
    OwnModelFile(tmp_path).keep(Chosen(basis, Serving(candidate, bytes(32), "it was better")))
    expected = answers(model, own, x if standard is None else (x - np.float32(0.5)) / np.float32(2))
    assert np.array_equal(served_answers(learned, site, x), expected)

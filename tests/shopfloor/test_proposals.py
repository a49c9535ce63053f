"""Regret of proposals on the line whose best set-points are known, and the models kept for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.authoring import build_draft, read_bundle_settings
from agent.model import prepare
from agent.recommend.proposal import Knowledge, Surrogate, bands_of
from shopfloor import line
from shopfloor.jobs.baselines import POOLED, RESULT, baselines, model_in
from shopfloor.jobs.judging import answers, judged_rows, standardised
from shopfloor.jobs.plant import JobOptions, lay_out
from shopfloor.jobs.process import PROCESS
from shopfloor.jobs.proposals import CHANNELS, NEAR, RECIPE, Asked, Rows, asking, tell
from shopfloor.jobs.proposed import present_of, proposals_of, rows_of_site
from shopfloor.jobs.run import JobRun
from shopfloor.ledger import Ledger
from shopfloor.link_log import LinkLog
from shopfloor.processes import Processes
from wire.bundle import Bundle, read_draft

ASKED = 6
Values = NDArray[np.float64]


def asked_at(site: int) -> tuple[Rows, Asked]:
    rows = rows_of_site(line.generate(site, 200, seed=0).columns)
    return rows, asking(present_of(rows, ASKED), line.draw_conditions(ASKED, seed=0))


def who_predicts(rows: Rows, law: Callable[[Values, Values], Values]) -> Knowledge:
    """What somebody knows who takes this law, of set-points and conditions, for the truth."""
    low, high = np.array([*line.SETTINGS.values(), *line.CONDITIONS.values()]).T
    middle, width = (low + high) / 2, high - low

    def predict(inputs: NDArray[np.float32]) -> Values:
        values = np.clip(inputs.astype(np.float64) * width + middle, low, high)
        return law(values[:, :3], values[:, 3:])

    surrogate = Surrogate(lambda each: ((each - middle) / width).astype(np.float32), (predict,), 3)
    bands = bands_of(surrogate, rows.values, rows.energy, RECIPE)
    return Knowledge(surrogate, CHANNELS, bands, NEAR)


@pytest.mark.parametrize("site", [0, 3])
def test_who_knows_the_truth_has_next_to_no_regret_and_people_have_much(site: int) -> None:
    rows, asked = asked_at(site)
    told = tell(who_predicts(rows, line.truth), asked)
    regret, people = asked.regret(told.settings), asked.regret(asked.present)
    assert 0 <= regret < 2.0
    assert people > 10 * regret
    assert told.share > 0.8


def test_the_best_set_points_have_no_regret_and_all_others_have_some() -> None:
    _, asked = asked_at(1)
    best = line.optimum(asked.conditions)[0]
    assert asked.regret(best) == pytest.approx(0.0, abs=1e-9)
    low, high = np.array(list(line.SETTINGS.values())).T
    for step in np.diag((high - low) / 20):
        assert asked.regret(np.clip(best + step, low, high)) > 0.1
        assert asked.regret(np.clip(best - step, low, high)) > 0.1


def test_a_site_stays_where_it_is_when_a_model_knows_no_difference() -> None:
    rows, asked = asked_at(2)
    told = tell(who_predicts(rows, lambda settings, _: np.full(len(settings), 460.0)), asked)
    assert told.share == 0
    assert np.array_equal(told.settings, asked.present)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    described = read_bundle_settings(PROCESS.description)
    short = msgspec.structs.replace(described.recipe, epochs=4)
    described = msgspec.structs.replace(described, recipe=short)
    return read_draft(build_draft(PROCESS.description, described))[0]


def test_models_trained_without_a_federation_are_kept_with_what_scales_their_inputs(
    bundle: Bundle, tmp_path: Path
) -> None:
    model, sites = prepare(bundle), PROCESS.generate(0)[:2]
    task = replace(PROCESS, generate=lambda _seed: sites)
    trained = baselines(task, bundle, None, 0, "")
    np.savez(tmp_path / RESULT, **trained)  # type: ignore[arg-type]
    with np.load(tmp_path / RESULT, allow_pickle=False) as arrays:
        kept = dict(arrays)
    test = [judged_rows(model.manifest, site.test, "", site.name).examples.x for site in sites]
    for name in (POOLED, *(site.name for site in sites)):
        params, standard = model_in(kept, name, bundle.weights)
        inputs = [standardised(model.manifest, x, standard) for x in test]
        again = np.concatenate([answers(model, params, each) for each in inputs])
        assert np.array_equal(kept[name], again)


def run_of(directory: Path, options: JobOptions) -> JobRun:
    plant = lay_out(directory, PROCESS, PROCESS.generate(0)[:2], options)
    ledger, links = Ledger(directory / "witness"), LinkLog(directory / "links.jsonl")
    return JobRun(plant, Processes(directory), ledger, links, print)


def test_a_federation_that_serves_the_pooled_model_proposes_what_that_would(
    bundle: Bundle, tmp_path: Path
) -> None:
    run, model = run_of(tmp_path, JobOptions()), prepare(bundle)
    task = replace(PROCESS, generate=lambda _seed: PROCESS.generate(0)[:2])
    trained = baselines(task, bundle, None, 0, "")
    np.savez(tmp_path / RESULT, **trained)  # type: ignore[arg-type]
    served, standard = model_in(trained, POOLED, bundle.weights)
    found = proposals_of(run, model, served, standard)
    assert found is not None
    assert found.federated == found.pooled
    assert 0 <= found.best_local <= found.local
    assert found.people > 0
    assert found.unit == "kWh/t"


def test_of_rows_that_a_person_gave_nobody_knows_the_best_set_points(
    bundle: Bundle, tmp_path: Path
) -> None:
    run = run_of(tmp_path, JobOptions(data=tmp_path))
    assert proposals_of(run, prepare(bundle), bundle.weights, None) is None

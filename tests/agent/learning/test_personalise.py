"""Which candidates a site makes, and which of them it chooses."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.learning.families import mlp
from agent.learning.graph import initial_params
from agent.learning.ir import Params
from agent.learning.losses import Loss
from agent.learning.numpy_backend import NumpyBackend
from agent.learning.params import flatten
from agent.learning.personalise import (
    GLOBAL,
    Candidate,
    CandidateFailed,
    Kind,
    Making,
    OwnRows,
    Personalised,
    PersonalTable,
    Start,
    choose,
    gain,
    kinds,
    personalise,
    plan_of,
    standard_of_rows,
    standardised,
)
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Labelled
from agent.learning.train import TrainingDiverged, TrainingResult, train

DITTO, LOCAL, TUNED = Kind("ditto"), Kind("local"), Kind("fine_tuned")
SHIFTED = Kind("ditto", "local")
QUICK = PersonalTable(local_normalisation=False, ditto_epochs=8, local_epochs=15, local_patience=3)
BOTH = msgspec.structs.replace(QUICK, local_normalisation=True)
PLAN = TrainingPlan(epochs=2, batch_size=20, optimizer="adam", learning_rate=0.01)
GRAPH = mlp(4, (8,), 1, seed=1)
BACKEND = NumpyBackend(GRAPH, Loss.BINARY_CROSS_ENTROPY)
INITIAL = initial_params(GRAPH)


def noise(mean: float, rows: int = 300, seed: int = 0) -> NDArray[np.float64]:
    """Losses that scatter around a mean by 1."""
    values = np.random.default_rng(seed).normal(size=rows)
    return np.asarray(values - values.mean() + mean)


def test_the_gain_and_its_error_are_those_of_a_hand_computed_example() -> None:
    reference, losses = np.array([3.0, 5.0, 4.0, 8.0]), np.array([2.0, 3.0, 4.0, 3.0])
    # Differences 1, 2, 0, 5: mean 2, variance (1 + 0 + 4 + 9) / 3, its root over the root of 4.
    assert gain(losses, reference) == pytest.approx((2.0, (14 / 3) ** 0.5 / 2))


def test_rows_that_repeat_their_neighbours_are_no_more_evidence() -> None:
    independent = noise(0.5, 30)
    repeated = np.repeat(independent, 20)
    once = gain(np.zeros(30), independent)
    many = gain(np.zeros(600), repeated)
    assert many == pytest.approx(once)


def test_one_row_tells_nothing_about_the_error() -> None:
    assert gain(np.zeros(1), np.ones(1)) == (1.0, np.inf)


def test_a_candidate_replaces_the_global_model_only_when_it_is_clearly_better() -> None:
    scatter = noise(0.0)
    clear = {GLOBAL: noise(5.0, seed=1), DITTO: noise(5.0, seed=1) - 0.2 - 0.1 * scatter}
    unclear = {GLOBAL: noise(5.0, seed=1), DITTO: noise(5.0, seed=1) - 0.05 - 2.0 * scatter}
    assert choose(clear, 1.0).kind == DITTO
    assert choose(unclear, 1.0).kind == GLOBAL
    assert choose(unclear, 0.0).kind == DITTO


def test_of_several_that_are_clearly_better_the_best_is_chosen() -> None:
    losses = {GLOBAL: noise(5.0), TUNED: noise(4.0), LOCAL: noise(3.0), DITTO: noise(3.5)}
    assert choose(losses, 1.0).kind == LOCAL


def test_what_is_served_stays_until_it_is_clearly_beaten_or_worse_than_global() -> None:
    scatter = noise(0.0)
    base = noise(5.0, seed=1)
    losses = {GLOBAL: base, DITTO: base - 0.01 - scatter, LOCAL: base - 0.05 - 3 * scatter}
    assert choose(losses, 1.0, serving=DITTO).kind == DITTO
    assert choose(losses, 1.0, serving=GLOBAL).kind == GLOBAL
    assert choose({**losses, LOCAL: base - 1.0}, 1.0, serving=DITTO).kind == LOCAL
    assert choose({**losses, DITTO: base + 0.01}, 1.0, serving=DITTO).kind == GLOBAL


def test_a_model_that_was_served_before_and_is_clearly_better_refuses_a_new_global_one() -> None:
    kept = Kind("ditto", is_kept=True)
    losses = {GLOBAL: noise(5.0), DITTO: noise(4.0), kept: noise(2.0)}
    verdict = choose(losses, 1.0, serving=DITTO)
    assert verdict.kind == kept
    assert verdict.reason.startswith("ditto, as it is served now: loss 2 against 5 of global")


def test_models_that_give_no_numbers_are_never_chosen_even_when_global_is_one() -> None:
    nothing = np.full(300, np.nan)
    assert choose({GLOBAL: noise(5.0), LOCAL: nothing}, 1.0).kind == GLOBAL
    broken = choose({GLOBAL: np.full(300, np.inf), LOCAL: nothing, DITTO: noise(9.0)}, 1.0)
    assert broken.kind == DITTO
    assert choose({GLOBAL: nothing, LOCAL: nothing}, 1.0).kind == GLOBAL


def test_the_reason_has_the_figures_that_decided() -> None:
    base = np.full(412, 0.121)
    better = choose({GLOBAL: base, DITTO: base - 0.008}, 1.0)
    assert better.reason == (
        "ditto: loss 0.113 against 0.121 of global (less by 0.008 +- 0) on 412 held-out rows"
    ).replace("+- 0)", f"+- {gain(base - 0.008, base)[1]:.1g})")
    worse = choose({GLOBAL: base, SHIFTED: base + 0.1}, 1.0)
    assert worse.reason == (
        "global: loss 0.121; the nearest, ditto, local normalisation, has 0.221, which is not "
        "clearly better on 412 held-out rows"
    )
    assert choose({GLOBAL: base}, 1.0).reason.endswith("nothing else to choose from")


@given(st.integers(0, 2**32 - 1), st.floats(0, 3), st.sampled_from([GLOBAL, DITTO, LOCAL]))
def test_what_is_chosen_never_has_a_larger_mean_loss_than_global(
    seed: int, evidence: float, serving: Kind
) -> None:
    random = np.random.default_rng(seed)
    losses = {kind: random.exponential(size=60) for kind in (GLOBAL, TUNED, DITTO, LOCAL)}
    chosen = choose(losses, evidence, serving).kind
    assert losses[chosen].mean() <= losses[GLOBAL].mean()


def test_the_candidates_are_every_model_with_and_without_local_normalisation() -> None:
    every = list(kinds(PersonalTable(), Loss.MSE))
    assert every[0] == GLOBAL
    assert len(every) == len(set(every)) == 8
    shared = [kind for kind in every if kind.normalisation == "shared"]
    assert list(kinds(PersonalTable(), Loss.RECONSTRUCTION)) == shared
    assert list(kinds(PersonalTable(), Loss.MSE, has_own_standard=True)) == shared
    assert list(kinds(PersonalTable(local_normalisation=False), Loss.MSE)) == shared
    assert list(kinds(PersonalTable(models=()), Loss.MSE)) == [GLOBAL]
    only = PersonalTable(models=("ditto",), local_normalisation=False)
    assert list(kinds(only, Loss.MSE)) == [GLOBAL, DITTO]


@pytest.mark.parametrize("shape", [(500, 3), (50, 3, 10), (5, 3, 10, 10)])
def test_local_normalisation_gives_each_column_mean_zero_and_deviation_one(
    shape: tuple[int, ...],
) -> None:
    random = np.random.default_rng(0)
    scale = np.array([0.01, 1.0, 50.0]).reshape(3, *(1,) * (len(shape) - 2))
    x = (random.normal(size=shape) * scale + 7 * scale).astype(np.float32)
    axes = (0, *range(2, len(shape)))
    made = standardised(x, standard_of_rows(x))
    assert made.dtype == np.float32
    assert made.shape == shape
    assert made.mean(axis=axes, dtype=np.float64) == pytest.approx([0, 0, 0], abs=1e-5)
    assert made.std(axis=axes, dtype=np.float64) == pytest.approx([1, 1, 1], abs=1e-5)


def test_a_column_that_never_changes_is_not_blown_up() -> None:
    x = np.full((100, 2), 0.1, np.float32)
    x[:, 1] = 1e6 + np.arange(100) % 2 * 0.0625  # one step of float32
    assert np.array_equal(standard_of_rows(x).deviation, [1.0, 1.0])


def test_each_candidate_trains_as_the_federation_does_but_for_what_makes_it_one() -> None:
    plan = TrainingPlan(
        epochs=2, batch_size=16, optimizer="sgd", learning_rate=0.1, proximal=0.5, average_tail=0.2
    )
    ditto = plan_of("ditto", plan, QUICK)
    assert (ditto.proximal, ditto.epochs, ditto.batch_size) == (QUICK.ditto_proximal, 8, 16)
    assert (ditto.learning_rate, ditto.optimizer) == (0.1, "sgd")
    tuned = plan_of("fine_tuned", plan, msgspec.structs.replace(QUICK, learning_rate=0.02))
    assert (tuned.proximal, tuned.epochs, tuned.learning_rate) == (0.0, 5, 0.02)
    local = plan_of("local", plan, QUICK)
    assert (local.proximal, local.epochs, local.patience, local.average_tail) == (0.0, 15, 3, 0.0)


@dataclass
class Bare:
    """A trainer without a child, which counts."""

    backend: NumpyBackend = BACKEND
    trained: list[TrainingPlan] = field(default_factory=list)
    results: list[TrainingResult] = field(default_factory=list)

    async def train(
        self,
        params: Params,
        x: NDArray[np.float32],
        y: NDArray[Any],
        plan: TrainingPlan,
        *,
        held_out: Labelled | None = None,
    ) -> TrainingResult:
        self.trained.append(plan)
        try:
            self.results.append(train(self.backend, params, x, y, plan, held_out=held_out))
        except TrainingDiverged as error:
            raise CandidateFailed(str(error)) from error
        return self.results[-1]

    async def infer(self, params: Params, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.backend.infer(params, x)


def rows_of(
    number: int, seed: int, *, scale: float = 1.0, offset: float = 0.0, is_opposite: bool = False
) -> Labelled:
    """Label 1 where two values together are large, or where they are not."""
    x = np.random.default_rng(seed).normal(size=(number, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0) != is_opposite
    return x * np.float32(scale) + np.float32(offset), y.astype(np.float32).reshape(-1, 1)


@pytest.fixture(scope="module")
def served() -> Params:
    """Weights that were learned from many rows of ordinary sites."""
    plan = TrainingPlan(epochs=20, batch_size=50, optimizer="adam", learning_rate=0.01)
    return train(BACKEND, INITIAL, *rows_of(3000, 5), plan).params


def making(
    served: Params, plan: TrainingPlan = PLAN, table: PersonalTable = QUICK, **site: Any
) -> tuple[Bare, Making]:
    """What a site makes candidates with; `site` says how its rows differ."""
    trainer = Bare()
    rows = OwnRows(rows_of(200, 6, **site), rows_of(150, 7, **site))
    start = Start(served, INITIAL)
    return trainer, Making(trainer, Loss.BINARY_CROSS_ENTROPY, start, rows, plan, table)


def outcome(served: Params, **site: Any) -> Personalised:
    return asyncio.run(personalise(making(served, **site)[1]))


def test_an_ordinary_site_serves_the_global_model(served: Params) -> None:
    found = outcome(served)
    assert found.chosen.kind == GLOBAL
    assert found.chosen.params is served
    assert len(found.candidates) == len(found.losses) == 4


def test_a_site_whose_answers_are_the_other_way_round_serves_its_own_model(served: Params) -> None:
    found = outcome(served, is_opposite=True)
    assert found.chosen.kind.model == "local"
    assert found.losses[found.chosen.kind].mean() < found.losses[GLOBAL].mean() / 3


def test_a_site_whose_sensors_are_mounted_otherwise_serves_with_local_normalisation(
    served: Params,
) -> None:
    found = outcome(served, table=BOTH, scale=20.0, offset=300.0)
    assert len(found.candidates) == len(found.losses) == 8
    assert found.chosen.kind.normalisation == "local"
    x, y = rows_of(400, 8, scale=20.0, offset=300.0)
    logits = BACKEND.infer(found.chosen.params, found.chosen.inputs(x))
    assert np.mean((logits > 0) == (y > 0.5)) > 0.95


def test_ditto_stays_nearer_to_the_global_model_than_fine_tuning_as_long(served: Params) -> None:
    table = msgspec.structs.replace(QUICK, fine_tune_epochs=8, models=("fine_tuned", "ditto"))
    _, what = making(served, table=table, is_opposite=True)
    found = asyncio.run(personalise(what))
    away = {
        each.kind: float(np.linalg.norm(flatten(each.params) - flatten(served)))
        for each in found.candidates
    }
    assert 0 < away[DITTO] < away[TUNED]


@pytest.mark.parametrize(("number", "searches"), [(200, 5), (1200, 1)])
def test_the_local_model_is_trained_on_all_rows_for_as_long_as_the_searches_found_best(
    served: Params, number: int, searches: int
) -> None:
    table = PersonalTable(
        models=("local",), local_normalisation=False, local_epochs=12, local_patience=3
    )
    trainer, what = making(served, table=table)
    rows = OwnRows(rows_of(number, 9), rows_of(30, 10))
    asyncio.run(personalise(replace(what, rows=rows)))
    *looking, final = trainer.trained
    assert [(plan.epochs, plan.patience) for plan in looking] == [(12, 3)] * searches
    best = [result.best_epoch for result in trainer.results[:-1]]
    assert (final.epochs, final.patience) == (max(1, int(np.median(best))), 0)
    assert trainer.results[-1].examples == final.epochs * number


def test_equal_arguments_give_equal_models(served: Params) -> None:
    first, second = outcome(served, is_opposite=True), outcome(served, is_opposite=True)
    assert first.reason == second.reason
    assert np.array_equal(flatten(first.chosen.params), flatten(second.chosen.params))


def test_a_training_that_diverges_costs_one_candidate_and_is_named(served: Params) -> None:
    wild = TrainingPlan(epochs=2, batch_size=20, optimizer="sgd", learning_rate=1e30)
    _, what = making(served, plan=wild)
    found = asyncio.run(personalise(what))
    assert found.chosen.kind == GLOBAL
    assert set(found.failed) == {TUNED, DITTO, LOCAL}
    assert list(found.losses) == [GLOBAL]


def test_candidates_that_are_known_are_judged_and_not_trained_again(served: Params) -> None:
    trainer, what = making(served, is_opposite=True)
    first = asyncio.run(personalise(what))
    known = [each for each in first.candidates if each.kind.model == "local"]
    kept = Candidate(Kind("local", is_kept=True), first.chosen.params, first.chosen.standard)
    trainings = len(trainer.trained)
    again = asyncio.run(personalise(what, serving=first.chosen.kind, known=(*known, kept)))
    assert len(trainer.trained) - trainings == 2
    assert again.chosen.params is first.chosen.params
    assert len(again.losses) == 5


@pytest.mark.parametrize("number", [50, 51, 63, 200])
def test_every_allowed_number_of_rows_is_enough_to_train_a_local_model(
    served: Params, number: int
) -> None:
    _, what = making(served, table=msgspec.structs.replace(QUICK, models=("local",)))
    rows = OwnRows(rows_of(number, 9), rows_of(30, 10))
    assert LOCAL in asyncio.run(personalise(replace(what, rows=rows))).losses


def test_the_losses_that_choose_are_weighed_by_class_as_training_does(served: Params) -> None:
    weighted = TrainingPlan(
        epochs=2, batch_size=20, optimizer="adam", learning_rate=0.01, class_weights=(1.0, 4.0)
    )
    table = PersonalTable(models=())
    plain = asyncio.run(personalise(making(served, table=table)[1])).losses[GLOBAL]
    heavy = asyncio.run(personalise(making(served, plan=weighted, table=table)[1])).losses[GLOBAL]
    y = rows_of(150, 7)[1].reshape(-1)
    weights = 1 + 3 * y
    assert heavy == pytest.approx(plain * weights / weights.mean())


def classes_of(rows: int, seed: int, lacking: int | None) -> Labelled:
    """Three classes in three directions; one may be absent."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    if lacking is not None:
        y = np.where(y == lacking, (lacking + 1) % 3, y)
    x = rng.normal(size=(rows, 4)) + 1.2 * np.eye(4)[y]
    return x.astype(np.float32), y


@pytest.mark.parametrize("keep_unseen", [False, True])
def test_what_a_site_never_saw_is_forgotten_by_its_own_models_unless_that_is_ruled_out(
    keep_unseen: bool,
) -> None:
    graph = mlp(4, (8,), 3, seed=1)
    backend = NumpyBackend(graph, Loss.CROSS_ENTROPY)
    initial = initial_params(graph)
    plan = TrainingPlan(epochs=20, batch_size=50, optimizer="adam", learning_rate=0.01)
    served = train(backend, initial, *classes_of(3000, 5, None), plan).params
    rows = OwnRows(classes_of(600, 6, lacking=2), classes_of(300, 7, lacking=2))
    table = msgspec.structs.replace(QUICK, keep_unseen=keep_unseen)
    trainer = Bare(backend)
    making = Making(trainer, Loss.CROSS_ENTROPY, Start(served, initial), rows, PLAN, table)
    kept = Candidate(replace(TUNED, is_kept=True), initial)
    found = asyncio.run(personalise(making, serving=TUNED, known=(kept,)))
    x, y = classes_of(600, 8, None)
    known = backend.infer(found.chosen.params, x[y == 2]).argmax(1) == 2
    if keep_unseen:
        assert found.chosen.kind == GLOBAL
        assert known.mean() > 0.6
        assert set(found.failed) == {TUNED, DITTO, LOCAL}
        assert "no row of this site is of class 2" in found.failed[TUNED]
        assert not trainer.trained
    else:
        assert found.chosen.kind != GLOBAL  # better on what the site has
        assert known.mean() < 0.2
        assert not found.failed


def test_a_site_that_has_all_classes_makes_its_models() -> None:
    graph = mlp(4, (8,), 3, seed=1)
    initial = initial_params(graph)
    rows = OwnRows(classes_of(300, 6, None), classes_of(150, 7, None))
    table = msgspec.structs.replace(QUICK, keep_unseen=True)
    trainer = Bare(NumpyBackend(graph, Loss.CROSS_ENTROPY))
    making = Making(trainer, Loss.CROSS_ENTROPY, Start(initial, initial), rows, PLAN, table)
    found = asyncio.run(personalise(making))
    assert not found.failed
    assert found.chosen.kind != GLOBAL  # the served one has learned nothing

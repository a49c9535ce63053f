"""Every kind of job on the live agent: what its rows become, and what they are scored with."""

from typing import Any

import numpy as np
import pytest

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.learning.losses import Loss, example_losses
from agent.learning.plan import TrainingPlan
from agent.learning.train import train
from agent.models import Models
from agent.signals.labels import read_labels
from agent.signals.rows import rows_of
from tests.agent.federation import CHANNELS, Federation, feed, milled
from wire.manifest import Label
from wire.tensors import Params

LABEL = CHANNELS.index("machine_failure")
CLASSES = Label(channel="machine_failure", classes=("fine", "worn", "hot"))
NUMBER = Label(channel="machine_failure", mean=20.0, std=10.0, lowest=0.0, highest=40.0)
JOBS: dict[str, dict[str, Any]] = {
    "flag": {},
    "classes": {"loss": "cross_entropy", "label": CLASSES},
    "number": {"loss": "huber", "label": NUMBER},
    "squared": {"loss": "mse", "label": NUMBER},
    "itself": {"loss": "reconstruction", "label": None},
}


def adopted(federation: Federation, channels: list[str] | None = None) -> Adopted:
    adoption = Adoption(Models(":memory:"), federation.trust, channels or CHANNELS)
    feed(adoption, federation.publish(1))
    assert adoption.current is not None
    return adoption.current


@pytest.fixture(scope="module")
def jobs(federation: Federation) -> dict[str, Adopted]:
    return {name: adopted(federation.learning(**changes)) for name, changes in JOBS.items()}


def test_a_flag_is_0_or_1_and_rows_without_one_are_left_out(jobs: dict[str, Adopted]) -> None:
    rows = milled(5, np.array([0.0, 1.0, np.nan, 0.4, 0.6]))
    examples = jobs["flag"].examples(rows_of(rows))
    assert examples.labels.dtype == np.float32
    assert examples.labels.tolist() == [[0.0], [1.0], [0.0], [1.0]]
    whole = jobs["flag"].examples(rows_of(milled(5))).inputs
    assert np.array_equal(examples.inputs, whole[[0, 1, 3, 4]])
    assert len(examples) == 4
    assert examples.unknown == 0


def test_a_class_that_the_bundle_does_not_name_is_left_out_and_counted(
    jobs: dict[str, Adopted],
) -> None:
    rows = milled(8, np.array([2.0, 0.0, 3.0, -1.0, 1.5, np.nan, 1.0, np.inf]))
    examples = jobs["classes"].examples(rows_of(rows))
    assert examples.labels.dtype == np.int64
    assert examples.labels.tolist() == [2, 0, 1]
    assert examples.unknown == 3
    whole = jobs["classes"].examples(rows_of(milled(8))).inputs
    assert np.array_equal(examples.inputs, whole[[0, 1, 6]])


@pytest.mark.parametrize("job", ["number", "squared"])
def test_a_number_is_clipped_and_scaled(jobs: dict[str, Adopted], job: str) -> None:
    rows = milled(5, np.array([-3.0, 10.0, 20.0, 77.0, np.nan]))
    examples = jobs[job].examples(rows_of(rows))
    assert examples.labels.dtype == np.float32
    assert examples.labels.tolist() == [[-2.0], [-1.0], [0.0], [2.0]]
    assert len(examples.inputs) == 4


def test_a_label_may_be_bounded_on_one_side_alone(jobs: dict[str, Adopted]) -> None:
    manifest = jobs["squared"].model.manifest
    values = np.array([-5.0, 1e300, 5.0])
    above = read_labels(manifest, Label(channel="y", lowest=0.0), values).values
    assert above.tolist() == [[0.0], [float(np.finfo(np.float32).max)], [5.0]]
    below = read_labels(manifest, Label(channel="y", highest=2.0), values).values
    assert below.tolist() == [[-5.0], [2.0], [2.0]]


def test_reconstruction_needs_no_label_and_no_channel_of_one(federation: Federation) -> None:
    job = federation.learning(**JOBS["itself"])
    fewer = [name for name in CHANNELS if name != "machine_failure"]
    current = adopted(job, fewer)
    rows = np.delete(milled(6), LABEL, axis=1)
    examples = current.examples(rows_of(rows))
    assert examples.labels.shape == (6, 0)
    assert examples.labels.dtype == np.float32
    expected = np.mean((current.outputs(current.serve, examples.inputs) - examples.inputs) ** 2, 1)
    assert np.allclose(current.score(current.serve, rows_of(rows)), expected, rtol=1e-5)


def test_scores_say_what_the_loss_means(jobs: dict[str, Adopted]) -> None:
    rows = milled(40)
    outputs, scores = {}, {}
    for name, job in jobs.items():
        outputs[name] = job.outputs(job.serve, job.examples(rows_of(rows)).inputs).astype(
            np.float64
        )
        scores[name] = job.score(job.serve, rows_of(rows))
        assert scores[name].shape == (40,)
        assert scores[name].dtype == np.float64
    logits = outputs["flag"][:, 0]
    assert np.allclose(scores["flag"], 1 / (1 + np.exp(-logits)), rtol=1e-12)
    shares = np.exp(outputs["classes"])
    shares /= shares.sum(axis=1, keepdims=True)
    assert np.allclose(scores["classes"], shares[:, 1] + shares[:, 2], rtol=1e-12)
    assert np.allclose(scores["number"], 20.0 + 10.0 * outputs["number"][:, 0], rtol=1e-12)


def test_a_sure_score_keeps_its_precision(jobs: dict[str, Adopted]) -> None:
    job = jobs["classes"]
    sure: Params = {name: value * 0 for name, value in job.serve.items()}
    last = next(reversed(sure))
    sure[last] = np.array([500.0, 440.0, 440.0], np.float32)
    assert np.allclose(job.score(sure, rows_of(milled(1))), 2 * np.exp(-60.0), rtol=1e-9, atol=0)


def test_a_predicted_number_is_no_alarm_and_a_probability_is(jobs: dict[str, Adopted]) -> None:
    scores = np.array([0.1, 0.5, 0.9])
    assert jobs["number"].model.alarms(scores).tolist() == [False, False, False]
    for name in ("flag", "classes", "itself"):
        assert jobs[name].model.alarms(scores).tolist() == [False, True, True]


@pytest.mark.parametrize("name", list(JOBS))
def test_examples_are_what_training_takes(jobs: dict[str, Adopted], name: str) -> None:
    job, rows = jobs[name], milled(300)
    rows[:, LABEL] = {"flag": rows[:, 4] > 120, "classes": rows[:, 4] // 81}.get(name, rows[:, 3])
    examples = job.examples(rows_of(rows))
    plan = TrainingPlan(epochs=20, batch_size=32, optimizer="adam", learning_rate=0.01, seed=1)
    result = train(job.model.backend, job.train, examples.inputs, examples.labels, plan)
    target = examples.inputs if name == "itself" else examples.labels
    before, after = (
        example_losses(
            Loss(job.model.manifest.loss), job.outputs(params, examples.inputs), target
        ).mean()
        for params in (job.train, result.params)
    )
    assert after < 0.6 * before

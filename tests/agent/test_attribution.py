"""Attribution: exact where it can be, else complete, and true to why machines failed."""

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.attribution import (
    by_channel,
    contributions,
    integrated_gradients,
    largest_shares,
    why_none,
)
from agent.declared import Autoencoder, Cnn1d, Mlp
from agent.learning.losses import margins
from agent.learning.plan import TrainingPlan
from agent.learning.train import train
from agent.model import Model, prepare
from shopfloor import milling
from tests.agent.federation import Federation
from wire.manifest import Channel, Difference, Label, Level, Mean, OneHot, Window, input_shape
from wire.tensors import Params

CHANNELS = [*"abcd"]
CAUSES = {
    "twf": {"tool_wear"},
    "hdf": {"air_temperature", "process_temperature", "rotational_speed"},
    "pwf": {"torque", "rotational_speed"},
    "osf": {"tool_wear", "torque"},
}
"""By which channels the milling machine decides that it fails (shopfloor/milling.py)."""


def made(federation: Federation, **changes: Any) -> tuple[Model, Params]:
    bundle = federation.learning(**changes).opened
    return prepare(bundle, "numpy"), bundle.weights


def levels(names: list[str]) -> dict[str, Any]:
    return {
        "channel": tuple(Channel(name=name, unit="") for name in names),
        "feature": tuple(Level(channel=name) for name in names),
    }


def examples(model: Model, count: int) -> NDArray[np.float32]:
    random = np.random.default_rng(5)
    shape = (count, *input_shape(model.manifest))
    return (2.0 * random.standard_normal(shape)).astype(np.float32)


def test_of_a_linear_model_each_channel_adds_its_weight_times_its_value(
    federation: Federation,
) -> None:
    model, params = made(federation, family=Mlp(hidden=()))
    weight = next(value for name, value in params.items() if name.endswith("weight"))
    x = examples(model, 1)[0]
    found = contributions(model, params, x, model.outputs(params, x[np.newaxis])[0])
    assert found == pytest.approx(weight.reshape(-1).astype(float) * x, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"family": Mlp(hidden=(32, 16), seed=3)},
        {
            "family": Mlp(hidden=(16,)),
            "loss": "cross_entropy",
            "label": Label(channel="machine_failure", classes=("ok", "wear", "heat")),
        },
        {
            **levels(CHANNELS),
            "window": Window(length=12),
            "family": Cnn1d(widths=(4, 8), kernel=(3, 3), hidden=(6,)),
            "loss": "mse",
        },
    ],
)
def test_contributions_add_up_to_the_margin_less_that_of_the_mean_input(
    federation: Federation, changes: dict[str, Any]
) -> None:
    model, params = made(federation, **changes)
    x = examples(model, 20)
    outputs = model.outputs(params, x)
    nothing = model.outputs(params, np.zeros_like(x[:1]))
    whole = margins(model.loss, outputs) - margins(model.loss, nothing)
    sums = [contributions(model, params, *each).sum() for each in zip(x, outputs, strict=True)]
    assert sums == pytest.approx(whole, abs=0.03 * float(np.abs(whole).max()))
    fine = [integrated_gradients(model, params, each, 1024).sum() for each in x]
    assert fine == pytest.approx(whole, abs=0.001 * float(np.abs(whole).max()))


def test_channels_of_a_reconstruction_share_its_squared_error(federation: Federation) -> None:
    model, params = made(
        federation,
        **levels(CHANNELS),
        window=Window(length=12),
        family=Autoencoder(widths=(4,), kernel=3),
        loss="reconstruction",
        label=None,
    )
    x = examples(model, 1)[0]
    output = x.copy()
    output[2] += 3.0
    output[0, 5] -= 4.0
    assert contributions(model, params, x, output) == pytest.approx(
        [16 / 48, 0.0, 12 * 9 / 48, 0.0], rel=1e-5
    )
    named = largest_shares(model, params, x, output, 3)
    assert [(share.channel, round(share.share, 3)) for share in named] == [(2, 0.871), (0, 0.129)]


def test_features_and_positions_are_summed_by_the_channels_that_they_are_made_of(
    federation: Federation,
) -> None:
    features = (
        OneHot(channel="a", values=(0.0, 1.0)),
        Difference(a="b", b="a"),
        Level(channel="c"),
    )
    three = tuple(Channel(name=name, unit="") for name in "abc")
    model, _ = made(federation, channel=three, feature=features)
    each = np.array([1.0, 2.0, 10.0, -7.0])
    assert by_channel(model.manifest, each).tolist() == [8.0, 5.0, -7.0]
    series = {**levels(CHANNELS), "window": Window(length=3), "family": Cnn1d(widths=(2,))}
    model, _ = made(federation, **series)
    assert by_channel(model.manifest, np.arange(12.0).reshape(4, 3)).tolist() == [3, 12, 21, 30]


def test_images_and_models_of_one_channel_are_not_explained(federation: Federation) -> None:
    manifest = federation.opened.manifest
    assert why_none(manifest) == ""
    image = (Channel(name="camera", unit="", shape=(8, 8)), *manifest.channels)
    assert "images" in why_none(msgspec.structs.replace(manifest, channels=image))
    alone = msgspec.structs.replace(
        manifest,
        channels=(Channel(name="wave", unit="g", shape=(64,)),),
        features=(Mean(channel="wave"),),
    )
    assert "one channel" in why_none(alone)


def test_a_channel_that_the_label_has_nothing_to_do_with_adds_next_to_nothing(
    federation: Federation,
) -> None:
    model, start = made(federation, **levels(CHANNELS), family=Mlp(hidden=(16,)))
    random = np.random.default_rng(2)
    x = random.standard_normal((4000, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0.5).astype(np.float32).reshape(-1, 1)
    plan = TrainingPlan(epochs=15, batch_size=64, optimizer="adam", learning_rate=1e-2)
    params = train(model.backend, start, x, y, plan).params
    outputs = model.outputs(params, x[:200])
    found = [contributions(model, params, *each) for each in zip(x, outputs, strict=False)]
    sizes = np.abs(found).mean(axis=0)
    assert sizes[3] < 0.05 * sizes.sum()
    assert min(sizes[:3]) > 2 * sizes[3]


@pytest.fixture(scope="module")
def milling_model(federation: Federation) -> tuple[Model, Params]:
    """The milling job's network, trained on one machine's products; a missed failure costs six."""
    model, start = made(federation, family=Mlp(hidden=(64, 32)))
    table = milling.generate(10_000, 5)
    labels = table.machine_failure.astype(np.float32).reshape(-1, 1)
    plan = TrainingPlan(
        epochs=15,
        batch_size=64,
        optimizer="adam",
        learning_rate=5e-3,
        last_learning_rate=1e-3,
        average_tail=0.25,
        class_weights=(1.0, 6.0),
        seed=1,
    )
    return model, train(model.backend, start, model.inputs(table.inputs()), labels, plan).params


@pytest.mark.parametrize("mode", CAUSES)
def test_alarms_of_failing_machines_name_first_what_made_them_fail(
    milling_model: tuple[Model, Params], mode: str
) -> None:
    model, params = milling_model
    table = milling.generate(20_000, 9)
    others = np.any([getattr(table, each) for each in CAUSES if each != mode], axis=0)
    alarms = model.alarms(model.score(params, table.inputs()))
    chosen = table.take(getattr(table, mode) & ~others & alarms)
    x = model.inputs(chosen.inputs())
    outputs = model.outputs(params, x)
    named = [
        [model.channels[share.channel] for share in largest_shares(model, params, *each, 3)]
        for each in zip(x, outputs, strict=True)
    ]
    assert len(named) >= 15
    assert np.mean([names[0] in CAUSES[mode] for names in named]) >= 0.8
    assert np.mean([bool(CAUSES[mode] & {*names}) for names in named]) >= 0.95


def test_an_alarm_is_driven_by_what_speaks_for_it_alone(
    milling_model: tuple[Model, Params],
) -> None:
    model, params = milling_model
    x = model.inputs(milling.generate(3000, 11).inputs())
    outputs = model.outputs(params, x)
    for row in np.flatnonzero(outputs[:, 0] > 0):
        found = contributions(model, params, x[row], outputs[row])
        named = largest_shares(model, params, x[row], outputs[row], 5)
        assert {share.channel for share in named} == {*np.flatnonzero(found > 0)}
        shares = [share.share for share in named]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(found[found > 0].sum() / np.abs(found).sum())

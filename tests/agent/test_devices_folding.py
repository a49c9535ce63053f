"""A model for a device takes samples, and gives what the served model gives for its inputs."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.authoring import BundleSettings, build_bundle, read_bundle_settings
from agent.declared import Mlp
from agent.devices.exporting import exported
from agent.devices.folding import NotForDevicesError, folded, scaling_of
from agent.learning.personalise import GLOBAL, Candidate
from agent.models import Models
from agent.own_model import Serving
from agent.signals.rows import rows_of
from tests.agent.federation import FEDERATION, Federation, feed, found_federation
from wire.manifest import Level

JOB = Path(__file__).parents[2] / "configs" / "jobs" / "microcontroller.toml"
NAMES = ["slow", "fast", "product"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return found_federation(tmp_path_factory.mktemp("keys") / "keys")


def job() -> BundleSettings:
    return read_bundle_settings(JOB)


def adopted_of(federation: Federation, settings: BundleSettings) -> tuple[Adopted, Serving]:
    bundle = build_bundle(JOB, settings, FEDERATION, federation.author)
    found = Federation(
        federation.keys,
        federation.root,
        federation.trust,
        federation.coordinator,
        federation.author,
        bundle,
    )
    adoption = Adoption(Models(":memory:"), federation.trust, NAMES)
    feed(adoption, found.publish(1))
    adopted = adoption.current
    assert adopted is not None
    digest = adopted.head.serve.content.digest
    return adopted, Serving(Candidate(GLOBAL, adopted.serve), digest)


def of_rows(means: Sequence[float]) -> BundleSettings:
    """The same job over single rows, into dense layers."""
    features = tuple(
        Level(channel=name, mean=mean, std=0.5 + at)
        for at, (name, mean) in enumerate(zip(NAMES, means, strict=True))
    )
    return msgspec.structs.replace(job(), window=None, family=Mlp(hidden=(5,)), feature=features)


@pytest.mark.parametrize("form", ["windows", "rows"])
def test_the_folded_model_gives_for_samples_what_the_served_one_gives_for_inputs(
    federation: Federation, form: str
) -> None:
    settings = job() if form == "windows" else of_rows([40.0, -3.0, 0.5])
    adopted, serving = adopted_of(federation, settings)
    scaling = scaling_of(adopted, serving, NAMES)
    params = folded(adopted.model.graph, serving.params, scaling)
    values = np.random.default_rng(0).normal(size=(80, 3)) * 3 + 1
    live = adopted.live(rows_of(values))
    expected = adopted.outputs(serving.params, live.inputs)
    samples = scaling.samples(live.inputs)
    np.testing.assert_allclose(
        samples[0].T[-1] if form == "windows" else samples[0],
        values[live.ends[0]],
        rtol=1e-5,
        atol=1e-5,
    )
    given = adopted.model.outputs(params, samples)
    np.testing.assert_allclose(given, expected, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(scaling.inputs(samples), live.inputs, rtol=1e-5, atol=1e-5)


def test_what_no_device_can_take_is_refused_with_the_reason(federation: Federation) -> None:
    adopted, serving = adopted_of(federation, job())
    with pytest.raises(NotForDevicesError, match="in its order"):
        scaling_of(adopted, serving, ["fast", "slow", "product"])
    with pytest.raises(NotForDevicesError, match="the device's stream is slow, fast"):
        scaling_of(adopted, serving, ["slow", "fast"])
    shifted = tuple(msgspec.structs.replace(each, mean=2.0) for each in job().feature)
    adopted, serving = adopted_of(federation, msgspec.structs.replace(job(), feature=shifted))
    scaling = scaling_of(adopted, serving, NAMES)
    with pytest.raises(NotForDevicesError, match="first convolution pads"):
        folded(adopted.model.graph, serving.params, scaling)


def test_bytes_that_are_no_model_end_in_words_not_in_a_crash() -> None:
    made = exported(b"no graph", {"w": np.zeros(1, np.float32)}, np.zeros((1, 1), np.float32))
    with pytest.raises(NotForDevicesError, match="it has no int8 form"):
        asyncio.run(made)

"""Where version 0 comes from: the bundle, chance, a file, or one site's own first training."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from coordinator.federation import Federation
from coordinator.initial import InitialSettings, first_weights
from coordinator.store import Store
from tests.coordinator.small_federation import (
    MANIFEST,
    PARAMS,
    Site,
    enrol,
    identity,
    open_federation,
    settings,
    start_params,
)
from wire.errors import MalformedError
from wire.manifest import Tensor
from wire.tensors import flatten, read_params, write_params

ALONE = '[strategy]\ngoal = 3\n[initial]\nsource = "site"\nsite = "site-a"\nversions = 2\n'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


def test_the_bundles_weights_are_the_default(tmp_path: Path) -> None:
    found = first_weights(InitialSettings(), MANIFEST, PARAMS, tmp_path)
    assert np.array_equal(flatten(found), start_params())


def test_random_weights_have_each_tensors_mean_and_deviation_and_depend_on_the_seed(
    tmp_path: Path,
) -> None:
    one, other, again = (
        first_weights(InitialSettings(source="random", seed=seed), MANIFEST, PARAMS, tmp_path)
        for seed in (1, 2, 1)
    )
    assert np.array_equal(flatten(one), flatten(again))
    assert not np.array_equal(one["w"], other["w"])
    assert one["w"].std() == pytest.approx(PARAMS["w"].std(), rel=0.1)
    assert not one["b"].any()  # constant in the bundle


def test_weights_of_a_file_are_taken_whole_or_without_the_local_tensors(tmp_path: Path) -> None:
    weights = {name: tensor + 1 for name, tensor in PARAMS.items()}
    file = tmp_path / "start.safetensors"
    file.write_bytes(write_params(weights))
    from_file = InitialSettings(source="file", file="start.safetensors")
    assert np.array_equal(first_weights(from_file, MANIFEST, PARAMS, file)["w"], weights["w"])
    local = Tensor(name="b", shape=(12,), local=True)
    partly = msgspec.structs.replace(MANIFEST, tensors=(MANIFEST.tensors[0], local))
    assert list(first_weights(from_file, partly, PARAMS, file)) == ["w"]


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "start.safetensors"
    file.write_bytes(write_params({"w": np.zeros((2, 2), np.float32)}))
    with pytest.raises(MalformedError, match="do not match the manifest"):
        first_weights(InitialSettings(source="file"), MANIFEST, PARAMS, file)


def test_a_federation_begins_with_the_weights_it_is_given(store: Store) -> None:
    other = {name: tensor * 2 for name, tensor in PARAMS.items()}
    federation = Federation(store, settings(), replace(identity(), initial=other), 0.0)
    data = store.content(federation.head.train.content.digest)
    assert np.array_equal(flatten(read_params(data, MANIFEST.shapes)), flatten(other))


def test_one_site_alone_makes_the_first_versions_and_then_all_join(store: Store) -> None:
    for agent, site in (("a-1", "site-a"), ("b-1", "site-b")):
        enrol(store, agent, site)
    federation, a, b = open_federation(store, ALONE), Site("a-1"), Site("b-1")
    assert (federation.site_alone, federation.head.policy.admission) == ("site-a", "granted")
    base = federation.head.train
    [(_, early)] = federation.commit([b.update(base)], 1.0).receipts
    assert early.reason == "site site-a trains alone until version 2, now at 0"
    for number in (1, 2):
        federation.commit([a.update(federation.head.train)], 1.0)
        assert federation.head.train.version == number
    assert (federation.site_alone, federation.head.policy.admission) == ("", "open")
    after = [b.update(federation.head.train), a.update(federation.head.train)]
    federation.commit(after, 2.0)
    assert federation.head.train.version == 2  # the goal of three holds now
    assert store.counts() == {"committed": 2, "folded": 2, "refused": 1, "duplicates": 0}

"""Tensors that each site keeps for itself: never in a version, durable here."""

import logging
from pathlib import Path

import numpy as np
import pytest

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.local_tensors import LocalTensors
from agent.model import local_of, shared_of
from agent.models import Models
from agent.signals.rows import rows_of
from tests.agent.federation import CHANNELS, Federation, feed, milled
from wire.chunks import sha256
from wire.errors import MalformedError
from wire.tensors import Params, write_params

HEAD = ["dense1.weight", "dense1.bias"]


@pytest.fixture(scope="module")
def job(federation: Federation) -> Federation:
    return federation.learning(local_tensors=("dense1.*",))


def adoption_at(path: Path, federation: Federation) -> Adoption:
    models = Models(path / "models.db")
    local = LocalTensors(path)
    return Adoption(models, federation.trust, CHANNELS, local_tensors=local)


def in_use(adoption: Adoption) -> Adopted:
    assert adoption.current is not None
    return adoption.current


def same(one: Params, other: Params) -> bool:
    return write_params(one) == write_params(other)


def mixed(job: Federation, shared: Params, local: Params) -> Params:
    return {name: (local if name in HEAD else shared)[name] for name in job.start}


def test_versions_hold_only_shared_tensors_and_a_site_adds_its_own(
    tmp_path: Path, job: Federation
) -> None:
    adoption = adoption_at(tmp_path, job)
    publication = job.publish(
        1, train=job.moved(0.1), serve=job.moved(0.2), candidate=job.moved(0.3)
    )
    manifest = job.opened.manifest
    shared = shared_of(manifest, job.moved(0.1))
    assert publication.head.train.content.size == len(write_params(shared))
    assert list(shared) == ["dense0.weight", "dense0.bias"]
    assert list(local_of(manifest, job.start)) == HEAD
    feed(adoption, publication)
    current = in_use(adoption)
    for step, params in zip(
        (0.1, 0.2, 0.3), (current.train, current.serve, current.candidate), strict=True
    ):
        assert params is not None
        assert same(params, mixed(job, job.moved(step), job.start))


def test_a_version_that_holds_a_local_tensor_is_refused(
    tmp_path: Path, federation: Federation, job: Federation
) -> None:
    adoption = adoption_at(tmp_path, job)
    feed(adoption, job.publish(1))
    whole = federation.publish(2, train=job.moved(0.1), bundle=job.bundle)
    with pytest.raises(MalformedError, match="do not match the manifest"):
        feed(adoption, whole)
    assert in_use(adoption).head.sequence == 1


def test_what_a_training_made_is_used_with_every_version_and_after_a_restart(
    tmp_path: Path, job: Federation
) -> None:
    adoption = adoption_at(tmp_path, job)
    feed(adoption, job.publish(1, candidate=job.moved(0.3)))
    trained = in_use(adoption)
    adoption.keep_local(trained, job.moved(0.5))
    now = in_use(adoption)
    assert same(now.train, mixed(job, job.start, job.moved(0.5)))
    assert same(now.serve, mixed(job, job.start, job.moved(0.5)))
    assert now.candidate is not None
    assert same(now.candidate, mixed(job, job.moved(0.3), job.moved(0.5)))
    assert same(trained.train, job.start)  # what a training started from does not change under it
    again = adoption_at(tmp_path, job)
    assert same(in_use(again).train, now.train)
    feed(again, job.publish(2, version=1, train=job.moved(1.0)))
    assert same(in_use(again).train, mixed(job, job.moved(1.0), job.moved(0.5)))
    rows = milled(20)
    assert np.array_equal(
        in_use(again).score(in_use(again).train, rows_of(rows)),
        in_use(again).model.score(mixed(job, job.moved(1.0), job.moved(0.5)), rows[:, :5]),
    )


def test_a_training_of_a_bundle_that_is_no_longer_in_use_changes_nothing(
    tmp_path: Path, job: Federation
) -> None:
    adoption = adoption_at(tmp_path, job)
    feed(adoption, job.publish(1))
    trained = in_use(adoption)
    newer = job.learning(local_tensors=("dense1.*",), revision=2)
    feed(adoption, newer.publish(2))
    adoption.keep_local(trained, job.moved(0.5))
    assert same(in_use(adoption).train, job.start)
    assert same(in_use(adoption_at(tmp_path, newer)).train, job.start)


def test_another_bundle_begins_from_its_own_weights(
    tmp_path: Path, job: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    adoption = adoption_at(tmp_path, job)
    feed(adoption, job.publish(1))
    adoption.keep_local(in_use(adoption), job.moved(0.5))
    newer = job.learning(local_tensors=("dense1.*",), revision=2)
    with caplog.at_level(logging.WARNING):
        feed(adoption, newer.publish(2, version=1, train=job.moved(0.1)))
    assert same(in_use(adoption).train, mixed(job, job.moved(0.1), job.start))
    assert f"of another bundle, {sha256(job.bundle).hex()}" in caplog.text


def damaged(data: bytes, bundle: bytes) -> dict[str, bytes]:
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    return {"empty": b"", "cut": data[:-3], "short": data[:20], "flipped": flipped, "junk": bundle}


@pytest.mark.parametrize("case", ["empty", "cut", "short", "flipped", "junk"])
def test_a_damaged_file_costs_what_it_held_and_nothing_else(
    tmp_path: Path, job: Federation, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    adoption = adoption_at(tmp_path, job)
    feed(adoption, job.publish(1))
    adoption.keep_local(in_use(adoption), job.moved(0.5))
    file = tmp_path / "local.tensors"
    file.write_bytes(damaged(file.read_bytes(), job.bundle)[case])
    with caplog.at_level(logging.WARNING):
        again = adoption_at(tmp_path, job)
    assert same(in_use(again).train, job.start)
    assert "begin from the bundle's weights: the file was cut or changed" in caplog.text
    again.keep_local(in_use(again), job.moved(0.7))
    assert same(in_use(adoption_at(tmp_path, job)).train, mixed(job, job.start, job.moved(0.7)))


def test_tensors_that_the_disk_does_not_take_are_held_in_memory(
    tmp_path: Path, job: Federation
) -> None:
    place = tmp_path / "state"
    place.mkdir()
    (place / ".local.tensors.new").mkdir()  # so that no file can be written there
    local = LocalTensors(place)
    manifest, bundle = job.opened.manifest, sha256(job.bundle)
    local.keep(bundle, manifest, job.moved(0.5))
    assert local.problem.startswith("local.tensors: ")
    assert same(local.load(bundle, manifest, job.start), local_of(manifest, job.moved(0.5)))
    assert same(
        LocalTensors(place).load(bundle, manifest, job.start), local_of(manifest, job.start)
    )
    (place / ".local.tensors.new").rmdir()
    local.keep(bundle, manifest, job.moved(0.6))
    assert local.problem == ""
    assert same(
        LocalTensors(place).load(bundle, manifest, job.start), local_of(manifest, job.moved(0.6))
    )


def test_tensors_that_diverged_are_not_kept(tmp_path: Path, job: Federation) -> None:
    adoption = adoption_at(tmp_path, job)
    feed(adoption, job.publish(1))
    adoption.keep_local(in_use(adoption), job.moved(float("nan")))
    assert same(in_use(adoption).train, job.start)
    assert not (tmp_path / "local.tensors").exists()


def test_a_model_that_is_shared_as_a_whole_keeps_no_file(
    tmp_path: Path, federation: Federation
) -> None:
    adoption = adoption_at(tmp_path, federation)
    feed(adoption, federation.publish(1))
    current = in_use(adoption)
    adoption.keep_local(current, federation.moved(0.5))
    assert adoption.current is current
    assert not (tmp_path / "local.tensors").exists()

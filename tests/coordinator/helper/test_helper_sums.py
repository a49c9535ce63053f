"""Two helpers open sums of masked reports exactly, in every ring and bucket by bucket."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from tests.coordinator.helper.secure_trial import NAMES, SITES, Report, Trial, sum_of
from wire.masking import held_by
from wire.messages import Manifest


def true_sum(manifest: Manifest, reports: list[Report], bucket: int) -> NDArray[np.int64]:
    """Sum of coefficient x integers, which nobody but the test can compute."""
    by_digest = {report.digest: report.integers for report in reports}
    total = np.zeros(manifest.count, np.int64)
    for member in manifest.members:
        if member.bucket == bucket:
            total += member.coefficient * by_digest[member.report]
    return total


def opened_by(
    trial: Trial, pair: tuple[int, int], manifest: Manifest, reports: list[Report]
) -> dict[int, NDArray[np.int64]]:
    """The sums of a manifest: one helper gives both its seeds' masks, the other the third's."""
    first, second = pair
    names = [NAMES[first], NAMES[second]]
    envelope, endorsements = trial.endorsed(manifest, names)
    masks = [
        trial.masks(names[0], envelope, endorsements, held_by(first)),
        trial.masks(names[1], envelope, endorsements, [first]),
    ]
    return sum_of(manifest, reports, masks)


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2), (2, 0)])
def test_any_two_helpers_open_the_sum(trial: Trial, pair: tuple[int, int]) -> None:
    reports = trial.five()
    trial.accepted(reports, [NAMES[at] for at in pair])
    manifest = trial.manifest(reports)
    assert opened_by(trial, pair, manifest, reports)[0].tolist() == [50, -100, 150]


@settings(max_examples=12)
@given(
    ring=some.sampled_from([16, 32]),
    weights=some.lists(some.integers(1, 20), min_size=6, max_size=10),
    count=some.integers(1, 300),
    seed=some.integers(0, 1 << 30),
)
def test_sums_of_random_updates_are_exact_bucket_by_bucket(
    ring: int, weights: list[int], count: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), k_min=2)
        reports = [
            trial.update(
                trial.gateway(f"press-{at}", f"site-{at}"),
                random.integers(-127, 128, count),
                weight=weight,
                ring=ring,
            )
            for at, weight in enumerate(weights)
        ]
        buckets = [at % 2 for at in range(len(reports))]
        trial.accepted(reports, NAMES[1:])
        manifest = trial.manifest(reports, buckets, weight_cap=20)
        found = opened_by(trial, (1, 2), manifest, reports)
        assert found.keys() == {0, 1}
        for bucket, total in found.items():
            np.testing.assert_array_equal(total, true_sum(manifest, reports, bucket))
        trial.close()


def test_figures_of_ring_64_are_summed_too(trial: Trial) -> None:
    large: Any = [1 << 38, -(1 << 38) + 1, 7]
    reports = [trial.figures(trial.gateway(f"press-{site}", site), large) for site in SITES]
    trial.accepted(reports)
    manifest = trial.manifest(reports)
    found = opened_by(trial, (2, 1), manifest, reports)[0]
    assert found.tolist() == [5 * value for value in large]


def test_one_helpers_masks_are_not_enough(trial: Trial) -> None:
    reports = trial.five()
    trial.accepted(reports)
    manifest = trial.manifest(reports)
    envelope, endorsements = trial.endorsed(manifest, NAMES[:2])
    masks = [trial.masks(NAMES[0], envelope, endorsements, held_by(0))]
    total = sum_of(manifest, reports, masks)[0]
    assert total.tolist() != [50, -100, 150]

"""The inspection job's rows: who has which patches, and that agents can read them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.authoring import build_draft, read_bundle_settings
from agent.bundle.examples import make_examples
from shopfloor.boards import DESIGNS
from shopfloor.jobs.inspection import (
    CLASSES,
    FILE,
    INSPECTION,
    MOST_BYTES,
    TEST_SHARE,
    generated,
    lacking,
)
from shopfloor.jobs.judging import table_of
from shopfloor.jobs.task import DataError
from tests.agent.replaying import replayed, settings_of
from wire.bundle import read_draft

BOARDS = ("a", "b_2", "c")
IMAGES = 10
EACH = 14  # patches of an image: two of each class


def published(folder: Path, **changed: Any) -> Path:
    """A file of the published form: three designs of ten images, classes in turn."""
    rows = len(BOARDS) * IMAGES * EACH
    number = np.arange(rows)
    patches = (np.random.default_rng(0).random((rows, 2, 64, 64)) < 0.5).astype(np.uint8)
    # The first pixels say which image a patch is of, so that a test sees it in a site's rows.
    patches[:, 0, 0, :8] = np.unpackbits((number // EACH).astype(np.uint8)[:, None], axis=1)
    arrays: dict[str, Any] = {
        "bits": np.packbits(patches.reshape(rows, -1), axis=1),
        "y": (number % len(CLASSES)).astype(np.int8),
        "group": (number // (IMAGES * EACH)).astype(np.int16),
        "image": (number // EACH % IMAGES).astype(np.int32),
        "group_names": np.array(BOARDS),
    }
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / FILE, **(arrays | changed))
    return folder / FILE


def own(folder: Path, **changed: Any) -> Path:
    """A file of one's own: two designs of two images, a patch of each."""
    patch = np.random.default_rng(0).integers(0, 2, (4, 2, 64, 64))
    image, board = np.array(["x", "y", "x", "y"]), np.array([1, 1, 2, 2])
    arrays = {"patch": patch, "defect": np.array([0, 1, 0, 2]), "image": image, "board": board}
    path = folder / "mine.npz"
    np.savez(path, **{key: value for key, value in (arrays | changed).items() if value is not None})
    return path


def images_of(side: dict[str, Any]) -> set[int]:
    return set(np.packbits(side["patch"][:, 0, 0, :8], axis=1)[:, 0].tolist())


def classes_of(side: dict[str, Any]) -> set[int]:
    return set(side["defect"].tolist())


def test_every_design_is_a_site_and_no_image_is_on_both_sides(tmp_path: Path) -> None:
    file = published(tmp_path)
    sites = INSPECTION.read(file, 0)
    assert [site.name for site in sites] == ["a", "b-2", "c"]
    for at, site in enumerate(sites):
        train, test = images_of(site.train), images_of(site.test)
        assert train | test == set(range(at * IMAGES, (at + 1) * IMAGES))
        assert not train & test
        assert len(site.test["defect"]) == TEST_SHARE * IMAGES * EACH
    folder = INSPECTION.read(tmp_path, 0)
    assert all(
        np.array_equal(one.train["patch"], other.train["patch"])
        for one, other in zip(sites, folder, strict=True)
    )
    assert [images_of(site.test) for site in INSPECTION.read(file, 1)] != [
        images_of(site.test) for site in sites
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_site_never_saw_one_class_and_is_judged_on_it(tmp_path: Path, seed: int) -> None:
    check_lacking(INSPECTION.read(published(tmp_path), seed), seed)


def test_generated_sites_have_all_classes_but_one_at_one_site() -> None:
    sites = generated(3, 80, 80)
    assert [site.name for site in sites] == [design.name for design in DESIGNS]
    check_lacking(sites, 3)
    again, other = generated(3, 80, 1)[1], generated(4, 80, 1)[1]
    assert np.array_equal(sites[1].train["patch"], again.train["patch"])
    assert not np.array_equal(sites[1].train["patch"], other.train["patch"])


def check_lacking(sites: Any, seed: int) -> None:
    without, defect = lacking(seed, len(sites))
    everything = set(range(len(CLASSES)))
    for at, site in enumerate(sites):
        assert classes_of(site.train) == (everything - {defect} if at == without else everything)
        assert classes_of(site.test) == everything


def test_every_site_and_every_class_is_lacking_in_turn() -> None:
    found = [lacking(seed) for seed in range(42)]
    assert {site for site, _ in found} == set(range(7))
    assert {defect for _, defect in found} == set(range(1, 7))  # a patch without defect is no class


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    sites = INSPECTION.read(own(tmp_path), 1)
    assert [site.name for site in sites] == ["1", "2"]
    assert all(len(site.train["defect"]) <= 1 and len(site.test["defect"]) == 1 for site in sites)
    assert sites[0].test["patch"].dtype == np.uint8


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"defect": np.array([0, 7, 0, 1])}, r"mine.npz:1:defect: 7 is none of 0 to 6"),
        ({"defect": np.array([0.0, 0.5, 0, 1])}, r"mine.npz:1:defect: 0.5 is none"),
        ({"patch": np.full((4, 2, 64, 64), 255)}, r"mine.npz:0:patch: only 0"),
        ({"patch": np.zeros((4, 64, 64))}, r"need \(N, 2, 64, 64\)"),
        ({"image": np.arange(3)}, r"different lengths: .*image 3"),
        ({"image": None}, r"no array image .*found board, defect, patch"),
        ({"image": np.zeros(4)}, r"design 1 has one image"),
        ({"board": np.array([None] * 4)}, r"can not be read as npz"),  # would need pickle
    ],
)
def test_a_file_of_another_form_is_refused_by_name(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        INSPECTION.read(own(tmp_path, **changed), 0)


def test_a_published_file_with_strange_numbers_is_refused(tmp_path: Path) -> None:
    rows = len(BOARDS) * IMAGES * EACH
    with pytest.raises(DataError, match=r":0:group: 9 is none of 0 to 2"):
        INSPECTION.read(published(tmp_path, group=np.full(rows, 9)), 0)
    with pytest.raises(DataError, match=r"bits is no uint8"):
        INSPECTION.read(published(tmp_path, bits=np.zeros((rows, 7), np.uint8)), 0)


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{FILE}: there is none"):
        INSPECTION.read(tmp_path, 0)
    (tmp_path / FILE).write_bytes(b"no archive")
    with pytest.raises(DataError, match=f"{FILE}: it can not be read as npz"):
        INSPECTION.read(tmp_path, 0)
    assert MOST_BYTES > 13_719 * 2 * 64 * 64  # the published file is far below the bound


def test_patches_written_by_numpy_come_through_the_replay_unchanged(tmp_path: Path) -> None:
    site = generated(0, 20, 1)[2]
    columns: dict[str, Any] = site.train
    np.savez(tmp_path / "radio-1.npz", **columns)
    table = [
        {"name": "patch", "unit": "bit", "column": "patch", "shape": [2, 64, 64]},
        {"name": "defect", "column": "defect"},
    ]
    got = replayed(tmp_path, settings_of(file="radio-*.npz", time_column="time", channel=table))
    assert got.report.problems == {}
    assert got.values(1) == site.train["defect"].tolist()
    assert got.times_s(1).tolist() == pytest.approx((site.train["time"] - 1_700_000_000).tolist())
    seen = np.array([each.value for each in got.arrays])
    assert np.array_equal(seen.reshape(-1, 2, 64, 64), site.train["patch"])


def test_the_bundle_takes_these_columns_and_scales_bits_to_minus_one_and_one() -> None:
    draft = build_draft(INSPECTION.description, read_bundle_settings(INSPECTION.description))
    manifest = read_draft(draft)[0].manifest
    site = generated(0, 1, 20)[6]
    examples = make_examples(manifest, table_of(manifest, site.test, INSPECTION.group, site.name))
    assert examples.x.shape == (len(site.test["defect"]), 2, 64, 64)
    assert np.array_equal(examples.x, 2.0 * site.test["patch"] - 1.0)
    assert np.array_equal(examples.y.reshape(-1), site.test["defect"])
    assert manifest.label is not None
    assert tuple(manifest.label.classes) == CLASSES

"""Patches of circuit boards: what each defect does to the copper, and what a site's file holds."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.authoring import build_draft, read_bundle_settings
from agent.bundle.examples import make_examples
from agent.bundle.main import main as bundle_main
from agent.bundle.tables import read_table
from agent.sensors.replay.npz_rows import npz_rows
from agent.sensors.replay.rows import Point
from agent.sensors.replay.settings import ReplaySettings
from shopfloor.boards import (
    COPPER,
    DEFECTS,
    DESIGNS,
    MOUSEBITE,
    OK,
    OPEN,
    PIN_HOLE,
    SHARES,
    SHORT,
    SIZE,
    SPUR,
    Design,
    draw,
    generate,
    shares_without,
    write_site,
)
from wire.bundle import read_draft

Mask = NDArray[np.bool_]
JOB = Path(__file__).resolve().parents[2] / "configs" / "jobs" / "board.toml"
DRAWN = 6


def pieces(mask: Mask, *, with_corners: bool) -> int:
    """Connected components: every pixel takes the largest number in its piece."""
    number = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    if with_corners:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    while True:
        padded = np.pad(number, 1)
        height, width = mask.shape
        beside = [padded[1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in steps]
        spread = np.where(mask, np.maximum.reduce([number, *beside]), 0)
        if (spread == number).all():
            return len(np.unique(number[mask]))
        number = spread


def holes(copper: Mask) -> int:
    """Pieces without copper that do not reach the patch's rim."""
    outside = np.pad(~copper, 1, constant_values=True)
    return pieces(outside, with_corners=False) - 1


def drawn(design: Design, defect: int) -> list[tuple[Mask, Mask]]:
    rng = np.random.default_rng([DESIGNS.index(design), defect])
    return [draw(design, defect, rng, is_rough=False) for _ in range(DRAWN)]


CHANGES = {OPEN: (1, 0), SHORT: (-1, 0), MOUSEBITE: (0, 0), SPUR: (0, 0), COPPER: (1, 0)}
"""By how much pieces of copper and holes change."""


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
@pytest.mark.parametrize("defect", [*CHANGES, PIN_HOLE])
def test_each_defect_changes_the_pieces_of_copper_as_it_says(design: Design, defect: int) -> None:
    for tested, template in drawn(design, defect):
        added, removed = tested & ~template, template & ~tested
        adds = defect in (SHORT, SPUR, COPPER)
        assert [bool(added.any()), bool(removed.any())] == [adds, not adds]
        more = pieces(tested, with_corners=True) - pieces(template, with_corners=True)
        through = holes(tested) - holes(template)
        if defect == PIN_HOLE:
            assert (more, through) == (0, 1)
        elif defect == SHORT:
            assert more == -1
        else:
            assert (more, through) == CHANGES[defect]


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_without_a_defect_only_edges_are_rough(design: Design) -> None:
    rng = np.random.default_rng(0)
    for _ in range(DRAWN):
        tested, template = draw(design, OK, rng)
        padded = np.pad(template, 1, mode="edge")
        beside = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        is_edge = np.any([each != template for each in beside], axis=0)
        assert not ((tested != template) & ~is_edge).any()
        assert pieces(tested, with_corners=True) == pieces(template, with_corners=True)


def test_one_seed_gives_the_same_patches_and_another_seed_others() -> None:
    first, again, other = (generate(DESIGNS[0], 20, seed) for seed in (1, 1, 2))
    assert (first.patch == again.patch).all()
    assert (first.defect == again.defect).all()
    assert (first.patch != other.patch).any()
    assert first.patch.shape == (20, 2, SIZE, SIZE)
    assert set(np.unique(first.patch)) == {0, 1}


def test_a_site_without_a_class_never_sees_it_and_sees_all_others() -> None:
    defects = generate(DESIGNS[1], 400, 3, shares_without(SPUR)).defect
    assert set(defects.tolist()) == set(DEFECTS) - {SPUR}
    assert sum(SHARES) == pytest.approx(1.0)


def test_no_class_is_told_by_its_template() -> None:
    design = DESIGNS[0]
    bright = [np.mean([template.mean() for _, template in drawn(design, k)]) for k in DEFECTS]
    assert max(bright) - min(bright) < 0.05


@pytest.mark.parametrize(
    "keys",
    [{"width_px": 8}, {"pitch_px": 22}, {"pad_px": 12}, {"angles": ()}, {"roughness": 0.6}],
    ids=lambda keys: next(iter(keys)),
)
def test_a_design_without_room_for_a_defect_is_refused(keys: dict[str, object]) -> None:
    sound: dict[str, object] = {
        "width_px": 14,
        "pitch_px": 28,
        "pad_px": 9,
        "angles": (0,),
        "roughness": 0.1,
    }
    Design("sound", is_square=True, **sound)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="design odd"):
        Design("odd", is_square=True, **(sound | keys))  # type: ignore[arg-type]


def test_wrong_shares_and_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="7 numbers"):
        generate(DESIGNS[0], 5, 0, (1.0, 1.0))
    with pytest.raises(ValueError, match="rows"):
        generate(DESIGNS[0], 0, 0)
    with pytest.raises(ValueError, match="class 7"):
        draw(DESIGNS[0], 7, np.random.default_rng(0))


def test_a_site_s_file_is_read_by_the_job_and_by_the_replay_source(tmp_path: Path) -> None:
    patches, path = generate(DESIGNS[2], 30, 5), tmp_path / "radio.npz"
    write_site(path, patches, DESIGNS[2], start_s=1000.0)
    manifest = read_draft(build_draft(JOB, read_bundle_settings(JOB)))[0].manifest
    examples = make_examples(manifest, read_table(path, manifest, "board", "time"))
    assert (examples.y == patches.defect).all()
    assert (examples.x == 2.0 * patches.patch - 1.0).all()
    settings = ReplaySettings(file=str(path), channel=())
    columns = ["patch", "defect", "time"]
    (rows,) = npz_rows(path, settings, columns, [], Point(0, 0, 1))
    assert np.array_equal(np.asarray(rows.columns["patch"]), patches.patch)
    assert list(rows.columns["time"]) == [1000.0 + row for row in range(30)]


def test_the_job_learns_from_two_sites_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for number, design in enumerate(DESIGNS[:2]):
        files += ["--data", str(tmp_path / f"{design.name}.npz")]
        write_site(Path(files[-1]), generate(design, 60, number), design)
    draft = tmp_path / "board.draft"
    assert bundle_main(["build", str(JOB), "--out", str(draft)]) == 0
    arguments = ["test", str(draft), *files, "--time", "time", "--epochs", "1", "--rounds", "1"]
    assert bundle_main(arguments) == 0
    told = capsys.readouterr().out
    assert "sensor.npz alone" in told
    assert "together" in told

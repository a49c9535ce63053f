"""The simulated line: its optimum is one, its sites see corners of it, its tables repeat."""

from pathlib import Path

import numpy as np
import pytest

from shopfloor.line import (
    CONDITIONS,
    DRIFT_KWH_T,
    NOISE_KWH_T,
    REGIMES,
    SETTINGS,
    SITES,
    draw_conditions,
    generate,
    optimum,
    truth,
    write_csv,
)

LOW, HIGH = np.array(list(SETTINGS.values())).T


def test_no_set_points_are_better_than_the_optimum() -> None:
    conditions = draw_conditions(20, seed=1)
    settings, energy = optimum(conditions)
    assert np.allclose(energy, truth(settings, conditions))
    tried = np.random.default_rng(0).uniform(LOW, HIGH, (20_000, 3))
    for row, best in zip(conditions, energy, strict=True):
        assert truth(tried, row).min() > best


def test_each_set_point_has_too_little_and_too_much() -> None:
    conditions = draw_conditions(30, seed=2)
    settings, energy = optimum(conditions)
    assert (settings > LOW).all()
    assert (settings < HIGH).all()
    for at in range(3):
        for step in (-0.05, 0.05):
            moved = settings.copy()
            moved[:, at] += step * (HIGH - LOW)[at]
            assert (truth(np.clip(moved, LOW, HIGH), conditions) > energy).all()


def test_the_best_set_points_depend_on_the_conditions() -> None:
    conditions = np.tile(draw_conditions(1, seed=3), (2, 1))
    thickness = list(CONDITIONS).index("thickness")
    conditions[:, thickness] = 80.0, 125.0
    thin, thick = optimum(conditions)[0]
    assert thin[1] > 1.5 * thick[1]  # a thick slab needs longer
    worn = conditions.copy()
    worn[:, list(CONDITIONS).index("burner_wear")] = 0.0, 180.0
    assert np.diff(optimum(worn)[0][:, 2])[0] > 3.0  # worn burners need more air


def test_no_site_runs_where_the_optimum_is() -> None:
    best = optimum(draw_conditions(60, seed=4))[0]
    for regime in REGIMES:
        low, high = np.array(regime).T
        assert ((best >= low) & (best <= high)).all(axis=1).mean() < 0.35
    everywhere = np.array(REGIMES)
    assert (everywhere[:, :, 0].min(axis=0) < best).all()
    assert (best < everywhere[:, :, 1].max(axis=0)).all()


def test_a_site_keeps_to_its_regime_and_its_meter_is_as_noisy_as_said() -> None:
    for site in range(SITES):
        line = generate(site, 3000, seed=5)
        low, high = np.array(REGIMES[site]).T
        assert (line.settings >= low).all()
        assert (line.settings <= high).all()
        errors = line.energy - truth(line.settings, line.conditions)
        assert errors.std() == pytest.approx(np.hypot(NOISE_KWH_T, DRIFT_KWH_T), rel=0.25)


def test_one_seed_gives_one_table_and_another_seed_another() -> None:
    one, same, other = (generate(2, 50, seed).energy for seed in (7, 7, 8))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_what_is_out_of_range_is_refused_by_name() -> None:
    conditions = draw_conditions(1, seed=0)
    with pytest.raises(ValueError, match="line_speed must be"):
        truth(np.array([1200.0, 9.0, 10.0]), conditions)
    with pytest.raises(ValueError, match="site must be 0 to 4"):
        generate(5, 10, seed=0)
    with pytest.raises(ValueError, match="need 5 in the last axis"):
        optimum(conditions[:, :4])


def test_a_written_table_has_every_channel_by_name(tmp_path: Path) -> None:
    line = generate(0, 5, seed=0)
    write_csv(line, tmp_path / "site.csv")
    read = np.genfromtxt(tmp_path / "site.csv", delimiter=",", names=True)
    for name, column in line.columns.items():
        assert np.allclose(read[name], column, atol=1e-3), name

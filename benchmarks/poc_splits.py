"""Writes the proof of concept's splits and initial weights as files, one a seed.

What runs outside our environment, Flower, reads them, so that both sides train the same rows from
the same start.  The file is a numpy archive: `x_train` (N, 5) float64 raw, `y_train` (N,) bool,
`site_train` (N,) U1, the same with `_test`; `mean` and `std` (5,); `dense0.weight` (out, in) and so
on, float32.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shopfloor.milling import Table, split_held_out

HELD_OUT_SHARE = 0.2


def write_splits(
    table: Table,
    seeds: Iterable[int],
    folder: Path,
    standard: tuple[NDArray[np.float64], NDArray[np.float64]],
    initial: Mapping[int, Mapping[str, NDArray[np.float32]]],
) -> None:
    """Write `folder/seed{S}.npz` for each seed.

    Args:
      table: all rows; a site is a quality.
      seeds: of the splits.
      folder: made if absent.
      standard: mean and standard deviation of the inputs, each float64, shape (5,).
      initial: seed -> tensor name -> float32 initial weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs = table.inputs()
    for seed in seeds:
        arrays: dict[str, NDArray[np.generic]] = {"mean": standard[0], "std": standard[1]}
        train, held_out = split_held_out(table, HELD_OUT_SHARE, seed)
        for part, index in (("train", train), ("test", held_out)):
            arrays[f"x_{part}"] = inputs[index]
            arrays[f"y_{part}"] = table.machine_failure[index]
            arrays[f"site_{part}"] = table.quality[index]
        np.savez(folder / f"seed{seed}.npz", **arrays, **initial[seed])  # type: ignore[arg-type]

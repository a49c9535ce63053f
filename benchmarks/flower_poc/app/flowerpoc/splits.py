"""Reads the split files that `benchmarks/poc_splits.py` writes, stacked over the seeds.

Every site has the same number of rows under every seed, because the split is stratified; so all
seeds' models train in one stacked pass.  Files for which that is not so are refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SITES = ("L", "M", "H")


@dataclass(frozen=True)
class Rows:
    """Rows of all seeds.

    Attributes:
      x: float32, shape (S, N, F), standardised.
      y: float32, shape (S, N), 0 or 1.
      site: dtype U1, shape (S, N).
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    site: NDArray[np.str_]


def parse_seeds(text: str) -> list[int]:
    """Parse `0-9` or `0,3,7` (or a mix) into a list of seeds.

    Raises:
      ValueError: if a part is not a number or a range of numbers.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds.extend(range(int(first), int(last or first) + 1))
    return seeds


def split_file(folder: Path, seed: int) -> Path:
    """Where the split of `seed` lies."""
    return folder / f"seed{seed}.npz"


def training_rows(folder: Path, seeds: Iterable[int], site: str) -> Rows:
    """Read one site's training rows of every seed."""
    return _stacked(folder, seeds, "train", site)


def held_out_rows(folder: Path, seeds: Iterable[int]) -> Rows:
    """Read all sites' held-out rows of every seed."""
    return _stacked(folder, seeds, "test", None)


def initial_tensors(folder: Path, seeds: Iterable[int]) -> dict[str, NDArray[np.float32]]:
    """Read the initial weights: name -> float32, shape (S, ...); a weight is (S, out, in)."""
    stacked: dict[str, list[NDArray[np.float32]]] = {}
    for seed in seeds:
        with np.load(split_file(folder, seed), allow_pickle=False) as file:
            for name in sorted(n for n in file.files if n.startswith("dense")):
                stacked.setdefault(name, []).append(file[name].astype(np.float32))
    return {name: np.stack(parts) for name, parts in stacked.items()}


def _stacked(folder: Path, seeds: Iterable[int], part: str, site: str | None) -> Rows:
    columns: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.str_]]] = []
    for seed in seeds:
        with np.load(split_file(folder, seed), allow_pickle=False) as file:
            sites = file[f"site_{part}"]
            chosen = np.ones(len(sites), np.bool_) if site is None else sites == site
            x = (file[f"x_{part}"][chosen] - file["mean"]) / file["std"]
            columns.append(
                (x.astype(np.float32), file[f"y_{part}"][chosen].astype(np.float32), sites[chosen])
            )
    if len({len(y) for _, y, _ in columns}) != 1:
        raise ValueError(f"{folder}: {part} rows of {site or 'all sites'} differ between the seeds")
    return Rows(*(np.stack(parts) for parts in zip(*columns, strict=True)))

"""Federated statistics: means and deviations of all sites' rows from sums, without any row.

Pure.  For a bundle with `standardise = "federated"`: each site reports, for every column of its
inputs, how many numbers there are, their sum and the sum of their squares; these add, and give the
mean and the population deviation of the pooled rows.  This is the textbook algorithm of T. F. Chan,
G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance", The American
Statistician 37 (1983); `wire/standards.py` bounds its rounding.

Refuses what can not be sums over rows.  Invariant: a sum over sites is rounded once (`math.fsum`),
so the order in which sites report can not change a bit of the file, and so not its SHA-256.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from wire.errors import MalformedError
from wire.messages import Statistics
from wire.standards import Standard, standard_of

_SLACK = 1e-9
"""Share of the squared mean by which rounding may make a site's variance negative."""


def missing_sites(sites: Iterable[str], quorum: int, k_min: int) -> int:
    """How many more sites have to report before statistics of all may be published; 0: enough.

    Args:
      sites: of the agents that have reported, in any order; a site counts once.
      quorum: as many as the operator wants behind them.
      k_min: least number of distinct sites behind any published sum, the charter's.
    """
    return max(0, max(quorum, k_min) - len(set(sites)))


def problem_of(statistics: Statistics, bundle: bytes, columns: int) -> str:
    """Why a report can not be taken, in words; empty when it can.

    Args:
      statistics: as reported.
      bundle: SHA-256 of the bundle that statistics are gathered for.
      columns: how many its features give.
    """
    lengths = {len(statistics.sums), len(statistics.squares)}
    if statistics.bundle != bundle:
        return f"statistics are about another bundle, {statistics.bundle.hex()}"
    if lengths != {columns}:
        found = f"{len(statistics.sums)} sums and {len(statistics.squares)} squares"
        return f"statistics hold {found}, the bundle's features make {columns} columns"
    if not statistics.count:
        return "statistics are about no rows"
    sums, squares = np.array(statistics.sums), np.array(statistics.squares)
    if not (np.isfinite(sums).all() and np.isfinite(squares).all()):
        return "statistics hold a number that is not finite"
    mean_square = (sums / statistics.count) ** 2
    impossible = np.flatnonzero(squares / statistics.count < mean_square * (1 - _SLACK))
    if impossible.size:
        return f"column {impossible[0]}: no rows have this sum and this sum of squares"
    return ""


def combine(reports: Mapping[str, Statistics], bundle: bytes, columns: int) -> Standard:
    """Mean and deviation of each column over the rows of all reports.

    Args:
      reports: at least one, by the agent's name.
      bundle: SHA-256 of the bundle that they are about.
      columns: how many its features give.

    Returns:
      float64 means and deviations, a deviation of 1 for a column that never changes;
      `wire.standards.write_standard` makes the bytes that a head names.

    Raises:
      MalformedError: there is none, or one can not be taken (`problem_of`); names whose.
    """
    if not reports:
        raise MalformedError("no site has reported statistics")
    for agent, statistics in reports.items():
        problem = problem_of(statistics, bundle, columns)
        if problem:
            raise MalformedError(f"{agent}: {problem}")
    return standard_of(
        sum(each.count for each in reports.values()),
        _added([each.sums for each in reports.values()]),
        _added([each.squares for each in reports.values()]),
    )


def _added(rows: list[tuple[float, ...]]) -> NDArray[np.float64]:
    """Sum of each column, rounded once."""
    return np.array([math.fsum(column) for column in zip(*rows, strict=True)], np.float64)

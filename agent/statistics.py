"""What a site says about its inputs, so that all sites can be standardised alike.

Sums over training rows leave the site, never a row; the coordinator adds those of several sites
(`coordinator/site_statistics.py`), and every site then standardises by the same means and
deviations.  Nothing is said of a bundle that does not ask for it.
"""

import logging

import numpy as np

from agent.adopted import Adopted
from agent.signals.features import Moments
from agent.signals.rows import Rows
from wire.manifest import Feature, columns, describe
from wire.messages import Statistics

logger = logging.getLogger(__name__)

_LARGEST = 1e24
"""The range of `wire.messages.Sum`."""


def statistics_of(adopted: Adopted, rows: Rows) -> Statistics | None:
    """Sums of the inputs, before standardising, over training rows.

    Args:
      adopted: the head in use.
      rows: training rows of this agent's channels.

    Returns:
      The statistics; None for a bundle that is not standardised by those of all sites, without
      rows, and, with a log line, when a sum is larger than a message holds.
    """
    manifest = adopted.model.manifest
    if manifest.standardise != "federated" or not len(rows):
        return None
    moments = adopted.moments(rows)
    if not moments.count:
        return None
    too_large = _too_large(manifest.features, moments)
    if too_large:
        logger.warning("no statistics are told: %s is too large; check its channel", too_large)
        return None
    return Statistics(
        bundle=adopted.head.bundle.digest,
        count=moments.count,
        sums=tuple(moments.sums.tolist()),
        squares=tuple(moments.squares.tolist()),
    )


def _too_large(features: tuple[Feature, ...], moments: Moments) -> str:
    """The first feature whose sums do not fit a message, in words; empty when all do."""
    fits = (np.abs(moments.sums) <= _LARGEST) & (moments.squares <= _LARGEST)
    of_column = [feature for feature in features for _ in range(columns(feature))]
    wrong = np.flatnonzero(~fits)
    return describe(of_column[wrong[0]]) if wrong.size else ""

"""Late deliveries and odd orders, learned across manufacturing sites of two tiers.

Responsible for the sites' orders as rows: of the published SCMS delivery history, or simulated
(`shopfloor/orders.py`).  All sites are split at one day: the orders of the last quarter judge, and
no training sees one of those days.

Beside the channels each site's rows hold its customers, its prices and, simulated, its stock
(`CANARIES`): they lie in the site's file as they would at a real one, no bundle names them and no
agent is told to read them.  A test searches all that leaves a gateway for them
(`tests/shopfloor/test_nothing_of_a_customer_leaves.py`).
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shopfloor.jobs.task import TIME, Columns, DataError, SiteRows, Task
from shopfloor.order_history import OTHERS, History, OrdersError, read_histories
from shopfloor.orders import CHANNELS, LABEL, PLANTS, SCHEDULED, generate, make_odd

TEST_SHARE: Final = 0.25
ODD_SHARE: Final = 0.1
ODD: Final = "odd"
"""1 for an order that was made odd: what judges the detector, and no channel."""
ROWS: Final = 900
"""Orders of a simulated site, two years."""
STAND_IN: Final = 0.5
"""Share of a simulated site's last orders that it takes over from the next one of its tier."""
CANARIES: Final = MappingProxyType(
    {"customer": 8_675_309.25, "unit_price": 4_242_424.0625, "stock": 1_234_567.125}
)
"""Where the numbers of a simulated site's private columns begin: nothing else has such numbers."""
LEVELS: Final = 20
"""Different customers, prices and stocks of a simulated site."""
LEAST_SITES: Final = 2

_DAY_S: Final = 86_400.0
_EPOCH: Final = date(1970, 1, 1).toordinal()
_START: Final = date(2025, 1, 1).toordinal()
_LONGEST_NAME: Final = 40
_HINT: Final = "give the SCMS delivery history (CSV, plain or gzip) or the folder that holds it"


def late_sites(histories: Sequence[History]) -> list[SiteRows]:
    """Rows of sites that learn which orders will be late.

    Raises:
      DataError: there is nothing to learn or to judge by.
    """
    border, known = _split(histories)
    for is_test in (False, True):
        late = np.concatenate([_label(each, border, is_test=is_test) for each in known])
        if late.all() or not late.any():
            raise DataError(
                f"{'after' if is_test else 'until'} {_day(border)} all orders are late or none is;"
                " give a history with some of both before that day and after it"
            )
    names = _names(known)
    return [
        SiteRows(name, *(_rows(each, _side(each, border, is_test=side)) for side in (False, True)))
        for name, each in zip(names, known, strict=True)
    ]


def odd_sites(histories: Sequence[History], seed: int) -> list[SiteRows]:
    """Rows of sites that learn what orders look like; of those that judge a tenth is made odd.

    Raises:
      DataError: there is nothing to learn or to judge by.
    """
    border, known = _split(histories)
    sites = []
    for at, (name, each) in enumerate(zip(_names(known), known, strict=True)):
        train, test = (_rows(each, _side(each, border, is_test=side)) for side in (False, True))
        changed, kinds = make_odd(test, ODD_SHARE, seed * len(known) + at)
        sites.append(SiteRows(name, train, changed | {ODD: (kinds >= 0).astype(np.float64)}))
    return sites


def simulated(seed: int, rows: int = ROWS) -> list[History]:
    """The simulated sites with their private columns; days are counted as those of a calendar."""
    made = []
    for at, plant in enumerate(PLANTS):
        columns = generate(at, rows, seed)
        days = columns[SCHEDULED] + _START
        made.append(
            History(plant.name, columns | {SCHEDULED: days}, _private(at, len(PLANTS), rows, seed))
        )
    return made


def standing_in(histories: Sequence[History], seed: int) -> list[History]:
    """Simulated sites half of whose last orders are such as the next site of the tier used to get.

    A line stands still, and its orders move: what a site alone never saw, another site knows well.
    """
    border, _ = _split(histories)
    tiers = [plant.tier for plant in PLANTS]
    changed = []
    for at, history in enumerate(histories):
        mates = [site for site, tier in enumerate(tiers) if tier == tiers[at]]
        mate = mates[(mates.index(at) + 1) % len(mates)]
        last = np.flatnonzero(_side(history, border, is_test=True))
        rng = np.random.default_rng([seed, at])
        moved = np.sort(rng.permutation(last)[: round(STAND_IN * len(last))])
        taken = generate(mate, len(moved), seed + len(PLANTS))
        columns = {name: values.copy() for name, values in history.columns.items()}
        for name in set(CHANNELS) - {"day_of_month"}:
            columns[name][moved] = taken[name]
        changed.append(replace(history, columns=columns))
    return changed


def _private(site: int, sites: int, rows: int, seed: int) -> Columns:
    rng = np.random.default_rng([seed, sites, site])
    return {
        name: first + LEVELS * site + rng.integers(0, LEVELS, rows)
        for name, first in CANARIES.items()
    }


def _split(histories: Sequence[History]) -> tuple[float, list[History]]:
    """The last day to learn from, and the sites that have orders on both sides of it.

    Orders of sites without are counted as those of other sites.
    """
    border = float(
        np.quantile(np.concatenate([each.columns[SCHEDULED] for each in histories]), 1 - TEST_SHARE)
    )

    def is_on_both_sides(each: History) -> bool:
        after = _side(each, border, is_test=True)
        return bool(after.any() and not after.all())

    own = [each for each in histories if each.site != OTHERS and is_on_both_sides(each)]
    rest = _joined([each for each in histories if each not in own])
    known = own + [each for each in rest if is_on_both_sides(each)]
    if len(known) < LEAST_SITES:
        raise DataError(
            f"{len(known)} sites have orders both until {_day(border)} and after it; a federation "
            "needs two: give a longer history or more sites"
        )
    return border, known


def _joined(histories: Sequence[History]) -> list[History]:
    if not histories:
        return []
    days = np.concatenate([each.columns[SCHEDULED] for each in histories])
    order = np.argsort(days, kind="stable")

    def together(parts: Sequence[Columns]) -> Columns:
        return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}

    columns = together([each.columns for each in histories])
    return [History(OTHERS, columns, together([each.private for each in histories]))]


def _side(history: History, border: float, *, is_test: bool) -> NDArray[np.bool_]:
    after = history.columns[SCHEDULED] > border
    return after if is_test else ~after


def _label(history: History, border: float, *, is_test: bool) -> NDArray[np.bool_]:
    chosen = _side(history, border, is_test=is_test)
    return np.asarray(history.columns[LABEL][chosen] > 0)


def _rows(history: History, chosen: NDArray[np.bool_]) -> Columns:
    """Some orders of a site; those of one day are a second apart, because times have to grow."""
    columns = {name: history.columns[name][chosen] for name in (*CHANNELS, LABEL)}
    private = {name: values[chosen] for name, values in history.private.items()}
    days = history.columns[SCHEDULED][chosen]
    in_day = np.arange(len(days)) - np.searchsorted(days, days)
    return {TIME: (days - _EPOCH) * _DAY_S + in_day, **columns, **private}


def _names(histories: Sequence[History]) -> list[str]:
    """Names of letters, digits and dashes, no two alike."""
    found: list[str] = []
    for each in histories:
        words = re.sub(r"[^a-z0-9]+", "-", each.site.lower()).strip("-")
        short = words[:_LONGEST_NAME].strip("-") or "site"
        tries = (short if at == 1 else f"{short}-{at}" for at in count(1))
        found.append(next(name for name in tries if name not in found))
    return found


def _day(border: float) -> str:
    return date.fromordinal(int(border)).isoformat()


def _generate_late(seed: int) -> list[SiteRows]:
    return late_sites(simulated(seed))


def _generate_odd(seed: int) -> list[SiteRows]:
    return odd_sites(standing_in(simulated(seed), seed), seed)


def _read_late(path: Path, seed: int) -> list[SiteRows]:
    del seed  # the border is a day, not drawn
    histories = _histories(path)
    try:
        return late_sites(histories)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _read_odd(path: Path, seed: int) -> list[SiteRows]:
    histories = _histories(path)
    try:
        return odd_sites(histories, seed)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _histories(path: Path) -> list[History]:
    try:
        return read_histories(path)
    except OrdersError as error:
        raise DataError(f"{error}; {_HINT}") from None
    except OSError as error:
        raise DataError(f"{path}: can not read: {error.strerror or error}; {_HINT}") from None


SUPPLY_CHAIN: Final = Task(
    name="supply-chain",
    title="Supply chain: late deliveries",
    bundle="supply_chain",
    metric="roc_auc",
    generate=_generate_late,
    read=_read_late,
    moving="lead_time",
)
ODD_ORDERS: Final = Task(
    name="odd-orders",
    title="Supply chain: odd orders",
    bundle="order_anomaly",
    metric="roc_auc",
    generate=_generate_odd,
    read=_read_odd,
    moving="quantity",
)

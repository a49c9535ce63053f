"""Order histories of suppliers: which deliveries were late, and which orders are odd.

Responsible for the channels of `configs/jobs/supply_chain.toml` and `order_anomaly.toml`, the
meaning of their codes, six simulated sites of two tiers, and odd orders of known kinds.  Refuses
sites and numbers that do not exist.  Pure but for `write_csv`; invariant: one site and seed give
one table.

A channel is known when the order is placed, and none names a customer, a price or a stock.  Tier 1
makes finished goods, tier 2 what they are made of; both describe an order by the same channels.

The law of lateness is this project's own.  Its mechanism is one for all sites, its rate is not:

    logit P(late) = site's own rate
        + 4.0 * share of the time missing that the mode of transport needs (`NEEDED_DAYS`)
        + 2.0 * log10(lines that share the order)
        + 1.5 in the last week of a month
        + 1.6 to a landlocked country unless by air
        + 1.2 for what must be kept cool (liquids)
        + 0.8 * (log10 of the quantity - 3.5)
        + the region's risk (`REGION_RISK`)

Each site sees its own corner of it, because modes, products and regions are mixed differently.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = dict[str, Floats]
"""Channels and `LABEL` by name, float64 (N,) each; `SCHEDULED` orders them."""

LABEL: Final = "late"
"""1 when the goods came after the scheduled day."""
SCHEDULED: Final = "scheduled"
"""Day for which the delivery is promised, counted from any one day; not an input."""

MODES: Final = ("air", "air charter", "ocean", "truck", "not chosen")
TERMS: Final = ("ex works", "free carrier", "carriage paid", "delivered", "from a warehouse")
PRODUCTS: Final = ("adult", "pediatric", "test kit", "accessory", "other")
FORMS: Final = ("tablet", "combined tablet", "capsule", "liquid", "kit", "other")
REGIONS: Final = ("west", "east", "south", "americas", "asia", "other")
LEADS: Final = ("unknown", "from request", "from order")
"""What `lead_time` counts from; unknown goes with a lead time of 0."""

CHANNELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "lead_time": "d",
        "lead_kind": "type",
        "mode": "type",
        "terms": "type",
        "quantity": "log10 packs",
        "pack_size": "log10 pieces",
        "lines": "log10 lines",
        "day_of_month": "d",
        "product": "type",
        "form": "type",
        "first_line": "flag",
        "region": "type",
        "landlocked": "flag",
    }
)
"""Channel to unit, in the order of the jobs."""

CODES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "lead_kind": LEADS,
        "mode": MODES,
        "terms": TERMS,
        "product": PRODUCTS,
        "form": FORMS,
        "region": REGIONS,
    }
)
"""What the numbers 0, 1, ... of a channel of unit `type` mean."""

NEEDED_DAYS: Final = (60.0, 35.0, 150.0, 80.0, 100.0)
"""Days that an order needs by each of `MODES`."""
REGION_RISK: Final = (0.8, 0.3, -0.5, 0.5, -1.0, 0.0)
"""What each of `REGIONS` adds to the logit."""
MAX_LEAD_DAYS: Final = 400.0
MAX_ROWS: Final = 1_000_000

_DAYS_PER_ORDER: Final = 0.8


@dataclass(frozen=True)
class Plant:
    """A manufacturing site.

    Attributes:
      name: of the site.
      tier: 1 or 2.
      rate: its own part of the logit.
      modes, products, regions: how often each of `MODES`, `PRODUCTS`, `REGIONS` occurs.
    """

    name: str
    tier: int
    rate: float
    modes: tuple[float, ...]
    products: tuple[float, ...]
    regions: tuple[float, ...]


PLANTS: Final = (
    Plant(
        name="tablets-1",
        tier=1,
        rate=-4.9,
        modes=(0.70, 0.08, 0.05, 0.15, 0.02),
        products=(0.80, 0.18, 0.0, 0.0, 0.02),
        regions=(0.30, 0.40, 0.20, 0.05, 0.05, 0.0),
    ),
    Plant(
        name="tablets-2",
        tier=1,
        rate=-4.3,
        modes=(0.30, 0.05, 0.15, 0.50, 0.0),
        products=(0.60, 0.40, 0.0, 0.0, 0.0),
        regions=(0.05, 0.30, 0.60, 0.0, 0.0, 0.05),
    ),
    Plant(
        name="kits",
        tier=1,
        rate=-5.4,
        modes=(0.90, 0.05, 0.0, 0.03, 0.02),
        products=(0.0, 0.0, 0.85, 0.12, 0.03),
        regions=(0.30, 0.20, 0.10, 0.20, 0.20, 0.0),
    ),
    Plant(
        name="ingredients-1",
        tier=2,
        rate=-5.0,
        modes=(0.20, 0.0, 0.60, 0.15, 0.05),
        products=(0.70, 0.20, 0.0, 0.0, 0.10),
        regions=(0.0, 0.10, 0.20, 0.10, 0.60, 0.0),
    ),
    Plant(
        name="ingredients-2",
        tier=2,
        rate=-4.6,
        modes=(0.45, 0.0, 0.20, 0.30, 0.05),
        products=(0.40, 0.50, 0.0, 0.0, 0.10),
        regions=(0.10, 0.10, 0.10, 0.50, 0.10, 0.10),
    ),
    Plant(
        name="reagents",
        tier=2,
        rate=-5.1,
        modes=(0.75, 0.15, 0.0, 0.10, 0.0),
        products=(0.0, 0.0, 0.55, 0.40, 0.05),
        regions=(0.20, 0.20, 0.20, 0.10, 0.20, 0.10),
    ),
)
"""The simulated sites, three of each tier."""

_FORMS_OF: Final = (
    (0.40, 0.40, 0.15, 0.03, 0.0, 0.02),
    (0.20, 0.15, 0.05, 0.60, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.9, 0.1),
    (0.50, 0.0, 0.0, 0.0, 0.0, 0.50),
)
"""How often a product of `PRODUCTS` has each of `FORMS`."""
_TERMS_OF: Final = (
    (0.50, 0.20, 0.05, 0.10, 0.15),
    (0.60, 0.20, 0.0, 0.20, 0.0),
    (0.10, 0.10, 0.40, 0.10, 0.30),
    (0.0, 0.05, 0.0, 0.15, 0.80),
    (0.50, 0.0, 0.0, 0.50, 0.0),
)
"""How often a delivery by a mode of `MODES` has each of `TERMS`."""
_LANDLOCKED_OF: Final = (0.10, 0.55, 0.25, 0.0, 0.20, 0.0)
"""Share of a region's orders that go to a landlocked country."""
_PACK_OF: Final = (1.6, 1.7, 1.6, 2.2, 1.5, 1.0)
"""Log10 of the usual pack of each of `FORMS`."""

ODD_KINDS: Final = ("quantity slip", "pack slip", "wrong form", "too soon by sea", "wrong terms")
"""What can be odd about an order; see `make_odd`."""


def generate(site: int, rows: int, seed: int) -> Columns:
    """Simulate a site's orders, in the order of their scheduled day.

    Args:
      site: 0 to 5, of `PLANTS`.
      rows: orders, 0 to `MAX_ROWS`.
      seed: any integer >= 0.

    Raises:
      ValueError: a number is out of range.
    """
    if not 0 <= site < len(PLANTS):
        raise ValueError(f"site must be 0 to {len(PLANTS) - 1}, not {site}")
    if not 0 <= rows <= MAX_ROWS:
        raise ValueError(f"rows must be 0 to {MAX_ROWS}, not {rows}")
    rng = np.random.default_rng([seed, site])
    columns = _orders(PLANTS[site], rows, rng)
    columns[LABEL] = (rng.random(rows) < late_probability(columns, site)).astype(np.float64)
    return columns


def late_probability(columns: Mapping[str, Floats], site: int) -> Floats:
    """The law that the module's docstring states, float64 (N,), in (0, 1)."""
    mode, form = _integers(columns, "mode"), columns["form"]
    needed = np.array(NEEDED_DAYS)[mode]
    known = columns["lead_kind"] > 0
    missing = np.where(known, np.clip(1.0 - columns["lead_time"] / needed, 0.0, 1.0), 0.0)
    by_air = mode <= MODES.index("air charter")
    logit = (
        PLANTS[site].rate
        + 4.0 * missing
        + 2.0 * columns["lines"]
        + 1.5 * (columns["day_of_month"] >= 25)
        + 1.6 * (columns["landlocked"] * ~by_air)
        + 1.2 * (form == FORMS.index("liquid"))
        + 0.8 * (columns["quantity"] - 3.5)
        + np.array(REGION_RISK)[_integers(columns, "region")]
    )
    probability: Floats = 1.0 / (1.0 + np.exp(-logit))
    return probability


def make_odd(
    columns: Mapping[str, Floats], share: float, seed: int
) -> tuple[Columns, NDArray[np.int64]]:
    """Make a share of the orders odd, each in one way of `ODD_KINDS`.

    A quantity or pack slip is a factor of a thousand; a wrong form is a medicine sold as a kit, or
    the other way round; too soon by sea is an ocean freight within five days of the order; wrong
    terms are a truck on terms of carriage paid, which are a ship's or a plane's.

    Args:
      columns: orders, generated or real; not changed.
      share: of them, 0 to 1, rounded to whole orders.
      seed: any integer >= 0.

    Returns:
      The orders, and for each the number of its kind, or -1 for an ordinary one, int64 (N,).

    Raises:
      ValueError: the share is no share.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must be 0 to 1, not {share}")
    rng = np.random.default_rng([seed, len(PLANTS)])
    rows = len(columns["mode"])
    kinds = np.full(rows, -1, np.int64)
    chosen = rng.permutation(rows)[: round(share * rows)]
    kinds[chosen] = np.arange(len(chosen)) % len(ODD_KINDS)
    odd = {name: column.copy() for name, column in columns.items()}
    slip, pack, form, soon, terms = (kinds == kind for kind in range(len(ODD_KINDS)))
    odd["quantity"][slip] += 3.0
    odd["pack_size"][pack] += 3.0
    is_kit = odd["form"] == FORMS.index("kit")
    odd["form"][form] = np.where(is_kit, FORMS.index("tablet"), FORMS.index("kit"))[form]
    odd["mode"][soon] = MODES.index("ocean")
    odd["lead_kind"][soon] = LEADS.index("from order")
    odd["lead_time"][soon] = rng.integers(1, 6, int(soon.sum()))
    odd["mode"][terms] = MODES.index("truck")
    odd["terms"][terms] = TERMS.index("carriage paid")
    return odd, kinds


def write_csv(columns: Mapping[str, Floats], path: Path) -> None:
    """Write orders with a header, as `journeyman bundle test` reads them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([f"{value:.4g}" if value < 1e4 else f"{value:.0f}" for value in row])


def _orders(plant: Plant, rows: int, rng: np.random.Generator) -> Columns:
    scheduled = np.floor(np.sort(rng.uniform(0.0, max(rows, 1) * _DAYS_PER_ORDER, rows)))
    mode, product, region = (
        rng.choice(len(shares), rows, p=shares)
        for shares in (plant.modes, plant.products, plant.regions)
    )
    form = _given(_FORMS_OF, product, rng)
    lead_kind = rng.choice(len(LEADS), rows, p=(0.1, 0.5, 0.4))
    lead = np.round(np.array(NEEDED_DAYS)[mode] * np.exp(rng.normal(0.3, 0.5, rows)))
    return {
        SCHEDULED: scheduled,
        "lead_time": np.where(lead_kind > 0, np.clip(lead, 1.0, MAX_LEAD_DAYS), 0.0),
        "lead_kind": lead_kind.astype(np.float64),
        "mode": mode.astype(np.float64),
        "terms": _given(_TERMS_OF, mode, rng).astype(np.float64),
        "quantity": np.round(np.clip(rng.normal(3.2, 0.8, rows), 0.0, 6.0), 2),
        "pack_size": np.round(np.array(_PACK_OF)[form] + rng.normal(0.0, 0.15, rows), 2),
        "lines": np.round(np.log10(rng.geometric(0.35, rows)), 2),
        "day_of_month": scheduled % 30.0 + 1.0,
        "product": product.astype(np.float64),
        "form": form.astype(np.float64),
        "first_line": (rng.random(rows) < 0.7).astype(np.float64),
        "region": region.astype(np.float64),
        "landlocked": (rng.random(rows) < np.array(_LANDLOCKED_OF)[region]).astype(np.float64),
    }


def _given(
    shares: tuple[tuple[float, ...], ...], of: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw a code for each row from the shares that belong to another code of it."""
    bounds = np.cumsum(np.array(shares), axis=1)[of]
    drawn = (rng.random(len(of))[:, None] * bounds[:, -1:] >= bounds).sum(axis=1)
    return np.asarray(drawn, np.int64)


def _integers(columns: Mapping[str, Floats], name: str) -> NDArray[np.int64]:
    return columns[name].astype(np.int64)

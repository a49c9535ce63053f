"""A real order history as sites: USAID's Supply Chain Management System, deliveries to 2014.

Responsible for reading the published table (SCMS Delivery History, US public domain), plain or
gzip, and for its orders in the channels of `configs/jobs/supply_chain.toml`.  Refuses a table of
another form, naming file, line and column.  Pure but for the reading.

A channel is made of columns that are known when the order is placed, the label of two dates.  Not
read: what is recorded later (`Delivery Recorded Date`, weight, freight, insurance).  `Country`
counts by its region and its coast alone.  The customer (`Project Code`) and the price are kept
apart, as what a site has and nobody learns from.  Where no date of the order was kept, that of the
request stands in for it.

A site is a `Manufacturing Site`; those with few orders count as one site, `OTHERS`.
"""

import contextlib
import csv
import gzip
import io
import math
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np

from shopfloor.orders import (
    CHANNELS,
    FORMS,
    LABEL,
    LEADS,
    MAX_LEAD_DAYS,
    MODES,
    PRODUCTS,
    REGIONS,
    SCHEDULED,
    TERMS,
    Columns,
)

FILE: Final = "scms_delivery_history.csv.gz"
OTHERS: Final = "other sites"
MAX_BYTES: Final = 64 << 20
"""Of the text."""
LEAST_ORDERS: Final = 200
"""A site with fewer is one of `OTHERS`."""

_SITE, _ORDER, _COUNTRY = "Manufacturing Site", "PO / SO #", "Country"
_SCHEDULED, _DELIVERED = "Scheduled Delivery Date", "Delivered to Client Date"
_REQUESTED, _SENT = "PQ First Sent to Client Date", "PO Sent to Vendor Date"
_NO_DATE: Final = ("Pre-PQ Process", "Date Not Captured", "N/A - From RDC")
_MODES: Final = {
    "Air": MODES.index("air"),
    "Air Charter": MODES.index("air charter"),
    "Ocean": MODES.index("ocean"),
    "Truck": MODES.index("truck"),
    "": MODES.index("not chosen"),
}
_TERMS: Final = {
    "EXW": "ex works",
    "FCA": "free carrier",
    "CIP": "carriage paid",
    "CIF": "carriage paid",
    "DDP": "delivered",
    "DAP": "delivered",
    "DDU": "delivered",
    "N/A - From RDC": "from a warehouse",
}
_PRODUCTS: Final = {
    "Adult": "adult",
    "Pediatric": "pediatric",
    "HIV test": "test kit",
    "HIV test - Ancillary": "accessory",
    "Malaria": "other",
    "ACT": "other",
}
_FORM_WORDS: Final = (
    ("FDC", "combined tablet"),
    ("kit", "kit"),
    ("apsule", "capsule"),
    ("ablet", "tablet"),
    ("oral", "liquid"),
    ("Oral", "liquid"),
)
"""The first that a `Dosage Form` contains decides."""
_FLAG: Final = {"Yes": 1, "No": 0}
_REGION_OF: Final = {
    "west": "Benin,Côte d'Ivoire,Ghana,Guinea,Liberia,Mali,Nigeria,Senegal,Sierra Leone",
    "east": "Burundi,Ethiopia,Kenya,Malawi,Mozambique,Rwanda,South Sudan,Tanzania,Uganda,Zambia,"
    "Zimbabwe",
    "south": "Botswana,Lesotho,Namibia,South Africa,Swaziland",
    "americas": "Belize,Dominican Republic,Guatemala,Guyana,Haiti",
    "asia": "Kazakhstan,Kyrgyzstan,Lebanon,Pakistan,Vietnam",
}
"""Regions of the UN geoscheme (M49); any other country is `other`."""
_REGIONS: Final = {
    country: REGIONS.index(region)
    for region, countries in _REGION_OF.items()
    for country in countries.split(",")
}
_LANDLOCKED: Final = frozenset(
    (
        *("Botswana", "Burundi", "Ethiopia", "Kazakhstan", "Kyrgyzstan", "Lesotho", "Malawi"),
        *("Mali", "Rwanda", "South Sudan", "Swaziland", "Uganda", "Zambia", "Zimbabwe"),
    )
)
"""Of the countries in the table, those of the UN list of landlocked developing countries."""
_WANTED: Final = (
    *(_SITE, _ORDER, _COUNTRY, _SCHEDULED, _DELIVERED, _REQUESTED, _SENT),
    *("Shipment Mode", "Vendor INCO Term", "Line Item Quantity", "Unit of Measure (Per Pack)"),
    *("Sub Classification", "Dosage Form", "First Line Designation"),
)
_CUSTOMER, _PRICE = "Project Code", "Unit Price"
PRIVATE: Final = ("customer", "unit_price")
"""What a site has and no job may learn from, where the table has it."""


class OrdersError(ValueError):
    """A file that is no such history; the message names file, line and column."""


@dataclass(frozen=True, eq=False)
class History:
    """Orders of one site in the order of their scheduled day, as `shopfloor.orders` has them.

    Attributes:
      site: its name.
      columns: `SCHEDULED`, the channels and the label.
      private: of the same orders, what is no channel of any job: `customer`, a number for each, and
        `unit_price`, USD; empty where the table has no such columns.
    """

    site: str
    columns: Columns
    private: Columns = field(default_factory=dict)


def read_histories(path: Path, least: int = LEAST_ORDERS) -> list[History]:
    """Read the table.

    Args:
      path: of the file, `.csv` or `.csv.gz`, or of the folder that holds it as `FILE`.
      least: orders of a site that counts for itself.

    Returns:
      The sites, the one with most orders first, `OTHERS` last.

    Raises:
      OrdersError: it is not there, too large, or of another form.
    """
    file = path / FILE if path.is_dir() else path
    if not file.exists():
        raise OrdersError(f"{file}: is not there; name a copy of the SCMS delivery history")
    try:
        rows = _rows(file, _read(file).decode("utf-8-sig"))
    except (csv.Error, UnicodeDecodeError) as error:
        raise OrdersError(f"{file}: not a CSV text in UTF-8: {error}") from None
    lines = Counter(row[_ORDER] for _, row in rows)
    customers = sorted({row[_CUSTOMER] for _, row in rows if _CUSTOMER in row})
    parsed = [
        (row[_SITE], _order(where, row, lines[row[_ORDER]]) | _private(where, row, customers))
        for where, row in rows
    ]
    often = Counter(site for site, _ in parsed)
    sites: dict[str, list[Mapping[str, float]]] = {
        site: [] for site, orders in often.most_common() if orders >= least
    }
    sites[OTHERS] = []
    for site, order in parsed:
        sites.get(site, sites[OTHERS]).append(order)
    names, kept = (SCHEDULED, *CHANNELS, LABEL), [name for name in PRIVATE if name in parsed[0][1]]
    return [
        History(site, _columns(orders, names), _columns(orders, kept))
        for site, orders in sites.items()
        if orders
    ]


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        try:
            packed = path.suffix == ".gz"
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(MAX_BYTES + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise OrdersError(f"{path}: not a gzip file: {error}") from None
    if len(data) > MAX_BYTES:
        raise OrdersError(f"{path}: more than {MAX_BYTES} bytes")
    return data


def _rows(path: Path, text: str) -> list[tuple[str, dict[str, str]]]:
    """Where a row stands, and its cells."""
    reader = csv.DictReader(io.StringIO(text), strict=True)
    header = reader.fieldnames or ()
    missing = [name for name in _WANTED if name not in header]
    if missing:
        raise OrdersError(f"{path}:1: columns missing: {', '.join(missing)}")
    wanted = [*_WANTED, *(name for name in (_CUSTOMER, _PRICE) if name in header)]
    rows = []
    for row in reader:
        where = f"{path}:{reader.line_num}"
        cells = {name: row[name] for name in wanted}
        if None in cells.values():
            raise OrdersError(f"{where}: fewer cells than the header has columns")
        rows.append((where, cells))
    if not rows:
        raise OrdersError(f"{path}: no rows after the header")
    return rows


def _order(where: str, row: Mapping[str, str], lines: int) -> dict[str, float]:
    scheduled = _date(where, _SCHEDULED, row)
    sent, requested = (_date_if_any(where, name, row) for name in (_SENT, _REQUESTED))
    placed = sent or requested
    kind = "from order" if sent else "from request" if requested else "unknown"
    lead = (scheduled - placed).days if placed else 0
    country = row[_COUNTRY]
    form = row["Dosage Form"]
    return {
        SCHEDULED: scheduled.toordinal(),
        "lead_time": min(max(lead, 0), MAX_LEAD_DAYS),
        "lead_kind": LEADS.index(kind),
        "mode": _code(where, "Shipment Mode", row, _MODES),
        "terms": TERMS.index(_word(where, "Vendor INCO Term", row, _TERMS)),
        "quantity": _log10(where, "Line Item Quantity", row),
        "pack_size": _log10(where, "Unit of Measure (Per Pack)", row),
        "lines": math.log10(lines),
        "day_of_month": scheduled.day,
        "product": PRODUCTS.index(_word(where, "Sub Classification", row, _PRODUCTS)),
        "form": FORMS.index(next((each for part, each in _FORM_WORDS if part in form), "other")),
        "first_line": _code(where, "First Line Designation", row, _FLAG),
        "region": _REGIONS.get(country, REGIONS.index("other")),
        "landlocked": float(country in _LANDLOCKED),
        LABEL: float(_date(where, _DELIVERED, row) > scheduled),
    }


def _private(where: str, row: Mapping[str, str], customers: Sequence[str]) -> dict[str, float]:
    found = {}
    if _CUSTOMER in row:
        found["customer"] = float(bisect_left(customers, row[_CUSTOMER]))
    if _PRICE in row:
        found["unit_price"] = _price(where, row)
    return found


def _columns(orders: Sequence[Mapping[str, float]], names: Sequence[str]) -> Columns:
    ordered = sorted(orders, key=lambda order: order[SCHEDULED])
    return {name: np.array([order[name] for order in ordered], np.float64) for name in names}


def _date(where: str, name: str, row: Mapping[str, str]) -> date:
    try:
        return date.fromisoformat(row[name])
    except ValueError:
        raise OrdersError(
            f"{where}: column {name!r}: {row[name][:40]!r} is no YYYY-MM-DD"
        ) from None


def _date_if_any(where: str, name: str, row: Mapping[str, str]) -> date | None:
    return None if row[name] in _NO_DATE else _date(where, name, row)


def _code(where: str, name: str, row: Mapping[str, str], codes: Mapping[str, int]) -> int:
    if row[name] not in codes:
        raise OrdersError(f"{where}: column {name!r}: {row[name][:40]!r} is none of {list(codes)}")
    return codes[row[name]]


def _word(where: str, name: str, row: Mapping[str, str], words: Mapping[str, str]) -> str:
    numbers = {word: at for at, word in enumerate(words)}
    return list(words.values())[_code(where, name, row, numbers)]


def _price(where: str, row: Mapping[str, str]) -> float:
    with contextlib.suppress(ValueError):
        price = float(row[_PRICE])
        if 0.0 <= price < math.inf:
            return price
    raise OrdersError(f"{where}: column {_PRICE!r}: {row[_PRICE][:40]!r} is no price")


def _log10(where: str, name: str, row: Mapping[str, str]) -> float:
    cell = row[name]
    if not cell.isdecimal() or not 1 <= int(cell) <= 10**9:
        raise OrdersError(f"{where}: column {name!r}: {cell[:40]!r} is no whole number from 1")
    return math.log10(int(cell))

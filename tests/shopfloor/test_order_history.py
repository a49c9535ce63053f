"""A published order history as sites."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pytest

from shopfloor.order_history import OTHERS, OrdersError, read_histories
from shopfloor.orders import CHANNELS, CODES, LABEL, SCHEDULED

ORDER = {
    "Manufacturing Site": "Works A",
    "PO / SO #": "P-1",
    "Country": "Zambia",
    "Scheduled Delivery Date": "2010-03-20",
    "Delivered to Client Date": "2010-03-20",
    "PQ First Sent to Client Date": "Pre-PQ Process",
    "PO Sent to Vendor Date": "2010-01-19",
    "Shipment Mode": "Truck",
    "Vendor INCO Term": "DDP",
    "Line Item Quantity": "1000",
    "Unit of Measure (Per Pack)": "100",
    "Sub Classification": "Pediatric",
    "Dosage Form": "Oral solution",
    "First Line Designation": "Yes",
    "Weight (Kilograms)": "13",
    "Pack Price": "80.0",
}


def table(path: Path, *changes: dict[str, str]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ORDER | changes[0]))
    writer.writeheader()
    writer.writerows({**ORDER, **change} for change in changes)
    path.write_bytes(gzip.compress(text.getvalue().encode()))
    return path


def test_an_order_is_read_into_the_jobs_channels(tmp_path: Path) -> None:
    late = {"Delivered to Client Date": "2010-03-21", "Country": "Vietnam"}
    (site,) = read_histories(table(tmp_path / "o.csv.gz", {}, late), least=2)
    assert site.site == "Works A"
    assert set(site.columns) == {SCHEDULED, LABEL, *CHANNELS}
    assert site.columns[LABEL].tolist() == [0.0, 1.0]
    assert site.columns["lead_time"].tolist() == [60.0, 60.0]
    assert site.columns["quantity"].tolist() == [3.0, 3.0]
    assert site.columns["lines"][0] == pytest.approx(np.log10(2))
    assert site.columns["landlocked"].tolist() == [1.0, 0.0]
    words = {name: CODES[name][int(site.columns[name][0])] for name in CODES}
    assert words == {
        "lead_kind": "from order",
        "mode": "truck",
        "terms": "delivered",
        "product": "pediatric",
        "form": "liquid",
        "region": "east",
    }


def test_what_was_recorded_after_the_order_changes_no_input(tmp_path: Path) -> None:
    after = {"Delivered to Client Date": "2011-01-01", "Weight (Kilograms)": "9", "Pack Price": "1"}
    before, changed = (
        read_histories(table(tmp_path / f"{at}.csv.gz", change), least=1)[0].columns
        for at, change in enumerate(({}, after))
    )
    assert all(np.array_equal(before[name], changed[name]) for name in CHANNELS)
    assert before[LABEL] != changed[LABEL]


def test_customers_and_prices_are_kept_apart_from_what_is_learned(tmp_path: Path) -> None:
    bare = read_histories(table(tmp_path / "bare.csv.gz", {}), least=1)[0]
    assert bare.private == {}
    changes = [
        {"Project Code": code, "Unit Price": price, "Scheduled Delivery Date": f"2010-03-{day}"}
        for code, price, day in (("B", "0.25", 23), ("A", "17", 22), ("B", "3.5", 21))
    ]
    file = tmp_path / "whole.csv.gz"
    whole = read_histories(table(file, *changes), least=1)[0]
    assert whole.private["customer"].tolist() == [1.0, 0.0, 1.0]
    assert whole.private["unit_price"].tolist() == [3.5, 17.0, 0.25]
    assert set(whole.columns) == {SCHEDULED, LABEL, *CHANNELS}
    with pytest.raises(OrdersError, match="'Unit Price': 'nan' is no price"):
        read_histories(table(file, changes[0] | {"Unit Price": "nan"}))


def test_small_sites_count_as_one_and_orders_are_in_the_order_of_their_days(
    tmp_path: Path,
) -> None:
    days = [{"Scheduled Delivery Date": f"2010-0{month}-01"} for month in (5, 4, 6)]
    small = [{"Manufacturing Site": name} for name in ("Works B", "Works C")]
    sites = read_histories(table(tmp_path / "o.csv.gz", *days, *small), least=3)
    assert [site.site for site in sites] == ["Works A", OTHERS]
    assert (np.diff(sites[0].columns[SCHEDULED]) > 0).all()
    assert len(sites[1].columns[LABEL]) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Shipment Mode": "Mule"}, r"o\.csv\.gz:3: column 'Shipment Mode': 'Mule' is none of"),
        ({"Scheduled Delivery Date": "soon"}, "'Scheduled Delivery Date': 'soon' is no YYYY-MM-DD"),
        ({"PO Sent to Vendor Date": "?"}, "'PO Sent to Vendor Date'"),
        ({"Line Item Quantity": "0"}, "'Line Item Quantity': '0' is no whole number from 1"),
    ],
)
def test_a_wrong_cell_is_named_by_line_and_column(
    change: dict[str, str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(OrdersError, match=reason):
        read_histories(table(tmp_path / "o.csv.gz", {}, change))


def test_a_table_that_is_absent_or_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OrdersError, match="is not there; name a copy"):
        read_histories(tmp_path)
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(OrdersError, match="columns missing: Manufacturing Site"):
        read_histories(other)
    other.with_suffix(".gz").write_bytes(b"no gzip")
    with pytest.raises(OrdersError, match="not a gzip file"):
        read_histories(other.with_suffix(".gz"))

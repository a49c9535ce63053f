"""Cutting a batch into parts that run together."""

from hypothesis import given
from hypothesis import strategies as st

from agent.learning.runtime import parts, rows_at_once


@given(st.integers(0, 5000), st.integers(1, 600))
def test_parts_cover_the_rows_once_in_order_in_equal_shares(rows: int, most: int) -> None:
    cut = list(parts(rows, most))
    assert [row for part in cut for row in range(part.start, part.stop)] == list(range(rows))
    sizes = [part.stop - part.start for part in cut]
    assert len(sizes) == -(-rows // most)
    assert not sizes or 1 <= max(sizes) <= most
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_a_row_larger_than_all_room_still_runs_alone() -> None:
    assert rows_at_once(1 << 40) == 1
    assert rows_at_once(1 << 10, 1 << 40) == 1
    assert rows_at_once(1 << 10) > rows_at_once(1 << 16) > 1
    assert rows_at_once(1 << 10) > rows_at_once(1 << 10, 1 << 18) > 1

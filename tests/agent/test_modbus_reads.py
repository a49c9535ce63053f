"""Merging of reads."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sensors.modbus.reads import Limits, Read, Span, halves, merge
from agent.sensors.modbus.registers import Table

TABLES: tuple[Table, ...] = ("holding", "input", "coil", "discrete")
CAPS = {"holding": 125, "input": 125, "coil": 2000, "discrete": 2000}


@st.composite
def spans_of_a_line(draw: st.DrawFn) -> list[Span]:
    spans: list[Span] = []
    for channel in range(draw(st.integers(1, 30))):
        table = draw(st.sampled_from(TABLES))
        is_bits = table in ("coil", "discrete")
        spans.append(
            Span(
                channel,
                draw(st.integers(1, 3)),
                table,
                draw(st.integers(0, 5000 if is_bits else 400)),
                1 if is_bits else draw(st.sampled_from((1, 2, 4))),
                draw(st.sampled_from((100, 1000))),
            )
        )
    return spans


limits = st.builds(Limits, st.integers(0, 125), st.integers(4, 125))


@settings(max_examples=60, deadline=None)
@given(spans_of_a_line(), limits)
def test_every_channel_is_read_exactly_once_and_no_read_is_over_the_caps(
    spans: list[Span], limit: Limits
) -> None:
    reads = merge(spans, dict.fromkeys((1, 2, 3), limit))
    assert sorted(span.channel for read in reads for span in read.spans) == list(range(len(spans)))
    for read in reads:
        assert 1 <= read.count <= CAPS[read.table]
        most = limit.max_registers * (16 if read.table in ("coil", "discrete") else 1)
        assert read.count <= most
        for span in read.spans:
            assert (span.unit_id, span.table) == (read.unit_id, read.table)
            assert span.interval_ms / 1000 == read.interval_s
            assert read.address <= span.address
            assert span.end <= read.address + read.count


@settings(max_examples=60, deadline=None)
@given(spans_of_a_line(), limits)
def test_no_wider_gap_than_allowed_is_read_along(spans: list[Span], limit: Limits) -> None:
    for read in merge(spans, dict.fromkeys((1, 2, 3), limit)):
        wanted = {at for span in read.spans for at in range(span.address, span.end)}
        gap = longest = 0
        for at in range(read.address, read.address + read.count):
            gap = 0 if at in wanted else gap + 1
            longest = max(longest, gap)
        assert longest <= limit.max_gap * (16 if read.table in ("coil", "discrete") else 1)


@settings(max_examples=60, deadline=None)
@given(spans_of_a_line())
def test_cutting_again_and_again_ends_at_reads_without_gaps(spans: list[Span]) -> None:
    for read in merge(spans, dict.fromkeys((1, 2, 3), Limits())):
        parts, exact = [read], []
        while parts:
            part = parts.pop()
            cut = halves(part)
            if cut is None:
                exact.append(part)
            else:
                parts += cut
        assert sorted(span.channel for part in exact for span in part.spans) == sorted(
            span.channel for span in read.spans
        )
        for part in exact:
            wanted = {at for span in part.spans for at in range(span.address, span.end)}
            assert len(wanted) == part.count


def test_a_read_is_cut_at_its_widest_gap() -> None:
    spans = tuple(Span(at, 1, "holding", address, 1, 100) for at, address in enumerate((0, 2, 9)))
    cut = halves(Read(spans))
    assert cut is not None
    assert [part.spans for part in cut] == [spans[:2], spans[2:]]


def test_bits_of_one_register_are_one_read_that_can_not_be_cut() -> None:
    spans = [Span(bit, 1, "holding", 40, 1, 100) for bit in range(16)]
    (read,) = merge(spans, {1: Limits()})
    assert (read.address, read.count) == (40, 1)
    assert halves(read) is None


def test_125_registers_are_one_read_and_126_are_two() -> None:
    spans = [Span(at, 1, "input", at, 1, 100) for at in range(126)]
    assert [read.count for read in merge(spans[:125], {1: Limits()})] == [125]
    assert [read.count for read in merge(spans, {1: Limits()})] == [125, 1]

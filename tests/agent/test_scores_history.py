"""The bounded history of scores, against a list that keeps everything."""

from datetime import UTC, datetime, timedelta

from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st

from agent.serve.history import Ring, ScoreHistory, Span
from agent.serve.values import text_id

NODE = text_id("press/Score", 1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = ua.get_win_epoch()


def _time(second: int) -> datetime:
    return EPOCH + timedelta(seconds=second)


def _read(
    history: ScoreHistory, begin: datetime, end: datetime, most: int = 0, page: int = 4
) -> list[int]:
    """Seconds of all values of a span, over as many pages as it takes."""
    details = ua.ReadRawModifiedDetails(
        IsReadModified=False, StartTime=begin, EndTime=end, NumValuesPerNode=most
    )
    node = ua.HistoryReadValueId(NodeId=NODE)
    found: list[int] = []
    while True:
        result = history.read(node, details, page)
        assert result.StatusCode.is_good()
        assert len(result.HistoryData.DataValues) <= page
        found += [
            round((each.SourceTimestamp - EPOCH).total_seconds())
            for each in result.HistoryData.DataValues
        ]
        if not result.ContinuationPoint:
            return found
        node.ContinuationPoint = result.ContinuationPoint


@given(
    st.lists(st.integers(1, 40), max_size=60),
    st.integers(1, 20),
    st.tuples(st.integers(0, 45), st.integers(0, 45)),
    st.integers(1, 7),
)
def test_every_span_comes_whole_in_order_and_once_whatever_the_page(
    seconds: list[int], size: int, span: tuple[int, int], page: int
) -> None:
    history = ScoreHistory(size)
    history.keep(NODE)
    for second in seconds:
        history.add(NODE, second * 1_000_000, float(second), 0)
    begin, end = span
    kept = sorted(set(seconds[-size:]))
    expected = [second for second in kept if min(span) <= second <= max(span)]
    found = _read(history, _time(begin), _time(end), page=page)
    assert found == (expected if begin <= end else expected[::-1])


def test_with_one_end_open_so_many_values_are_all_that_is_asked_for() -> None:
    history = ScoreHistory(100)
    history.keep(NODE)
    for second in range(10):
        history.add(NODE, second * 1_000_000, 0.0, 0)
    assert _read(history, _time(3), NEVER, most=2) == [3, 4]
    assert _read(history, NEVER, _time(3), most=2) == [3, 2]
    assert _read(history, _time(3), NEVER) == [3, 4, 5, 6, 7, 8, 9]
    assert _read(history, NEVER, _time(3)) == [3, 2, 1, 0]


def test_of_two_scores_of_one_row_the_later_one_counts() -> None:
    ring = Ring(5)
    for value in (1.0, 2.0, 3.0):
        ring.add(7, value, 0)
    ring.add(9, 4.0, 0)
    times, values, _, following = ring.read(Span(0, None, is_backwards=False, most=10))
    assert (times.tolist(), values.tolist(), following) == ([7, 9], [3.0, 4.0], None)


def test_a_bad_score_has_its_status_and_no_value_in_the_history() -> None:
    history = ScoreHistory(5)
    history.keep(NODE)
    history.add(NODE, 1_000_000, float("nan"), 0x80000000)
    details = ua.ReadRawModifiedDetails(
        IsReadModified=False, StartTime=_time(0), EndTime=_time(2), NumValuesPerNode=0
    )
    result = history.read(ua.HistoryReadValueId(NodeId=NODE), details, 10)
    value = result.HistoryData.DataValues[0]
    assert value.StatusCode.value == 0x80000000
    assert value.Value.Value is None


def test_what_is_not_kept_is_refused_and_never_raises() -> None:
    history = ScoreHistory(0)
    history.keep(NODE)
    raw = ua.ReadRawModifiedDetails(IsReadModified=False, StartTime=_time(0), EndTime=_time(1))
    unsupported = ua.StatusCodes.BadHistoryOperationUnsupported
    for details in (raw, ua.ReadRawModifiedDetails(), ua.ReadAtTimeDetails(), None):
        result = history.read(ua.HistoryReadValueId(NodeId=NODE), details, 10)
        assert result.StatusCode.value == unsupported
    kept = ScoreHistory(5)
    kept.keep(NODE)
    never = ua.ReadRawModifiedDetails(IsReadModified=False, StartTime=NEVER, EndTime=NEVER)
    result = kept.read(ua.HistoryReadValueId(NodeId=NODE), never, 10)
    assert result.StatusCode.value == ua.StatusCodes.BadInvalidTimestampArgument


@given(st.binary(max_size=20))
def test_any_continuation_point_is_answered(point: bytes) -> None:
    history = ScoreHistory(5)
    history.keep(NODE)
    history.add(NODE, 1_000_000, 1.0, 0)
    details = ua.ReadRawModifiedDetails(
        IsReadModified=False, StartTime=_time(0), EndTime=_time(9), NumValuesPerNode=1
    )
    node = ua.HistoryReadValueId(NodeId=NODE, ContinuationPoint=point)
    assert history.read(node, details, 10).StatusCode is not None

import pytest

from agent.sensors.lines.patterns import PatternError, compiled

LINE_BYTES = 1024


@pytest.mark.parametrize(
    ("pattern", "line", "group"),
    [
        (r"T=(?P<v>[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?) C", "T=-1.5e3 C", "-1.5e3"),
        (r"ST,GS,[+-] *(?P<v>[0-9.]+) *kg", "ST,GS,+  12.50 kg", "12.50"),
        (r"[^;]*;[^;]*;(?P<v>[^;]*);.*", "a;b;c;d;e", "c"),
        (r"(?:RUN|READY|STOP) (?P<v>\d+)", "READY 7", "7"),
        (r".*T=(?P<v>[-.\d]+)", "xxT=4.5", "4.5"),
        (r"(?P<v>\d+)°C", "21°C", "21"),
        (r"\x02?(?P<v>\w+)", "\x02A1", "A1"),
    ],
)
def test_patterns_of_instruments_are_accepted(pattern: str, line: str, group: str) -> None:
    match = compiled(pattern, LINE_BYTES).fullmatch(line)
    assert match is not None
    assert match["v"] == group


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+b",
        r"(a*)*b",
        r"(a|a)*b",
        r"(a|ab)*c",
        r"(?:\d+\.?)+x",
        r"(?:a?){30}a{30}",
        r".*,.*,.*,.*x",
        r"\d*\d*\d*x",
        r"\w+\d+\w+;",
        r"(?:a|ab)(?:c|bcd)(?:d*)*",
        r"([ab]{1,99}){1,99}c",
        "a?" * 25 + "a" * 25,
    ],
)
def test_a_pattern_that_could_hang_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compiled(pattern, LINE_BYTES)


@pytest.mark.parametrize(
    "pattern", [r"(?=a)b", r"(?<!a)b", r"(a)\1", r"(?i)run", r"(?s:.)", "(", "[a-", "a{2,1}"]
)
def test_what_can_not_be_judged_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compiled(pattern, LINE_BYTES)


def test_a_shorter_line_allows_a_pattern_that_a_long_one_does_not() -> None:
    pattern = r".*T=(?P<t>[-.\d]+).*"
    with pytest.raises(PatternError, match="max_line_bytes"):
        compiled(pattern, 1024)
    match = compiled(pattern, 120).fullmatch("now T=3 C")
    assert match is not None


@pytest.mark.parametrize(
    ("pattern", "evil"),
    [
        (r"[^;]*;[^;]*;[^;]*;x", ";" * LINE_BYTES),
        (r"\d+(?:\.\d+)?(?:e\d+)?x", "1" * LINE_BYTES),
        (r".*T=\d", "T=" * (LINE_BYTES // 2)),
        (r"a++a*b", "a" * LINE_BYTES),
    ],
)
def test_an_accepted_pattern_ends_on_a_hostile_line(pattern: str, evil: str) -> None:
    assert compiled(pattern, LINE_BYTES).fullmatch(evil) is None

"""What the gateway can spare for training: limits, hysteresis, and what training itself costs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agent.budget import Budget, BudgetTable, Readings, problems
from agent.budget.readings import Levels, Worker
from agent.budget.settings import windows
from agent.config import read_agent_settings
from agent.health.metrics import status_lines
from agent.status import Status
from wire.errors import SettingsError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "agent.toml"
MIB = 1 << 20


def looked(table: BudgetTable, *readings: Readings) -> Budget:
    budget = Budget(table)
    for each in readings:
        budget.look(each)
    return budget


def hot(*degrees: float | None, every_s: float = 2.0) -> list[Readings]:
    return [Readings(every_s * at, temperature_c=each) for at, each in enumerate(degrees)]


def stalled(
    *shares: float, resource: str = "cpu", scope: str = "machine", every_s: float = 2.0
) -> list[Readings]:
    """Looks between which tasks waited for a resource in such a share of the time."""
    total, found = 0.0, []
    for at, share in enumerate((0.0, *shares)):
        total += share * every_s
        found.append(Readings(at * every_s, stalled_s={(scope, resource): total}))
    return found


def test_nothing_is_withheld_before_the_first_look_nor_by_what_nobody_tells() -> None:
    assert Budget().reason == ""
    assert looked(BudgetTable(), *(Readings(float(at)) for at in range(100))).reason == ""


def test_training_pauses_above_the_limit_and_goes_on_below_the_lower_one_only() -> None:
    table = BudgetTable(max_temperature_c=80, cool_down_c=8, min_pause_s=0)
    said = []
    budget = Budget(table)
    for each in hot(80.0, 81.4, 79.0, 72.0, 71.9, 79.0, 80.0, 80.1):
        budget.look(each)
        said.append(budget.reason)
    assert said == [
        "",
        "81 °C, training begins again below 72 °C",
        "79 °C, training begins again below 72 °C",
        "72 °C, training begins again below 72 °C",
        "",
        "",
        "",
        "80 °C, training begins again below 72 °C",
    ]


def test_a_pause_lasts_for_its_least_length_and_says_how_long_still() -> None:
    budget = looked(BudgetTable(min_pause_s=30), *hot(90, 50))
    assert budget.reason == "90 °C, training begins again in 28 s"
    for at_s in (4.0, 29.9):
        budget.look(Readings(at_s, temperature_c=50))
        assert budget.reason != ""
    budget.look(Readings(30.0, temperature_c=50))
    assert budget.reason == ""


def test_a_sensor_that_falls_silent_does_not_hold_training_for_ever() -> None:
    assert looked(BudgetTable(min_pause_s=4), *hot(90, None, None)).reason == ""


@pytest.mark.parametrize("resource", ["cpu", "memory", "io"])
def test_pressure_of_each_resource_pauses_training_and_half_of_it_lets_it_go_on(
    resource: str,
) -> None:
    table = BudgetTable(
        max_cpu_pressure_percent=40,
        max_memory_pressure_percent=40,
        max_io_pressure_percent=40,
        min_pause_s=0,
    )
    busy, calmer, calm = [0.8] * 10, [0.3] * 30, [0.1] * 30
    budget = looked(table, *stalled(*busy, resource=resource))
    assert budget.reason == f"{resource} pressure 80 %, training begins again below 20 %"
    budget = looked(table, *stalled(*busy, *calmer, resource=resource))
    assert budget.reason == f"{resource} pressure 30 %, training begins again below 20 %"
    assert looked(table, *stalled(*busy, *calmer, *calm, resource=resource)).reason == ""
    assert looked(table, *stalled(*calmer, resource=resource)).reason == ""


def test_a_short_burst_of_pressure_is_no_reason() -> None:
    assert looked(BudgetTable(), *stalled(*[0.0] * 10, 1.0, 1.0)).reason == ""


def test_the_services_own_pressure_counts_where_it_is_larger() -> None:
    both = [
        replace(own, stalled_s={**own.stalled_s, **machine.stalled_s})
        for own, machine in zip(
            stalled(*[0.9] * 5, scope="service"), stalled(*[0.1] * 5), strict=True
        )
    ]
    assert looked(BudgetTable(), *both).kind == "cpu pressure"


def test_what_training_itself_waits_is_no_pressure_of_others_and_no_load() -> None:
    """One busy program and an idle training on one core: the training alone waits."""
    readings = [
        replace(each, load=2.0, worker=Worker(77, ran_s=0.01 * at, waited_s=1.98 * at))
        for at, each in enumerate(stalled(*[0.99] * 100))
    ]
    budget = looked(BudgetTable(), *readings)
    assert budget.reason == ""
    report = budget.report()
    assert report.pressure_percent["cpu"] < 1
    assert report.load_per_core == pytest.approx(1.0, abs=0.1)
    others = [replace(each, worker=None) for each in readings]
    assert looked(BudgetTable(), *others).kind == "cpu pressure"


def test_another_training_process_is_not_measured_against_the_one_before() -> None:
    old = Readings(0.0, worker=Worker(1, 500.0, 500.0))
    new = Readings(10.0, worker=Worker(2, 5.0, 0.0))
    assert Levels().moved(old, new).own_load == pytest.approx(0.5 * (1 - 2.718281828 ** (-1 / 6)))


def test_load_counts_by_core_and_only_where_no_pressure_is_told() -> None:
    table = BudgetTable(max_load_per_core=1.5, min_pause_s=0)
    assert looked(table, Readings(0, load=6.1, cores=4)).reason == (
        "load 1.5 a core, training begins again below 1.2"
    )
    assert looked(table, Readings(0, load=5.9, cores=4)).reason == ""
    with_pressure = [replace(each, load=9.0) for each in stalled(0.0, 0.0)]
    assert looked(table, *with_pressure).reason == ""


def test_training_begins_with_twice_the_memory_below_which_it_stops() -> None:
    table = BudgetTable(min_free_memory_bytes=32 * MIB, min_pause_s=0)
    said = []
    budget = Budget(table)
    for at, free in enumerate((33, 31, 63, 65, 33)):
        budget.look(Readings(float(at), free_bytes=free * MIB))
        said.append(budget.reason)
    again = "training begins again above 64 MiB"
    assert said == [
        "",
        f"31 MiB of memory are free, {again}",
        f"63 MiB of memory are free, {again}",
        "",
        "",
    ]


def test_an_alarm_of_the_supply_comes_before_all_else() -> None:
    now = Readings(0.0, temperature_c=99.0, alarms=("low supply voltage",))
    assert looked(BudgetTable(), now).reason == (
        "low supply voltage, training begins again when that is over"
    )


@pytest.mark.parametrize(
    ("hours", "time", "is_allowed"),
    [
        (("22:00-06:00",), "21:59", False),
        (("22:00-06:00",), "22:00", True),
        (("22:00-06:00",), "00:00", True),
        (("22:00-06:00",), "05:59", True),
        (("22:00-06:00",), "06:00", False),
        (("12:00-13:00", "18:00-24:00"), "12:30", True),
        (("12:00-13:00", "18:00-24:00"), "23:59", True),
        (("12:00-13:00", "18:00-24:00"), "13:00", False),
        ((), "13:00", True),
    ],
)
def test_hours_are_local_times_that_may_span_midnight(
    hours: tuple[str, ...], time: str, is_allowed: bool
) -> None:
    minute = 60 * int(time[:2]) + int(time[3:])
    budget = looked(BudgetTable(hours=hours), Readings(0.0, minute=minute))
    assert (budget.reason == "") is is_allowed
    if not is_allowed:
        assert budget.reason == f"not now, training begins again at {' or '.join(hours)}"


def test_a_budget_that_is_off_withholds_nothing_and_still_tells_what_it_sees() -> None:
    budget = looked(BudgetTable(enabled=False), *hot(99, 99))
    assert budget.reason == ""
    assert budget.report().temperature_c == 99


def test_new_limits_hold_from_the_next_look_on() -> None:
    budget = looked(BudgetTable(min_pause_s=0), *hot(85))
    assert budget.kind == "temperature"
    budget.limit(BudgetTable(min_pause_s=0, max_temperature_c=95))
    budget.look(Readings(2.0, temperature_c=85))
    assert budget.reason == ""


def test_the_report_counts_the_seconds_of_each_reason() -> None:
    table = BudgetTable(min_pause_s=0)
    readings = [*hot(90, 90, 90, 50), Readings(8.0, free_bytes=0), Readings(11.0, free_bytes=0)]
    assert looked(table, *readings).report().withheld_s == {"temperature": 6.0, "free memory": 3.0}


@pytest.mark.parametrize(
    ("given", "key", "reason"),
    [
        ('hours = ["22:00-25:00"]', "training.budget.hours[0]", "matching regex"),
        ('hours = ["06:00-06:00"]', "training.budget.hours", "begins when it ends"),
        ("hours = [8]", "training.budget.hours[0]", "`str`"),
        ("max_temperature_c = 8", "training.budget.max_temperature_c", ">= 20"),
        ("max_cpu_pressure_percent = 0", "training.budget.max_cpu_pressure_percent", "> 0"),
        ("min_pause = 4", "training.budget.min_pause", "unknown key"),
    ],
)
def test_a_limit_that_can_not_be_is_refused_with_its_line(
    given: str, key: str, reason: str, tmp_path: Path
) -> None:
    text = CONFIG.read_text()
    name = given.partition(" ")[0]
    old = next((line for line in text.splitlines() if line.startswith(f"{name} = ")), "hours = []")
    (tmp_path / "agent.toml").write_text(text.replace(old, given))
    with pytest.raises(SettingsError) as caught:
        read_agent_settings(tmp_path / "agent.toml")
    assert caught.value.key == key
    assert caught.value.line == text.splitlines().index(old) + 1
    assert reason in str(caught.value)


TABLES = st.builds(
    BudgetTable,
    max_temperature_c=st.floats(60, 90),
    cool_down_c=st.floats(1, 20),
    min_pause_s=st.floats(0, 60),
)
STEPS = st.lists(st.tuples(st.floats(0.1, 20), st.floats(30, 110)), max_size=60)


@given(TABLES, STEPS)
def test_whatever_the_heat_does_a_pause_is_long_enough_and_ends_only_when_it_is_cool(
    table: BudgetTable, steps: Sequence[tuple[float, float]]
) -> None:
    budget, at_s, since_s = Budget(table), 0.0, 0.0
    for past_s, degrees in steps:
        at_s += past_s
        was = budget.reason
        budget.look(Readings(at_s, temperature_c=degrees))
        if budget.reason and not was:
            assert degrees > table.max_temperature_c
            since_s = at_s
        elif was and not budget.reason:
            assert degrees < table.max_temperature_c - table.cool_down_c
            assert at_s - since_s >= table.min_pause_s - 1e-6
        elif not was:
            assert degrees <= table.max_temperature_c
        assert bool(budget.reason) == bool(budget.kind)


COUNTERS = st.lists(
    st.tuples(st.floats(0, 30), st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 2)),
    max_size=40,
)


@given(COUNTERS)
def test_counters_that_jump_or_begin_anew_give_shares_all_the_same(
    moments: Sequence[tuple[float, float, float, int]],
) -> None:
    budget, at_s = Budget(), 0.0
    for past_s, total, waited_s, task in moments:
        at_s += past_s
        stalls = {("machine", "cpu"): total, ("service", "io"): total}
        worker = Worker(task, total, waited_s) if task else None
        budget.look(Readings(at_s, stalled_s=stalls, load=total, worker=worker))
        report = budget.report()
        assert all(0 <= percent <= 100 for percent in report.pressure_percent.values())
        assert report.load_per_core is not None
        assert report.load_per_core >= 0
    assert msgspec.json.encode(budget.report())


def test_the_metrics_tell_what_is_seen_and_how_long_training_was_withheld() -> None:
    budget = looked(BudgetTable(min_pause_s=0), *hot(90, 90, 90))
    status = Status(agent="a", site="s", federation="f", pid=1, budget=budget.report())
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families("\n".join(status_lines(status, "x")) + "\n")
        for sample in family.samples
    }
    assert found["journeyman_agent_training_withheld",] == 1
    assert found["journeyman_agent_training_withheld_seconds_total", "temperature"] == 4
    assert found["journeyman_agent_temperature_celsius",] == 90


def test_every_hour_of_a_valid_table_is_a_window() -> None:
    table = BudgetTable(hours=("00:00-24:00", "23:59-00:00"))
    assert list(problems(table)) == []
    assert all(windows(table)[0].holds(minute) for minute in range(1440))
    assert [minute for minute in range(1440) if windows(table)[1].holds(minute)] == [1439]

"""The agent's `/metrics`, read by the Prometheus project's own parser."""

import math
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import health
from agent.budget import BudgetReport
from agent.health import Board, MetricsTable, Progress, problems
from agent.samples import StoreCounters
from agent.sensors.source import SourceReport
from agent.serve.inbox import OutputReport
from agent.signals.quality import ChannelQuality
from agent.status import Status, as_json
from wire.exposition import distinct, family

enduring = ExitStack()
"""What is watched in these tests is watched to their end."""
PLC = "opcua opc.tcp://10.0.0.5:4840"


def status() -> Status:
    return Status(
        agent="press-7-gateway",
        site="Nordhausen",
        federation="plant-net",
        pid=7,
        sources=[
            SourceReport(PLC, "subscribed", {}, {"gaps": 3, "connections": 2}),
            SourceReport(PLC, "lost: connection reset", {"torque": "gone", "speed": "gone"}),
        ],
        outputs=[OutputReport("mqtt 127.0.0.1:1883", "connected", {}, sent=900, dropped=4)],
        samples=12_345,
        bad=5,
        rows=777,
        storage="the disk is full: make room",
        certificate_ends=1.8e9,
        store=StoreCounters(
            stored=12_000,
            expired=0,
            lost={"disk too slow": 9},
            waiting=40,
            bytes_used=1 << 20,
            written={"2026-11-22": 5000},
            written_today=5000,
            oldest_us=1_763_800_000_500_000,
            damaged=0,
        ),
        link="up",
        coordinator="offline",
        learning="training",
        train_version=41,
        serve_version=40,
        base_version=39,
        produced=8,
        outcomes={"folded": 5, "pending": 2, "committed": 1},
        budget=BudgetReport(
            reason="81 °C, training begins again below 72 °C",
            temperature_c=81.0,
            pressure_percent={"cpu": 12.5},
            load_per_core=0.4,
            free_memory_bytes=1 << 28,
            withheld_s={"temperature": 60.0},
        ),
        scored=900,
        alarms=2,
        score=math.nan,
    )


def channel(name: str, **changes: Any) -> ChannelQuality:
    made = ChannelQuality(
        name=name,
        samples=10,
        bad=1,
        uncertain=2,
        out_of_order=0,
        gaps=3,
        lost=4,
        last=61.803,
        source_timestamp_us=1_763_800_000_000_000,
        least=61.803,
        most=61.803,
        mean=61.803,
        deviation=61.803,
        rate_hz=1.0,
        skew_s=12.5,
        is_skewed=True,
    )
    return msgspec.structs.replace(made, **changes)


def board(most_channels: int = 200) -> Board:
    progress = Progress()
    enduring.enter_context(progress.watching("acquisition", 30))
    progress.look(0.0)
    progress.look(1.0)
    made = Board(progress, "journeyman-agent 0.1.0", most_channels)
    made.post(status(), as_json(status()), 1.0)
    made.post_channels([channel("torque"), channel("speed", skew_s=None, is_skewed=False)])
    return made


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for each in text_string_to_metric_families(text)
        for sample in each.samples
    }


def value(made: Board, name: str, **labels: str) -> float:
    found = samples(made.metrics(1.0))
    return found[f"journeyman_agent_{name}", tuple(sorted(labels.items()))]


def test_prometheus_reads_the_figures_of_the_status() -> None:
    made = board()
    assert value(made, "info", federation="plant-net", software="journeyman-agent 0.1.0") == 1
    assert value(made, "samples_total") == 12_345
    assert value(made, "bad_samples_total") == 5
    assert value(made, "history_rows") == 777
    assert value(made, "storage_ok") == 0
    assert value(made, "clocks_ok") == 1
    assert value(made, "source_well", source=PLC) == 1
    assert value(made, "source_well", source=f"{PLC} #2") == 0
    assert value(made, "source_problems", source=f"{PLC} #2") == 2
    assert value(made, "source_events_total", source=PLC, event="gaps") == 3
    assert value(made, "store_lost_samples_total", reason="disk too slow") == 9
    assert value(made, "store_oldest_timestamp_seconds") == 1_763_800_000.5
    assert value(made, "link_up") == 1
    assert value(made, "coordinator_online") == 0
    assert value(made, "training") == 1
    assert value(made, "train_version") == 41
    assert value(made, "serving", model="global") == 1
    assert value(made, "updates_total", outcome="folded") == 5
    assert value(made, "updates_total", outcome="refused") == 0
    assert value(made, "updates_open", state="pending") == 2
    assert value(made, "scores_total") == 900
    assert value(made, "output_dropped_scores_total", output="mqtt 127.0.0.1:1883") == 4
    assert value(made, "alive") == 1
    assert value(made, "ready") == 0
    assert value(made, "task_silence_seconds", task="acquisition") == 1


def test_a_channel_has_figures_about_its_samples() -> None:
    made = board()
    assert value(made, "channels") == 2
    assert value(made, "channels_skewed") == 1
    assert value(made, "channel_samples_total", channel="torque") == 10
    assert value(made, "channel_bad_samples_total", channel="speed") == 1
    assert value(made, "channel_lost_samples_total", channel="speed") == 4
    assert value(made, "channel_timestamp_seconds", channel="torque") == 1_763_800_000
    assert value(made, "channel_clock_skew_seconds", channel="torque") == 12.5
    with pytest.raises(KeyError):
        value(made, "channel_clock_skew_seconds", channel="speed")


def test_every_family_has_help_and_a_type_and_counters_end_in_total() -> None:
    text = board().metrics(1.0)
    assert text.endswith("\n")
    families = list(text_string_to_metric_families(text))
    assert len(families) > 40
    assert len({each.name for each in families}) == len(families)
    for each in families:
        assert each.name.startswith(("journeyman_agent_", "process_"))
        assert each.documentation
        assert each.type in ("gauge", "counter")
        for sample in each.samples:
            assert sample.name.endswith("_total") == (each.type == "counter"), sample.name


def test_the_answer_names_no_agent_and_no_site_and_tells_nothing_that_was_measured() -> None:
    text = board().metrics(1.0)
    assert "press-7" not in text
    assert "Nordhausen" not in text
    assert "61.803" not in text


def test_the_number_of_channels_in_the_answer_is_bounded() -> None:
    made = board(most_channels=50)
    made.post_channels([channel(f"channel {at}") for at in range(1000)])
    found = samples(made.metrics(1.0))
    shown = {dict(labels)["channel"] for _, labels in found if "channel" in dict(labels)}
    assert shown == {f"channel {at}" for at in range(50)}
    assert found["journeyman_agent_channels", ()] == 1000
    assert found["journeyman_agent_channels_shown", ()] == 50
    assert found["journeyman_agent_channels_skewed", ()] == 1000


def test_the_readme_has_every_figure_and_none_that_is_not_told() -> None:
    readme = Path(health.__file__).with_name("README.md").read_text(encoding="utf-8")
    told = {name.removeprefix("journeyman_agent_") for name, _ in samples(board().metrics(1.0))}
    listed = set(re.findall(r"`([a-z_]+)(?:\{[a-z,]+\})?`", readme.partition("## The figures")[2]))
    assert {name for name in listed if "_" in name or name in told} - {"journeyman_agent_"} == told
    advised = set(re.findall(r"journeyman_agent_(\w+)", readme))
    assert len(advised) >= 9
    assert advised <= told


def test_a_channel_takes_about_the_room_that_the_settings_say() -> None:
    made = board(most_channels=10_000)
    sizes: list[int] = []
    for count in (100, 200):
        made.post_channels([channel(f"machine hall 2 line {at}") for at in range(count)])
        sizes.append(len(made.metrics(1.0)))
    assert (sizes[1] - sizes[0]) / 100 < 800


def test_this_process_has_the_figures_that_every_client_has() -> None:
    found = samples(board().metrics(1.0))
    assert found["process_resident_memory_bytes", ()] > 1 << 20
    assert found["process_open_fds", ()] >= 3
    assert found["process_cpu_seconds_total", ()] > 0


def test_what_does_not_exist_yet_has_no_sample() -> None:
    names = {name for name, _ in samples(Board(Progress(), "x", 200).metrics(1.0))}
    assert "journeyman_agent_alive" in names
    assert "journeyman_agent_samples_total" not in names
    fresh = Status(agent="a", site="s", federation="f", pid=1)
    made = Board(Progress(), "x", 200)
    made.post(fresh, as_json(fresh), 1.0)
    found = {name for name, _ in samples(made.metrics(1.0))}
    assert "journeyman_agent_samples_total" in found
    assert "journeyman_agent_serve_version" not in found
    assert "journeyman_agent_store_bytes" not in found


def test_a_label_and_a_value_may_be_anything() -> None:
    name = 'a "quoted" \\ back\\n slash\nand a line } {'
    rows = [({"x": name}, math.inf), ({"x": "2"}, -math.inf), ({"x": "3"}, math.nan)]
    text = "\n".join(family("f", "gauge", "two\nlines \\ of help", rows)) + "\n"
    (found,) = text_string_to_metric_families(text)
    assert found.samples[0].labels["x"] == name
    assert [sample.value for sample in found.samples[:2]] == [math.inf, -math.inf]
    assert math.isnan(found.samples[2].value)


def test_no_two_labels_are_the_same_however_names_repeat_or_how_long_they_are() -> None:
    assert distinct(["a", "a #2", "a", "a"]) == ["a", "a #2", "a #3", "a #4"]
    long = distinct(["x" * 500, "x" * 400])
    assert len(set(long)) == 2
    assert max(map(len, long)) < 130


@pytest.mark.parametrize(
    ("listen", "allowed", "reason"),
    [
        ("0.0.0.0:9485", False, "allow_remote"),
        ("192.168.1.4:9485", False, "allow_remote"),
        ("[::]:9485", False, "allow_remote"),
        ("127.0.0.1", True, "not an address such as"),
        ("127.0.0.1:99999", True, "not an address such as"),
        ("127.0.0.1:٣", True, "not an address such as"),
        ("gateway.plant:9485", True, "not an IP address"),
        (":9485", True, "not an IP address"),
    ],
)
def test_an_address_that_is_none_or_that_others_could_reach_is_refused(
    listen: str, allowed: bool, reason: str
) -> None:
    ((key, said),) = problems(MetricsTable(listen=listen, allow_remote=allowed))
    assert key == "metrics.listen"
    assert reason in said


@pytest.mark.parametrize(
    ("listen", "allowed"),
    [
        ("", False),
        ("127.0.0.1:9485", False),
        ("[::1]:0", False),
        ("localhost:9485", False),
        ("0.0.0.0:9485", True),
    ],
)
def test_other_addresses_are_not(listen: str, allowed: bool) -> None:
    assert list(problems(MetricsTable(listen=listen, allow_remote=allowed))) == []

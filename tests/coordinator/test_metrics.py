"""`/metrics`, read by the Prometheus project's own parser."""

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.reader import Reader
from coordinator.store import Store
from coordinator.view import View
from coordinator.web.metrics import metrics_text
from tests.coordinator.seeded_view import GOAL, NOW, VERSIONS, about, seed


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    seed(tmp_path / "coordinator.db")
    with closing(Reader(tmp_path / "coordinator.db", about(), clock=lambda: NOW)) as reader:
        yield reader.view()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(view: View, name: str, **labels: str) -> float:
    return samples(metrics_text(view))[f"journeyman_{name}", tuple(sorted(labels.items()))]


def test_prometheus_reads_the_figures_that_the_page_shows(view: View) -> None:
    assert value(view, "version") == VERSIONS
    assert value(view, "serve_version") == 40
    assert value(view, "candidate_version") == 45
    assert value(view, "updates_total", outcome="folded") == 240
    assert value(view, "updates_total", outcome="void") == 0
    assert value(view, "duplicates_total") == 7
    assert value(view, "buffer_members") == 3
    assert value(view, "buffer_goal") == GOAL
    assert value(view, "buffer_age_seconds") == 80
    assert value(view, "agents", status="online") == 4
    assert value(view, "gate_decisions_total", verdict="rolled back") == 1
    assert value(view, "alarms_total", kind="two contents") == 1
    served = view.quality.newest("serve", 40)
    assert served is not None
    assert value(view, "quality", model="serve", metric="pr_auc") == served.value
    assert value(view, "quality_sites", model="serve") == 4


def test_every_family_has_help_and_a_type_and_counters_end_in_total(view: View) -> None:
    text = metrics_text(view)
    assert text.endswith("\n")
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("journeyman_")
        assert family.documentation
        assert family.type in ("gauge", "counter", "histogram")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name


def test_the_histogram_of_staleness_is_cumulative_and_complete(view: View) -> None:
    found = samples(metrics_text(view))
    buckets = [
        (float(dict(labels)["le"]), number)
        for (name, labels), number in found.items()
        if name == "journeyman_staleness_versions_bucket"
    ]
    assert buckets == sorted(buckets)
    assert [number for _, number in buckets] == sorted(number for _, number in buckets)
    assert buckets[-1] == (float("inf"), 240.0)
    assert found["journeyman_staleness_versions_count", ()] == 240
    total = sum(age * number for age, number in view.updates.staleness.items())
    assert found["journeyman_staleness_versions_sum", ()] == total


def test_a_label_may_hold_anything(view: View) -> None:
    name = 'a "quoted" \\ back\\n slash\nand a line } {'
    named = dataclasses.replace(view, about=dataclasses.replace(view.about, federation=name))
    families = text_string_to_metric_families(metrics_text(named))
    (info,) = (family for family in families if family.name == "journeyman_info")
    assert info.samples[0].labels["federation"] == name


def test_no_agent_or_site_is_a_label_so_the_answer_does_not_grow_with_the_fleet(
    view: View,
) -> None:
    text = metrics_text(view)
    assert [agent.agent for agent in view.agents if agent.agent in text] == []
    assert "Nordhausen" not in text


def test_what_does_not_exist_yet_has_no_sample(tmp_path: Path) -> None:
    Store(tmp_path / "coordinator.db").close()
    with closing(Reader(tmp_path / "coordinator.db", about())) as reader:
        found = samples(metrics_text(reader.view()))
    names = {name for name, _ in found}
    assert "journeyman_serve_version" not in names
    assert "journeyman_quality" not in names
    assert found["journeyman_updates_total", (("outcome", "folded"),)] == 0
    assert found["journeyman_agents", (("status", "online"),)] == 0

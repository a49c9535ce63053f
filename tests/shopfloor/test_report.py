"""The report says what the record shows, in bytes that repeat and without flattery."""

import json
import math
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from shopfloor.record import (
    BaselinePoint,
    Event,
    ModelQuality,
    Outage,
    QualityPoint,
    RunRecord,
    Secured,
    SitePrivacy,
    SiteQuality,
    SiteSummary,
    Traffic,
    UpdateCounts,
)
from shopfloor.report import headline, report_html, report_json, verdict, write_report

ROOT = Path(__file__).resolve().parents[2]
SITES = ("L", "M", "H")
WALL_S = 90.0
LOCAL_ALL = {"L": 0.731, "M": 0.588, "H": 0.346}
LOCAL_OWN = {"L": 0.774, "M": 0.628, "H": 0.412}
FEDERATED_OWN = {"L": 0.786, "M": 0.702, "H": 0.643}
POOLED_OWN = {"L": 0.789, "M": 0.711, "H": 0.602}
FEDERATED_ALL, POOLED_ALL = 0.768, 0.771


def grown(final: float, progress: float) -> float:
    return final * (1 - math.exp(-4 * progress)) / (1 - math.exp(-4))


def sites_at(
    final: dict[str, float], progress: float, jitter: float = 0.0
) -> dict[str, SiteQuality]:
    return {
        site: SiteQuality(grown(value, progress) + jitter, 0.5 + grown(0.45, progress))
        for site, value in final.items()
    }


def model_at(all_rows: float, own: dict[str, float], progress: float) -> ModelQuality:
    return ModelQuality(
        grown(all_rows, progress), 0.5 + grown(0.45, progress), sites_at(own, progress)
    )


def baselines() -> list[BaselinePoint]:
    points = []
    for t_s in (12.0, 30.0, 50.0, 70.0, WALL_S):
        local = {
            site: model_at(LOCAL_ALL[site], {**LOCAL_ALL, site: LOCAL_OWN[site]}, t_s / WALL_S)
            for site in SITES
        }
        points.append(BaselinePoint(t_s, model_at(POOLED_ALL, POOLED_OWN, t_s / WALL_S), local))
    return points


def federated_versions(rng: random.Random) -> list[QualityPoint]:
    points = []
    for version in range(25):
        t_s = 3 + version * 3.5
        progress = 1.0 if version == 24 else t_s / WALL_S
        jitter = 0.0 if version == 24 else rng.uniform(-0.02, 0.02)
        points.append(
            QualityPoint(
                t_s,
                version,
                grown(FEDERATED_ALL, progress) + jitter,
                0.5 + grown(0.46, progress),
                sites_at(FEDERATED_OWN, progress, jitter),
            )
        )
    return points


def links(rng: random.Random) -> tuple[list[Outage], list[Traffic]]:
    outages, traffic = [], []
    for site in SITES:
        t_s, sent, received = 0.0, 0, 0
        while t_s < WALL_S:
            down_s = min(WALL_S, t_s + rng.uniform(5, 14))
            for second in range(int(t_s), int(down_s), 2):
                sent, received = (
                    sent + rng.randint(5_000, 9_000),
                    received + rng.randint(900, 4_000),
                )
                traffic.append(Traffic(site, float(second), sent, received))
            t_s = min(WALL_S, down_s + rng.uniform(2, 6))
            if down_s < WALL_S:
                outages.append(Outage(site, down_s, t_s))
        traffic.append(Traffic(site, WALL_S, sent, received))
    return outages, traffic


def a_run() -> RunRecord:
    """Ninety seconds of three sites with the figures that the published table gives."""
    rng = random.Random(3)
    outages, traffic = links(rng)
    return RunRecord(
        seed=3,
        data="ai4i2020.csv",
        strategy="fedbuff",
        wall_s=WALL_S,
        sites=[
            SiteSummary("L", 4800, 188, 1200, 47, 96, 95, 0.42, 0.31),
            SiteSummary("M", 2398, 66, 599, 17, 61, 60, 0.55, 0.29),
            SiteSummary("H", 803, 17, 200, 4, 57, 57, 0.61, 0.30),
        ],
        quality=federated_versions(rng),
        baselines=baselines(),
        outages=outages,
        traffic=traffic,
        updates=UpdateCounts(214, 212, 0, 2, 0, 7, 0),
        bytes_per_update=4108.0,
        link_down_share=0.30,
        versions=24,
        serve_version=24,
        events=[
            Event(17.2, "Update L/12 trained during an outage, arrived 4.1 s later"),
            Event(41.0, "Site H resent 3 chunks after a cut; the copy was recognized"),
        ],
    )


def with_own(record: RunRecord, site: str, pr_auc: float | None) -> RunRecord:
    """The same run, with the final own-data-only model of `site` judged otherwise at home."""
    last = record.baselines[-1]
    model = last.local[site]
    own = {**model.per_site, site: SiteQuality(pr_auc, pr_auc)}
    local = {**last.local, site: msgspec.structs.replace(model, per_site=own)}
    final = msgspec.structs.replace(last, local=local)
    return msgspec.structs.replace(record, baselines=[*record.baselines[:-1], final])


def test_the_json_holds_every_key_that_the_issue_names() -> None:
    report = report_json(a_run())
    assert {
        "seed", "pr_auc", "roc_auc", "per_site", "updates", "link_down_share", "bytes_per_update",
        "wall_s",
    } <= report.keys()  # fmt: skip
    assert list(report["updates"]) == [
        "produced", "folded", "refused", "void", "dropped", "duplicates", "lost",
    ]  # fmt: skip
    for metric in ("pr_auc", "roc_auc"):
        assert report[metric].keys() == {"local", "federated", "pooled"}
        assert report[metric]["local"].keys() == set(SITES)
        for site in SITES:
            assert report["per_site"][site][metric].keys() == {"local", "federated", "pooled"}


def test_the_json_tells_all_rows_from_own_rows() -> None:
    report = report_json(a_run())
    assert report["pr_auc"]["local"]["H"] == pytest.approx(LOCAL_ALL["H"])
    assert report["per_site"]["H"]["pr_auc"]["local"] == pytest.approx(LOCAL_OWN["H"])
    assert report["pr_auc"]["federated"] == pytest.approx(FEDERATED_ALL)
    assert report["per_site"]["H"]["pr_auc"]["federated"] == pytest.approx(FEDERATED_OWN["H"])
    assert report["per_site"]["M"]["pr_auc"]["pooled"] == pytest.approx(POOLED_OWN["M"])


def test_the_federated_figure_is_that_of_the_served_version_not_the_newest() -> None:
    record = msgspec.structs.replace(a_run(), serve_version=20)
    served = next(point for point in record.quality if point.version == 20)
    assert report_json(record)["pr_auc"]["federated"] == served.pr_auc
    assert f"federated {served.pr_auc:.2f}" in verdict(record)


def test_a_record_that_cannot_be_reported_is_refused_by_name() -> None:
    for made in (report_json, report_html, verdict):
        with pytest.raises(ValueError, match="version 99"):
            made(msgspec.structs.replace(a_run(), serve_version=99))
        with pytest.raises(ValueError, match="no baseline"):
            made(msgspec.structs.replace(a_run(), baselines=[]))


def test_the_headline_says_who_was_helped() -> None:
    assert headline(a_run()) == "Learning together helped every site."


def test_the_headline_says_who_did_better_alone() -> None:
    assert headline(with_own(a_run(), "M", 0.75)) == (
        "Learning together helped L and H, but M did better alone."
    )


def test_a_difference_that_two_decimals_cannot_show_is_called_equal() -> None:
    assert "M did as well alone" in headline(with_own(a_run(), "M", FEDERATED_OWN["M"] + 0.004))


def test_a_site_without_failures_to_judge_by_is_named_not_hidden() -> None:
    record = with_own(a_run(), "H", None)
    assert "H cannot be judged" in headline(record)
    assert "H not judgeable" in verdict(record)
    assert report_json(record)["per_site"]["H"]["pr_auc"]["local"] is None
    assert "H" in report_html(record)


def test_the_verdict_is_short_and_gives_the_numbers() -> None:
    words = verdict(a_run())
    assert 3 <= len(words.splitlines()) <= 6
    for shown in ("0.77", "0.73", "H 0.41 -> 0.64", "No update was lost", "30%", "24 versions"):
        assert shown in words
    assert words.isascii()


def test_a_worse_federated_model_is_called_worse() -> None:
    record = with_own(a_run(), "M", 0.75)
    assert "M 0.75 -> 0.70 (worse)" in verdict(record)
    assert "better off alone" in report_html(record)


def test_lost_updates_and_wrong_sums_are_said_loudly() -> None:
    lost = msgspec.structs.replace(a_run(), updates=UpdateCounts(10, 8, lost=2))
    assert "2 updates were LOST" in verdict(lost)
    assert "+ 2 lost" in verdict(lost)
    assert headline(lost).endswith("2 updates were LOST.")
    astray = msgspec.structs.replace(a_run(), updates=UpdateCounts(10, 8))
    assert "do not add up, off by 2" in verdict(astray)


def test_a_run_with_masks_says_what_was_seen_what_it_cost_and_who_overspent() -> None:
    secured = Secured(
        sums=34,
        smallest=6,
        k_min=5,
        plain_pr_auc=0.81,
        plain_roc_auc=0.97,
        plain_bytes=2_980.0,
        noise_multiplier=19.67,
        budget=3.0,
        delta=1e-5,
        sites=[SitePrivacy("L", 2.91, 19, 19), SitePrivacy("M", 3.2, 21, 21)],
    )
    record = msgspec.structs.replace(a_run(), secured=secured)
    words = verdict(record)
    assert "34 sums, each over 6 sites or more (the charter asks for 5)" in words
    assert "against 0.81" in words
    assert "against 2.98 kB" in words
    assert "most spent 3.20; OVER BUDGET: M." in words
    page = report_html(record)
    assert "What the coordinator could see" in page
    assert "<td>2.91</td>" in page
    assert report_json(record)["secured"]["sums"] == 34
    assert "What the coordinator could see" not in report_html(a_run())


def test_sites_with_few_failures_are_marked_as_rough() -> None:
    assert "M (17) and H (4)" in verdict(a_run())
    assert "M (17) and H (4)" in report_html(a_run())


def test_numbers_and_words_are_had_without_loading_the_plotting_library() -> None:
    code = "import sys, shopfloor.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_caption_of_the_traffic_says_where_bytes_are_counted() -> None:
    page = report_html(a_run())
    assert "TCP payload bytes" in page
    assert "counted in its link proxy, protocol overhead included" in page


def test_the_page_needs_nothing_from_outside_and_no_script() -> None:
    page = report_html(a_run())
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


class _Page(HTMLParser):
    """Collects ids and the labels of drawings, and checks that tags close in order."""

    VOID = frozenset({"meta", "br", "line", "rect", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.labels: list[str | None] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "id" in values:
            self.ids.append(str(values["id"]))
        if tag == "svg" and values.get("aria-hidden") != "true":
            self.labels.append(values.get("aria-label"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_with_unique_ids_and_a_text_for_every_plot() -> None:
    page = _Page()
    page.feed(report_html(a_run()))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert len(page.labels) == len(SITES) + 3
    assert all(label and len(label) > 40 for label in page.labels)


def test_the_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(a_run(), tmp_path / name)
    for file in ("report.html", "report.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert json.loads((tmp_path / "one" / "report.json").read_text())["seed"] == 3


def test_names_from_outside_are_escaped() -> None:
    record = msgspec.structs.replace(
        a_run(), data='<img src="x">', events=[Event(1.0, "<b>bold</b> & more")]
    )
    page = report_html(record)
    assert "<img" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; more" in page


def test_colors_are_variables_so_that_dark_pages_stay_readable() -> None:
    page = report_html(a_run())
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--federated)" in drawings
    assert not re.search(r"(fill|stroke): #", drawings)


def test_a_short_run_of_one_oddly_named_site_is_reported_too() -> None:
    site = "$a_b & <c>$"
    judged = {site: SiteQuality(None, None)}
    model = ModelQuality(0.2, 0.6, judged)
    record = RunRecord(
        seed=0,
        data="generated",
        strategy="fedavg",
        wall_s=4.0,
        sites=[SiteSummary(site, 0, 0, 0, 0, 0, 0, None, 0.0)],
        quality=[QualityPoint(1.0, 0, 0.1, 0.5, judged)],
        baselines=[BaselinePoint(4.0, model, {site: model})],
        outages=[],
        traffic=[],
        updates=UpdateCounts(),
        bytes_per_update=0.0,
        link_down_share=0.0,
        versions=0,
        serve_version=0,
        events=[],
    )
    page = report_html(record)
    assert "<c>" not in page
    assert "$a_b &amp; &lt;c&gt;$" in page
    assert "can be judged" in headline(record)
    assert "worse than the best site alone" in verdict(record)
    assert report_json(record)["per_site"][site]["up_bytes"] == 0

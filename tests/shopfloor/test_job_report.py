"""A job's report says what its record shows: directions, gaps and losses included."""

import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from shopfloor.jobs.record import (
    CoursePoint,
    Difference,
    Drift,
    JobRecord,
    Newcomer,
    Proposals,
    Qualities,
    SiteResult,
    Unseen,
)
from shopfloor.jobs.report import verdict, write_job_report
from shopfloor.jobs.report_page import job_report_html
from shopfloor.jobs.report_verdict import verdict_figures
from shopfloor.jobs.report_words import headline, significant
from shopfloor.record import Outage, UpdateCounts

HOSTILE = 'H<script>"&$x'
UNKNOWN = Qualities(None, None, None, None)
SENT = {"update: content": 120_000, "protocol": 3_100}


def a_site(name: str, quality: Qualities, over_local: Difference | None) -> SiteResult:
    return SiteResult(
        name=name,
        rows=4800,
        test_rows=1200,
        test_positives=None,
        quality=quality,
        serves="fine-tuned: loss 0.113 against 0.121 of global",
        over_local=over_local,
        produced=31,
        folded=30,
        down_share=0.3,
        sent_bytes=SENT,
    )


def milling() -> JobRecord:
    """Two sites, one of them with an odd name and too few rows, and nothing optional."""
    good = Qualities(0.7312, 0.7904, 0.7951, 0.7960)
    little = a_site(HOSTILE, UNKNOWN, None)
    return JobRecord(
        task="maintenance",
        title="Predictive maintenance",
        metric="pr_auc",
        unit="",
        data="generated",
        seed=7,
        wall_s=60.0,
        sites=[
            msgspec.structs.replace(
                a_site("L", good, Difference(0.0639, -0.004, 0.0911)), test_positives=41
            ),
            msgspec.structs.replace(little, test_positives=4),
        ],
        overall=Qualities(0.6604, 0.7712, 0.7731, 0.7744),
        own=good,
        course=[CoursePoint(2.0 * at, at, 0.77 - 0.5 / (at + 1)) for at in range(20)],
        outages=[Outage("L", 5.0, 9.0), Outage(HOSTILE, 20.0, 31.0)],
        updates=UpdateCounts(62, 60, void=2, duplicates=3),
        versions=19,
        served=18,
        down_share=0.3,
    )


def engines() -> JobRecord:
    """Twelve sites by RMSE, with everything that a run may show; one site is better off alone."""
    better = Qualities(26.61, 14.21, 14.06, 13.52)
    sites = [a_site(f"engines-{at:02d}", better, Difference(12.55, 11.1, 14.2)) for at in range(12)]
    sites[8] = a_site("engines-08", Qualities(13.04, 14.1, 14.1, 13.2), Difference(-1.06, -2, 0.1))
    return msgspec.structs.replace(
        milling(),
        metric="rmse",
        unit="cycles",
        sites=sites,
        overall=better,
        own=better,
        course=[CoursePoint(2.0 * at, at, 14.2 + 70 / (at + 1) ** 2) for at in range(20)],
        threshold="alarms begin at 0.31",
        channels=["s2", "rul"],
        unread=["customer<b>", "price"],
        drift=Drift("engines-00", "s2 was moved", 14.2, 31.5, "drift of <feature> 3", 14.2),
        newcomer=Newcomer(
            "engines-11", 1900, 14.25, 14.2, Difference(-0.05, -0.3, 0.2), 13.9, 31.0
        ),
        unseen=Unseen("engines-02", "spur", 52, 0, 47, 46, 48),
        proposals=Proposals("kWh/t", 41.2, 22.1, 15.3, 6.25, 5.9),
    )


@cache
def page_of(name: str) -> str:
    return job_report_html({"milling": milling, "engines": engines}[name]())


def test_the_headline_says_against_alone_and_against_pooled() -> None:
    record = milling()
    assert headline(record) == (
        "Learning together beats learning alone, without loss against pooling all rows."
    )
    far = msgspec.structs.replace(record.own, pooled=0.85)
    assert "but falls 0.055 short of pooling" in headline(msgspec.structs.replace(record, own=far))
    alone = msgspec.structs.replace(record.own, local=0.81)
    assert "does not beat learning alone" in headline(msgspec.structs.replace(record, own=alone))
    blind = msgspec.structs.replace(record, own=UNKNOWN)
    assert headline(blind) == headline(record)
    assert "too few test rows" in headline(msgspec.structs.replace(blind, overall=UNKNOWN))


def test_a_smaller_rmse_is_better_in_words_marks_and_figures() -> None:
    record = engines()
    assert headline(record).startswith("Learning together beats learning alone, with a small loss")
    assert "engines-08 is worse off than alone" in headline(record)
    assert "engines-08 by 1.06 cycles (95%: -2.00 to +0.100)" in verdict(record)
    row = re.search(r"<tr><th>engines-08</th>.*?</tr>", page_of("engines"))
    assert row is not None
    assert '<b class="better">13.0</b>' in row[0]
    assert '<td class="worse">&minus;1.06' in row[0]
    assert "Further left is better" in page_of("engines")
    assert "Further right is better" in page_of("milling")
    own = verdict_figures(record)["own"]
    assert own["personal_over_local"] == pytest.approx(12.55)
    assert (own["personal_beats_local"], own["personal_near_pooled"]) == (True, True)
    assert own["federated_near_pooled"] is False  # 5.1 % behind
    assert verdict_figures(record)["sites_worse_off"] == ["engines-08"]


def test_the_terminal_gets_three_to_six_plain_lines_with_the_figures() -> None:
    for record, shown in (
        (milling(), ("0.731", "0.773", "the one site", "No update was lost", "30%", "version 18")),
        (engines(), ("smaller is better", "26.6", "finds 47 of 52", "after 14 s", "6.25")),
    ):
        words = verdict(record)
        assert 3 <= len(words.splitlines()) <= 6
        assert words.isascii()
        assert [each for each in shown if each not in words] == []


def test_lost_updates_are_said_loudly() -> None:
    record = msgspec.structs.replace(milling(), updates=UpdateCounts(10, 8, lost=2))
    assert headline(record).endswith("2 updates were LOST.")
    assert verdict_figures(record)["no_update_lost"] is False
    assert verdict_figures(record)["updates_add_up"] is True


def test_a_site_that_can_not_tell_gets_a_dash_with_the_reason() -> None:
    row = re.search(r"<tr><th>H&lt;.*?</tr>", page_of("milling"))
    assert row is not None
    assert row[0].count("&ndash;<small>too few to tell</small>") == 2
    assert "4 positive" in row[0]
    assert verdict_figures(milling())["sites_judged"] == 1


def test_the_best_of_the_three_allowed_models_is_marked_and_pooled_never() -> None:
    row = re.search(r"<tr><th>L</th>.*?</tr>", page_of("milling"))
    assert row is not None
    assert re.findall(r'<b class="better">([^<]*)</b>', row[0]) == ["0.795"]
    assert "<td>0.796</td>" in row[0]
    assert '<td class="equal">+0.064<small>&minus;0.004 to +0.091</small>' in row[0]


def test_accuracy_is_in_per_cent_and_its_differences_in_points() -> None:
    record = msgspec.structs.replace(milling(), metric="accuracy")
    assert "personal 79.5%" in verdict(record)
    far = msgspec.structs.replace(record.own, pooled=0.9)
    words = headline(msgspec.structs.replace(record, own=far))
    assert "falls 10.5 points short" in words


def test_figures_in_a_unit_have_three_digits() -> None:
    figures = [significant(value) for value in (13.304, 0.04251, 133.4, 1234.0, 0.0, 9.999)]
    assert figures == ["13.3", "0.0425", "133", "1,230", "0.00", "10.0"]


def test_a_section_stands_only_where_the_record_has_it() -> None:
    titles = (
        "A class the site had never seen",
        "A site that joined late",
        "When a site&rsquo;s data move",
        "Proposed set-points",
        "When an alarm is raised",
        "Nobody read these columns",
    )
    assert [title for title in titles if title in page_of("milling")] == []
    assert [title for title in titles if title not in page_of("engines")] == []
    assert "95 % interval -0.3" in page_of("engines")  # of what the newcomer is served
    shown = verdict_figures(engines())
    assert not shown["newcomer_near_members"]  # 14.25 against 13.9 cycles at home
    assert shown["newcomer_as_good_as_members_there"]  # and 14.2 of members' models there
    assert shown["unseen_learned"]
    assert shown["drift_noticed"]
    assert shown["proposals_beat_every_site"]
    assert "drift_noticed" not in verdict_figures(milling())


def test_what_left_the_gateways_is_summed_by_category_with_its_meaning() -> None:
    page = page_of("engines")
    assert "<tr><th>update: content</th><td>1.44&nbsp;MB</td>" in page
    assert "no row as such, no channel&#x27;s name, no time" in page
    assert "<code>customer&lt;b&gt;</code> and <code>price</code>" in page
    strange = msgspec.structs.replace(milling().sites[0], sent_bytes={"unknown": 12})
    record = msgspec.structs.replace(milling(), sites=[strange])
    assert verdict_figures(record)["nothing_unexplained_left"] is False


class _Tags(HTMLParser):
    """Checks that tags close in order, and collects ids and what drawings are said to show."""

    VOID = frozenset({"meta", "br", "rect", "circle", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids += [values["id"]] if "id" in values else []
        self.labels += [values["aria-label"]] if "aria-label" in values else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["milling", "engines"])
def test_the_page_is_well_formed_stands_alone_and_tells_its_drawings(name: str) -> None:
    page = page_of(name)
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert len(tags.labels) == 2
    assert "mean of the sites: local" in tags.labels[0]
    assert "served version over 60 s" in tags.labels[1]
    assert not re.search(r'<script|(src|href)="(?!#)|@import|url\((?!#)', page)
    assert not re.search(r"(fill|stroke): #", page)


def test_names_from_outside_are_escaped_and_stand_as_they_are() -> None:
    assert "H<script>" not in page_of("milling")
    assert "H&lt;script&gt;&quot;&amp;$x" in page_of("milling")
    assert "drift of &lt;feature&gt; 3" in page_of("engines")


def test_the_same_record_gives_the_same_bytes_and_the_json_holds_record_and_verdict(
    tmp_path: Path,
) -> None:
    write_job_report(milling(), tmp_path / "new")
    assert (tmp_path / "new" / "report.html").read_text() == page_of("milling")
    found = json.loads((tmp_path / "new" / "report.json").read_text())
    assert found.pop("verdict") == verdict_figures(milling())
    assert msgspec.convert(found, JobRecord) == milling()


def test_a_figure_that_is_not_finite_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    broken = msgspec.structs.replace(milling(), wall_s=float("nan"))
    with pytest.raises(ValueError, match="nan"):
        write_job_report(broken, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_run_of_one_site_without_versions_is_reported_too() -> None:
    site = msgspec.structs.replace(milling().sites[1], name="only", sent_bytes={})
    record = msgspec.structs.replace(
        milling(), sites=[site], own=UNKNOWN, overall=UNKNOWN, course=[], outages=[]
    )
    page = job_report_html(record)
    assert "No version was judged." in page
    assert "No account of what left the gateways was read." in page
    assert "No site has enough test rows to be judged by itself." in verdict(record)

"""A job's report as one HTML page, from `report_page.html` here and the demo's style sheet.

Responsible for the frame, the table of the sites and the plots; `report_sections.py` has the rest.
Refuses scripts and anything to fetch.  Invariant: every word that comes from outside the program is
escaped.
"""

from html import escape
from importlib.resources import files
from string import Template

from shopfloor.jobs.record import Difference, JobRecord, Qualities, SiteResult
from shopfloor.jobs.report_sections import bytes_section, channel_words, meanings, sections
from shopfloor.jobs.report_verdict import WAYS, best_ways, gain, worse_off
from shopfloor.jobs.report_words import (
    NAMES,
    TOO_FEW,
    difference_unit,
    headline,
    interval,
    metric_words,
    number,
    quality_words,
    signed,
    worse_words,
)
from shopfloor.jobs.task import Metric
from shopfloor.page_parts import figure_html, table_html, update_table
from shopfloor.report_words import accounting

MARKS = {
    "local": ("own", '<rect x="4" y="4" width="9" height="9"'),
    "federated": ("federated", '<circle cx="8.5" cy="8.5" r="5"'),
    "personal": ("personal", '<path d="M8.5 2.5 14.5 8.5 8.5 14.5 2.5 8.5z"'),
    "pooled": ("pooled", '<path d="M8.5 3 14.5 13.5H2.5z"'),
}
"""Of each way: its series in the style sheet, and the mark of the plots as SVG."""


def job_report_html(record: JobRecord) -> str:
    """The whole page: style and plots inside, nothing to fetch, no script."""
    plots = _plots(record)
    here = files("shopfloor")
    page = here.joinpath("jobs", "report_page.html").read_text(encoding="utf-8")
    return Template(page).substitute(
        plots,
        title=escape(record.title),
        seed=record.seed,
        style=here.joinpath("report_style.css").read_text(encoding="utf-8"),
        run=_run(record),
        headline=escape(headline(record)),
        lede=escape(_lede(record)),
        cards=_cards(record),
        site_table=_site_table(record),
        table_note=_table_note(record),
        key=_key(),
        sections="\n".join(sections(record)),
        channels=channel_words(record),
        sent=bytes_section(record),
        balance=escape(accounting(record.updates)),
        update_table=update_table(record.updates),
        meanings=meanings(record),
    )


def _run(record: JobRecord) -> str:
    data = "generated data" if record.data == "generated" else f"data {record.data}"
    words = (record.title, f"seed {record.seed}", data, f"{len(record.sites)} sites")
    return " &middot; ".join(escape(each) for each in (*words, f"{record.wall_s:.0f} s"))


def _lede(record: JobRecord) -> str:
    return " ".join((*quality_words(record), worse_words(record)))


def _cards(record: JobRecord) -> str:
    metric, quality, name = record.metric, record.own, NAMES[record.metric]
    where = "mean of the sites on their own test rows"
    if quality.personal is None:
        quality, where = record.overall, "all sites' test rows"
    served, lost = quality.personal, record.updates.lost
    unit = f" ({record.unit}, smaller is better)" if record.unit and metric == "rmse" else ""
    points = f"{difference_unit(record)} ".lstrip()
    cards = []
    if served is not None:
        cards.append((number(metric, served), f"{name}{unit} of what the sites serve, {where}"))
    for other, words in (
        (quality.local, "against each site alone"),
        (quality.pooled, "against all rows pooled in one place"),
    ):
        more = gain(metric, served, other)
        if more is not None:
            big = signed(metric, more).replace("-", "\N{MINUS SIGN}")
            cards.append((big, f"{points}{words} (+ is better)"))
    cards.append((f"{lost:,}", f"of {record.updates.produced:,} updates lost"))
    cards.append((f"{record.down_share:.0%}", "of the time the links were down"))
    return "\n".join(
        f"<li><b>{escape(big)}</b><span>{escape(small)}</span></li>" for big, small in cards
    )


def _site_table(record: JobRecord) -> str:
    rows = [_site_row(record, site) for site in record.sites]
    rows.append(_summary_row(record.metric, "Mean of the sites", record.own, "all"))
    rows.append(_summary_row(record.metric, "All rows together", record.overall, ""))
    unit = difference_unit(record)
    unit = f", {escape(unit)}" if unit else ""
    columns = (
        "judged on",
        "rows",
        *WAYS,
        f"personal against local{unit}<br>(+ is better)",
        "updates",
        "link down",
    )
    return table_html(f"{metric_words(record)} on test rows", columns, rows)


def _table_note(record: JobRecord) -> str:
    less = "smallest" if record.metric == "rmse" else "largest"
    words = (
        f"Bold: the best, which is the {less}, of the three that a site may have; pooled is no "
        "choice. Small beneath a difference: its 95 % interval; where that holds 0, chance may "
        "explain it."
    )
    if record.newcomer is None:
        return words
    name = escape(record.newcomer.site)
    return f"{words} The last two rows are without {name}, which joined late."


def _site_row(record: JobRecord, site: SiteResult) -> str:
    positives = "" if site.test_positives is None else f", {site.test_positives:,} positive"
    is_worse = site in worse_off(record)
    return (
        f"<tr><th>{escape(site.name)}</th>"
        f"<td>{site.rows:,}<small>test {site.test_rows:,}{positives}</small></td>"
        f"{_quality_cells(record.metric, site.quality)}"
        f"{_difference_cell(record.metric, site.over_local, is_worse=is_worse)}"
        f"<td>{site.produced:,}<small>{site.folded:,} folded</small></td>"
        f"<td>{site.down_share:.0%}</td></tr>"
        f'<tr class="why"><td colspan="9">serves {escape(site.serves)}</td></tr>'
    )


def _summary_row(metric: Metric, name: str, quality: Qualities, kind: str) -> str:
    more = gain(metric, quality.personal, quality.local)
    words = "&ndash;" if more is None else _minus(signed(metric, more))
    return (
        f'<tr class="{kind}"><th>{escape(name)}</th><td></td>{_quality_cells(metric, quality)}'
        f"<td>{words}</td><td></td><td></td></tr>"
    )


def _quality_cells(metric: Metric, quality: Qualities) -> str:
    values = {way: getattr(quality, way) for way in WAYS}
    if all(value is None for value in values.values()):
        return f'<td colspan="{len(WAYS)}">&ndash;<small>{TOO_FEW}</small></td>'
    shown = {number(metric, values[way]) for way in best_ways(metric, quality)}
    return "".join(
        f"<td>&ndash;<small>{TOO_FEW}</small></td>"
        if value is None
        else f'<td><b class="better">{number(metric, value)}</b></td>'
        if number(metric, value) in shown and way != "pooled"
        else f"<td>{number(metric, value)}</td>"
        for way, value in values.items()
    )


def _difference_cell(metric: Metric, more: Difference | None, *, is_worse: bool) -> str:
    if more is None:
        return f"<td>&ndash;<small>{TOO_FEW}</small></td>"
    kind = "worse" if is_worse else "better" if more.low > 0 else "equal"
    return (
        f'<td class="{kind}">{_minus(signed(metric, more.value))}'
        f"<small>{_minus(interval(metric, more))}</small></td>"
    )


def _minus(words: str) -> str:
    return escape(words).replace("-", "&minus;")


def _key() -> str:
    items = "".join(
        f'<li><svg class="mark" viewBox="0 0 17 17" aria-hidden="true">{shape} '
        f'fill="var(--{series})"/></svg>{way}</li>'
        for way, (series, shape) in MARKS.items()
    )
    return f'<ul class="key">{items}</ul>'


def _plots(record: JobRecord) -> dict[str, str]:
    # Here, so that who only wants numbers and words neither needs matplotlib nor waits for it.
    from shopfloor.jobs.report_plots import draw_job_plots  # noqa: PLC0415

    plots = draw_job_plots(record)
    toward = "left" if record.metric == "rmse" else "right"
    words = f"Further {toward} is better. Each site is judged on its own test rows."
    course = (
        "The federated version that was served, judged on all sites&rsquo; test rows together, "
        "beside what pooled training and the mean of the local models reach on them. Beneath, a "
        "band for each site: line, link up; block, link down. What an agent trains meanwhile waits "
        "in its outbox."
    )
    if plots.is_cut:
        course += " The first versions were worse than the picture shows."
    course_plot = ""
    if plots.course:
        course_plot = figure_html(
            plots.course, "Quality over time, and the links", course, wide=True
        )
    return {
        "sites_plot": figure_html(plots.sites, "The same as a picture", words, wide=True),
        "course_plot": course_plot or "<p>No version was judged.</p>",
    }

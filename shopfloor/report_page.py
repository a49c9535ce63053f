"""The report as one HTML page, from `report_page.html` and `report_style.css` beside this file.

Responsible for the page's tables, figures and captions.  Refuses scripts and anything to fetch.
Invariant: every word that comes from outside the program is escaped.
"""

from html import escape
from importlib.resources import files
from string import Template

from shopfloor.comparison import (
    Comparison,
    Metric,
    compare_on_all_rows,
    compare_sites,
    direction,
)
from shopfloor.page_parts import bar_table, figure_html, table_html, update_table
from shopfloor.record import (
    RunRecord,
    bytes_crossed,
    final_baseline,
    served_quality,
)
from shopfloor.report_words import (
    accounting,
    bytes_words,
    caution,
    headline,
    overall_words,
    secured_words,
    site_words,
)


def report_html(record: RunRecord) -> str:
    """The whole page: style and plots inside, nothing to fetch, no script.

    Raises:
      ValueError: the record has no baseline or its served version was never judged.
    """
    here = files("shopfloor")
    held_out = sum(site.held_out_rows for site in record.sites)
    failures = sum(site.held_out_failures for site in record.sites)
    notes = caution(record)
    return Template(here.joinpath("report_page.html").read_text(encoding="utf-8")).substitute(
        _plots(record),
        style=here.joinpath("report_style.css").read_text(encoding="utf-8"),
        seed=record.seed,
        run=_run(record),
        headline=escape(headline(record)),
        lede=escape(_lede(record)),
        cards=_cards(record),
        site_table=_site_table(record, "pr_auc"),
        roc_table=_site_table(record, "roc_auc"),
        secured=_secured(record),
        caution=f'<p class="note">{escape(notes)}</p>' if notes else "",
        bars=_bars(record),
        events=_events(record),
        balance=escape(accounting(record.updates)),
        update_table=update_table(record.updates),
        traffic_table=_traffic_table(record),
        base_rate=f"{failures / held_out:.2f}" if held_out else "unknown",
        held_out=f"{held_out:,}",
    )


def _secured(record: RunRecord) -> str:
    """What masks and noise did; nothing for a run without."""
    if record.secured is None:
        return ""
    words = "</p><p>".join(escape(line) for line in secured_words(record).splitlines())
    rows = "".join(
        f"<tr><th>{escape(site.site)}</th><td>{site.epsilon:.2f}</td>"
        f"<td>{site.releases}</td><td>{site.produced}</td></tr>"
        for site in record.secured.sites
    )
    head = "<tr><th>site</th><th>epsilon spent</th><th>updates charged</th><th>made</th></tr>"
    table = f'<div class="sheet"><table>{head}{rows}</table></div>' if rows else ""
    return f"<section><h2>What the coordinator could see</h2><p>{words}</p>{table}</section>"


def _run(record: RunRecord) -> str:
    data = "generated data" if record.data == "generated" else f"data {record.data}"
    return " &middot; ".join(
        escape(words)
        for words in (f"seed {record.seed}", data, record.strategy, f"{record.wall_s:.0f} s")
    )


def _lede(record: RunRecord) -> str:
    arrow = "\N{RIGHTWARDS ARROW}"
    sites = ", ".join(
        words.replace(" ", "\N{NO-BREAK SPACE}") for words in site_words(record, arrow)
    )
    lost = record.updates.lost
    return (
        f"PR-AUC on all sites' held-out rows: {overall_words(record)}. Site by site on its own "
        f"held-out rows, alone {arrow} federated: {sites}. "
        f"{lost or 'None'} of {record.updates.produced} updates "
        f"{'was' if lost in {0, 1} else 'were'} lost, with links down "
        f"{record.link_down_share:.0%} of the time."
    )


def _cards(record: RunRecord) -> str:
    compared = compare_on_all_rows(record)
    federated = served_quality(record).pr_auc
    cards = (
        (f"{federated:.2f}", "PR-AUC of the federated model, all sites' held-out rows"),
        (_signed(compared.gain), f"against the best site alone ({compared.site})"),
        (
            _signed(federated - final_baseline(record).pooled.pr_auc),
            "against all data pooled in one place",
        ),
        (f"{record.updates.lost}", f"of {record.updates.produced} updates lost"),
        (f"{record.link_down_share:.0%}", "of the time the links were down"),
    )
    return "\n".join(f"<li><b>{big}</b><span>{escape(small)}</span></li>" for big, small in cards)


def _site_table(record: RunRecord, metric: Metric) -> str:
    rows = [
        f"<tr><th>{escape(line.site)}</th><td>{_number(line.own)}</td>"
        + _shared_cells(line, site.held_out_rows, site.held_out_failures)
        for line, site in zip(compare_sites(record, metric), record.sites, strict=True)
    ]
    overall = compare_on_all_rows(record, metric)
    rows.append(
        f'<tr class="all"><th>All sites</th><td>{_number(overall.own)}'
        f"<small>best: {escape(overall.site)}</small></td>"
        + _shared_cells(
            overall,
            sum(site.held_out_rows for site in record.sites),
            sum(site.held_out_failures for site in record.sites),
        )
    )
    return table_html(
        f"{'PR-AUC' if metric == 'pr_auc' else 'ROC-AUC'} on held-out rows",
        ("judged on", "own data only", "federated", "pooled", "federated &minus; own", "rows"),
        rows,
    )


def _shared_cells(line: Comparison, rows: int, failures: int) -> str:
    kind = {1: "better", 0: "equal", -1: "worse"}[direction(line.gain)]
    return (
        f"<td>{_number(line.federated)}</td><td>{_number(line.pooled)}</td>"
        f'<td class="{kind}">{_signed(line.gain)}</td>'
        f"<td>{rows:,}<small>{failures:,} failures</small></td></tr>"
    )


def _bars(record: RunRecord) -> str:
    last = final_baseline(record)
    models = [(f"{site} alone", "own", model.pr_auc) for site, model in last.local.items()]
    models.append(("Federated", "federated", served_quality(record).pr_auc))
    models.append(("Pooled", "pooled", last.pooled.pr_auc))
    rows = [(name, kind, value, f"{value:.2f}") for name, kind, value in models]
    return bar_table("PR-AUC of each model on all sites&rsquo; held-out rows", rows)


def _plots(record: RunRecord) -> dict[str, str]:
    # Here, so that who only wants numbers and words neither needs matplotlib nor waits for it.
    from shopfloor.report_plots import draw_plots  # noqa: PLC0415

    lines = compare_sites(record)
    plots = draw_plots(record)
    quality = [
        figure_html(svg, f"Site {line.site}, its own rows", _gain_words(line.gain))
        for line, svg in zip(lines, plots.per_site, strict=True)
    ]
    words = "Alone, a model has never seen the other sites&rsquo; machines."
    quality.append(figure_html(plots.all_sites, "All sites together", words))
    return {
        "quality_plots": "\n".join(quality),
        "timeline_plot": figure_html(
            plots.timeline,
            "Outages and versions",
            "Line: link up. Block: link down. Tick: a version that the sites judged.",
            wide=True,
        ),
        "traffic_plot": figure_html(
            plots.traffic,
            "Bytes sent",
            "All TCP payload bytes from each site, counted in its link proxy, protocol overhead "
            "included. Flat while the link is down, steep while the outbox empties.",
            wide=True,
        ),
    }


def _gain_words(gain: float | None) -> str:
    if gain is None:
        return "Its held-out rows hold only one class, so nothing can be judged."
    if direction(gain) < 0:
        return f"The site is better off alone: {_signed(gain)}."
    return f"Own data only to federated: {_signed(gain)}."


def _events(record: RunRecord) -> str:
    if not record.events:
        return ""
    items = "".join(
        f"<li><time>{event.t_s:.1f} s</time><span>{escape(event.text)}</span></li>"
        for event in record.events
    )
    return f'<ul class="events sheet">{items}</ul>'


def _traffic_table(record: RunRecord) -> str:
    crossed = bytes_crossed(record)
    rows = [
        f"<tr><th>{escape(site.site)}</th>"
        f"<td>{site.rows:,}<small>{site.failures:,} failures</small></td>"
        f"<td>{site.produced:,}<small>{site.folded:,} folded</small></td>"
        f"<td>{_number(site.staleness_mean)}</td><td>{site.link_down_share:.0%}</td>"
        f"<td>{bytes_words(crossed[site.site][0])}"
        f"<small>{bytes_words(crossed[site.site][1])} received</small></td></tr>"
        for site in record.sites
    ]
    columns = ("site", "rows learned from", "updates", "mean staleness", "link down", "sent")
    return table_html(f"Sites; {bytes_words(record.bytes_per_update)} per update", columns, rows)


def _number(value: float | None) -> str:
    return "&ndash;" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    if value is None:
        return "&ndash;"
    if direction(value) == 0:
        return "0.00"
    return f"+{value:.2f}" if value > 0 else f"&minus;{-value:.2f}"

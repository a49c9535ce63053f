"""Sections of a job's report that only some runs have, what left the gateways, and definitions.

Responsible for their HTML.  Invariant: a section stands only where the record has something to say,
and every word that comes from outside the program is escaped.
"""

from html import escape

from agent.egress.categories import CATEGORIES, UNKNOWN
from shopfloor.jobs.judging import LEAST_POSITIVES
from shopfloor.jobs.record import Drift, JobRecord, Newcomer, Proposals, Unseen
from shopfloor.jobs.report_verdict import POINT, is_behind
from shopfloor.jobs.report_words import (
    NAMES,
    metric_words,
    sentence_case,
    significant,
    with_unit,
)
from shopfloor.page_parts import bar_table, table_html
from shopfloor.report_words import bytes_words, listed

METRICS = {
    "pr_auc": "Area under the precision-recall curve (average precision), 0 to 1. A model that "
    "knows nothing scores the share of positive rows.",
    "roc_auc": "The chance that a positive row gets a higher score than another, 0 to 1. Knowing "
    "nothing scores 0.5.",
    "accuracy": "Share of test rows whose class is said rightly. Differences are in points, which "
    "are hundredths.",
    "rmse": "Root of the mean squared error, in the label&rsquo;s unit. Smaller is better; a "
    "difference with + means a smaller error.",
}

MEANINGS = {
    "Mean of the sites": "The mean over the sites that can tell, each judged on its own test rows: "
    "what a site may expect at home.",
    "All rows together": "Every model judged on all sites&rsquo; test rows. Local is the mean of "
    "the sites&rsquo; own models there; personal is each site&rsquo;s own choice on its own rows.",
    "95 % range": "Percentile bootstrap over test rows, both models judged on the same drawn rows.",
    "One run is one draw": "Another seed splits the rows and cuts the links differently. Small "
    "differences need several seeds.",
}


def sections(record: JobRecord) -> list[str]:
    """What this run shows beyond the models of its sites, in the page's order."""
    found = []
    if record.unseen is not None:
        found.append(_section("A class the site had never seen", _unseen(record.unseen)))
    if record.newcomer is not None:
        found.append(_section("A site that joined late", _newcomer(record, record.newcomer)))
    if record.drift is not None:
        found.append(_section("When a site&rsquo;s data move", _drift(record, record.drift)))
    if record.proposals is not None:
        found.append(_section("Proposed set-points", _proposals(record.proposals)))
    if record.threshold:
        found.append(
            _section("When an alarm is raised", f"<p>{escape(_sentence(record.threshold))}</p>")
        )
    return found


def _section(title_html: str, body_html: str) -> str:
    return f"<section><h2>{title_html}</h2>{body_html}</section>"


def _sentence(words: str) -> str:
    return f"{sentence_case(words)}{'' if words.endswith(('.', '!', '?')) else '.'}"


def _unseen(unseen: Unseen) -> str:
    site, label = escape(unseen.site), escape(unseen.label)
    found = {
        ("before: its own model", "own"): unseen.local,
        ("after: federated", "federated"): unseen.federated,
        ("after: what it serves", "personal"): unseen.personal,
        ("pooled", "pooled"): unseen.pooled,
    }
    bars = [
        (name, series, count / max(unseen.rows, 1), f"{count} of {unseen.rows}")
        for (name, series), count in found.items()
    ]
    return (
        f"<p>No row that site {site} learned from is of class &ldquo;{label}&rdquo;, but "
        f"{unseen.rows:,} of its test rows are. Other sites know that class.</p>"
        f'<div class="sheet">{bar_table(f"Rows of class {label} that are found", bars)}</div>'
    )


def _newcomer(record: JobRecord, new: Newcomer) -> str:
    metric = record.metric
    words = f"Site {new.site} joined when training was over and trained nothing. "
    if new.quality is None:
        words += "Its rows are too few to tell how well it is served."
    else:
        there = is_behind(metric, new.quality, new.members_there, POINT)
        home = is_behind(metric, new.quality, new.members, POINT)
        words += (
            f"On its rows the members' models are {'better' if there else 'no better'} than what "
            f"it is served; at home the members are {'better off' if home else 'no better off'}."
        )
    if new.over_members is not None:
        over = new.over_members
        words += (
            f" Its advantage over theirs there: {significant(over.value)}, 95 % interval "
            f"{significant(over.low)} to {significant(over.high)}."
        )
    bars = _quality_bars(
        record,
        (
            ("as served when it joined", "federated", new.quality),
            ("what members serve, mean", "personal", new.members_there),
        ),
        f"on its {new.rows:,} rows, none of which anybody learned from",
    )
    beside = _quality_bars(
        record,
        (
            ("the newcomer alone", "own", new.on_its_rows),
            ("members, mean", "pooled", new.members),
        ),
        "each at home, on its own test rows",
    )
    return f"<p>{escape(words)}</p>{bars}{beside}"


def _drift(record: JobRecord, drift: Drift) -> str:
    words = f"After the training the data of site {drift.site} were moved: {drift.moved}. "
    said = f"\N{LEFT DOUBLE QUOTATION MARK}{drift.alarm}\N{RIGHT DOUBLE QUOTATION MARK}."
    if not drift.alarm:
        words += "The coordinator raised no alarm."
    elif drift.alarm_s is None:
        words += f"The coordinator said: {said}"
    else:
        words += f"{drift.alarm_s:.0f} s after the first moved row the coordinator said: {said}"
    bars = _quality_bars(
        record,
        (
            ("before, as it was", "federated", drift.before),
            ("after, moved likewise", "people", drift.after),
        ),
        "on its test rows, of the version that is served",
    )
    return f"<p>{escape(words)}</p>{bars}"


def _quality_bars(
    record: JobRecord, values: tuple[tuple[str, str, float | None], ...], where: str
) -> str:
    largest = max((value for _, _, value in values if value is not None), default=0.0)
    full = max(largest, 1e-12) if record.metric == "rmse" else 1.0
    bars = [
        (name, series, (value or 0.0) / full, with_unit(record, value))
        for name, series, value in values
    ]
    caption = escape(f"{metric_words(record)} {where}")
    return f'<div class="sheet">{bar_table(caption, bars)}</div>'


def _proposals(found: Proposals) -> str:
    values = (
        ("as people run it", "people", found.people),
        ("a site's own model, mean", "own", found.local),
        ("the best site's own", "own", found.best_local),
        ("federated", "federated", found.federated),
        ("pooled", "pooled", found.pooled),
    )
    full = max(1e-12, *(value for _, _, value in values))
    bars = [
        (name, series, max(value, 0.0) / full, f"{significant(value)} {found.unit}")
        for name, series, value in values
    ]
    beats = "less" if found.federated < found.best_local else "not less"
    words = (
        "On a line whose optimum is known, set-points were proposed from each model. Regret is how "
        f"much worse than the optimum they are, in {found.unit}; smaller is better. With the "
        f"federated model it is {beats} than with any site's own."
    )
    return (
        f"<p>{escape(words)}</p>"
        f'<div class="sheet">{bar_table("Mean regret (shorter is better)", bars)}</div>'
    )


def channel_words(record: JobRecord) -> str:
    """What the agents were told to read, and what in the sites' files nobody reads."""
    if not record.channels:
        return ""
    what = "1 channel" if len(record.channels) == 1 else f"{len(record.channels)} channels"
    words = (
        f"Each agent was told to read {what} of its site&rsquo;s file: {_code(record.channels)}. "
    )
    if record.unread:
        words += f"Nobody read these columns, so they could not leave: {_code(record.unread)}."
    else:
        words += "The file has no other column than the time."
    return f"<p>{words}</p>"


def _code(names: list[str]) -> str:
    return listed([f"<code>{escape(name)}</code>" for name in names])


def bytes_section(record: JobRecord) -> str:
    """Bytes that left the gateways by category, and site by site."""
    sent: dict[str, int] = {}
    for site in record.sites:
        for category, count in site.sent_bytes.items():
            sent[category] = sent.get(category, 0) + count
    if not sent:
        return "<p>No account of what left the gateways was read.</p>"
    order = [name for name in CATEGORIES if sent.get(name)]
    order += sorted(name for name in sent if name not in CATEGORIES)
    rows = []
    for name in order:
        known = CATEGORIES.get(name)
        never = f"<small>{escape(known.never)}</small>" if known and known.never else ""
        holds = escape(known.holds) if known is not None else ""
        rows.append(
            f"<tr><th>{escape(name)}</th><td>{_size(sent[name])}</td><td>{holds}{never}</td></tr>"
        )
    total = sum(sent.values())
    rows.append(f'<tr class="all"><th>All</th><td>{_size(total)}</td><td></td></tr>')
    table = table_html("Bytes sent by all gateways", ("category", "bytes", "what it holds"), rows)
    strange = sent.get(UNKNOWN, 0)
    loud = f"<p><b>{bytes_words(strange)} could not be explained.</b></p>" if strange else ""
    return f'{loud}<div class="sheet updates">{table}</div>{_bytes_by_site(record, order)}'


def _bytes_by_site(record: JobRecord, order: list[str]) -> str:
    rows = []
    for site in record.sites:
        cells = "".join(f"<td>{_size(site.sent_bytes.get(name, 0))}</td>" for name in order)
        total = _size(sum(site.sent_bytes.values()))
        rows.append(f"<tr><th>{escape(site.name)}</th><td>{total}</td>{cells}</tr>")
    columns = ("site", "all", *(escape(name) for name in order))
    table = table_html("Bytes sent by each gateway", columns, rows)
    return f'<details><summary>Site by site</summary><div class="sheet">{table}</div></details>'


def _size(count: int) -> str:
    return bytes_words(count).replace(" ", "&nbsp;")


def meanings(record: JobRecord) -> str:
    """Definitions of the figures, as terms of a `<dl>`."""
    least = (
        f"a site with fewer than {LEAST_POSITIVES} test rows of either class"
        if record.metric in {"pr_auc", "roc_auc"}
        else "a site with very few test rows"
    )
    terms = {
        sentence_case(NAMES[record.metric]): METRICS[record.metric],
        **MEANINGS,
        "Too few to tell": f"No figure is given for {least}: it would be chance.",
    }
    return "\n".join(f"<dt>{name}</dt><dd>{words}</dd>" for name, words in terms.items())

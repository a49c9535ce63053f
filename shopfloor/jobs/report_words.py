"""A job's run in plain words: figures rounded for people, the headline, the terminal's verdict.

Responsible for wording and rounding.  Refuses to flatter: who is worse off than alone, what falls
short of pooled training, and lost updates are named.  Invariant: words are plain text, ASCII but
for names from outside; the page escapes them.
"""

from math import floor, log10

from shopfloor.jobs.record import Difference, JobRecord, Qualities
from shopfloor.jobs.report_verdict import (
    NO_LOSS,
    gain,
    is_behind,
    is_far_from_pooled,
    judged_sites,
    worse_off,
)
from shopfloor.jobs.task import Metric
from shopfloor.report_words import accounting, listed, lost_words

NAMES: dict[Metric, str] = {
    "pr_auc": "PR-AUC",
    "roc_auc": "ROC-AUC",
    "accuracy": "accuracy",
    "rmse": "RMSE",
}
TOO_FEW = "too few to tell"
_LARGE = 1000
_NAMED = 3
"""So many sites are named in the headline; beyond that they are counted."""


def number(metric: Metric, value: float) -> str:
    """A quality for people: three digits, or per cent with one."""
    if metric == "accuracy":
        return f"{value:.1%}"
    return significant(value) if metric == "rmse" else f"{value:.3f}"


def significant(value: float) -> str:
    """Three significant digits: 26.6, 0.0425, 1,230."""
    if abs(value) >= _LARGE:
        return f"{round(value, 2 - floor(log10(abs(value)))):,.0f}"
    return f"{value:#.3g}".removesuffix(".")


def amount(metric: Metric, difference: float) -> str:
    """The size of a difference: 0.023, 2.3 (points, of accuracy), 1.20 (in the label's unit)."""
    size = abs(difference)
    return f"{100 * size:.1f}" if metric == "accuracy" else number(metric, size)


def amount_words(record: JobRecord, difference: float) -> str:
    """The same with its unit: 0.023, 2.3 points, 1.20 cycles."""
    unit = difference_unit(record)
    return f"{amount(record.metric, difference)}{f' {unit}' * bool(unit)}"


def difference_unit(record: JobRecord) -> str:
    """What differences are in; empty for those of PR-AUC and ROC-AUC."""
    return {"accuracy": "points", "rmse": record.unit}.get(record.metric, "")


def signed(metric: Metric, difference: float) -> str:
    """A difference with its sign, better being +."""
    words = amount(metric, difference)
    if not any(digit in words for digit in "123456789"):
        return words
    return f"{'+' if difference > 0 else '-'}{words}"


def interval(metric: Metric, difference: Difference) -> str:
    """Its 95 % interval: `-0.004 to +0.050`."""
    return f"{signed(metric, difference.low)} to {signed(metric, difference.high)}"


def with_unit(record: JobRecord, value: float | None) -> str:
    """A quality with the metric's unit, such as `13.4 cycles`."""
    if value is None:
        return TOO_FEW
    unit = f" {record.unit}" if record.metric == "rmse" and record.unit else ""
    return f"{number(record.metric, value)}{unit}"


def metric_words(record: JobRecord) -> str:
    """The metric, its unit and its direction where that is not the usual one; begins a sentence."""
    if record.metric != "rmse":
        return sentence_case(NAMES[record.metric])
    return f"RMSE{f' in {record.unit}' * bool(record.unit)} (smaller is better)"


def sentence_case(words: str) -> str:
    """The same with a capital at its beginning."""
    return f"{words[:1].upper()}{words[1:]}"


def verdict(record: JobRecord) -> str:
    """Three to six plain lines for the terminal; the first says whether it was worth it."""
    lines = [
        headline(record),
        *quality_words(record),
        " ".join(line for line in (worse_words(record), shown_words(record)) if line),
        accounting(record.updates),
        (
            f"Links were down {record.down_share:.0%} of the time; {record.versions} versions in "
            f"{record.wall_s:.0f} s, version {record.served} is served."
        ),
    ]
    return "\n".join(line for line in lines if line)


def headline(record: JobRecord) -> str:
    """What was learned together, against alone and against pooled; loudly, if updates were lost."""
    quality = record.own
    if _served(quality) is None or quality.local is None:
        quality = record.overall
    served, local, metric = _served(quality), quality.local, record.metric
    if served is None or local is None:
        words = "There are too few test rows to tell whether learning together helped"
    else:
        more = gain(metric, served, local) or 0.0
        is_equal = number(metric, served) == number(metric, local)
        verb = "is as good as" if is_equal else "beats" if more > 0 else "does not beat"
        words = f"Learning together {verb} learning alone{_against_pooled(record, quality)}"
    worse = worse_off(record)
    if worse:
        names = listed([site.name for site in worse])
        if len(worse) > _NAMED:
            names = f"{len(worse)} of {len(judged_sites(record))} sites"
        words += f". {names} {'is' if len(worse) == 1 else 'are'} worse off than alone"
    return f"{words}. {lost_words(record.updates)}." if record.updates.lost else f"{words}."


def _served(quality: Qualities) -> float | None:
    """Of what the sites serve."""
    return quality.federated if quality.personal is None else quality.personal


def _against_pooled(record: JobRecord, quality: Qualities) -> str:
    metric, served, pooled = record.metric, _served(quality), quality.pooled
    more = gain(metric, served, pooled)
    if more is None or pooled is None:
        return ""
    if not is_behind(metric, served, pooled, NO_LOSS):
        return ", without loss against pooling all rows"
    if not is_far_from_pooled(metric, served, pooled):
        return ", with a small loss against pooling all rows"
    return f", but falls {amount_words(record, more)} short of pooling all rows"


def quality_words(record: JobRecord) -> list[str]:
    """The four ways: for a site at home, and on all rows."""
    lines = [f"on all sites' test rows together: {ways_words(record, record.overall)}."]
    if record.own.local is not None:
        own = ways_words(record, record.own)
        lines.insert(0, f"on a site's own test rows, mean of the sites: {own}.")
    return [f"{metric_words(record)} {lines[0]}", *map(sentence_case, lines[1:])]


def ways_words(record: JobRecord, quality: Qualities) -> str:
    """The four ways in one line."""
    ways = (
        ("local", quality.local),
        ("federated", quality.federated),
        ("personal", quality.personal),
        ("pooled", quality.pooled),
    )
    return ", ".join(
        f"{name} {TOO_FEW if value is None else number(record.metric, value)}"
        for name, value in ways
    )


def worse_words(record: JobRecord) -> str:
    """Who is worse off than alone, with the interval; or that nobody is."""
    judged, worse, metric = judged_sites(record), worse_off(record), record.metric
    if not judged:
        return "No site has enough test rows to be judged by itself."
    if not worse:
        point = {"rmse": "1% of its RMSE", "accuracy": "1 point"}.get(metric, "0.01")
        who = f"Of {len(judged)} sites with enough test rows to tell, none is"
        if len(judged) == 1:
            who = f"{judged[0].name}, the one site with enough test rows to tell, is not"
        return f"{who} worse off than alone by more than {point}."
    words = [
        f"{site.name} by {amount_words(record, site.over_local.value)} "
        f"(95%: {interval(metric, site.over_local)})"
        for site in worse
        if site.over_local is not None
    ]
    return f"Worse off than alone: {listed(words)}."


def shown_words(record: JobRecord) -> str:
    """What only some runs show, a short sentence each."""
    words = []
    if record.unseen is not None:
        unseen = record.unseen
        words.append(
            f"{unseen.site} never saw '{unseen.label}' and finds {unseen.federated} of "
            f"{unseen.rows} ({unseen.local} alone)."
        )
    if record.newcomer is not None:
        new = record.newcomer
        words.append(
            f"{new.site} joined late, trained nothing and is served "
            f"{with_unit(record, new.quality)} (members' models there: "
            f"{with_unit(record, new.members_there)}; members at home: "
            f"{with_unit(record, new.members)})."
        )
    if record.drift is not None:
        drift = record.drift
        after = "" if drift.alarm_s is None else f" after {drift.alarm_s:.0f} s"
        said = f"was noticed{after}" if drift.alarm else "was NOT noticed"
        words.append(f"Moved data at {drift.site} {said}.")
    if record.proposals is not None:
        found = record.proposals
        words.append(
            f"Regret of proposed set-points in {found.unit}: federated "
            f"{significant(found.federated)}, best site alone {significant(found.best_local)}, "
            f"people {significant(found.people)}."
        )
    return " ".join(words)

"""Figures in words, the same on the page and at the terminal."""

import math
from typing import Final

from coordinator.view import Choice, Decision, Quality, View
from wire.figures import WORDS, number

_METRICS: Final = {str(metric): words for metric, words in WORDS.items()}
_MODELS: Final = {
    "global": "global",
    "fine_tuned": "fine-tuned",
    "ditto": "personal copy",
    "local": "local",
}
OUTCOMES: Final = ("folded", "committed", "refused", "void", "dropped")
NONE: Final = "-"


def metric_name(metric: str) -> str:
    """What people call a metric."""
    return _METRICS.get(metric, metric.replace("_", " ")) or "quality"


def model_name(model: str, normalisation: str = "shared") -> str:
    """What a site serves, such as `fine-tuned, own scale`."""
    name = _MODELS.get(model, model.replace("_", " "))
    return f"{name}, own scale" if normalisation == "local" else name


def outcome_name(status: str) -> str:
    """What became of an update; `committed` ones wait in the buffer."""
    return "waiting" if status == "committed" else status


def figure(metric: str, value: float | None) -> str:
    """A quality figure, as the gate writes it in its reasons."""
    return number(metric, value)


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign, with a true minus."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def digits_for(most: float) -> int:
    """Digits after the point that show figures up to `most` with two that mean something."""
    return 3 if most <= 0 else min(max(1 - math.floor(math.log10(most)), 0), 9)


def count(number: int) -> str:
    """A number with its thousands apart."""
    return f"{number:,}"


def several(number: int, one: str, many: str = "") -> str:
    """`1 agent`, `3 agents`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(share: float | None) -> str:
    """A share without digits after the point; all of it only when it is all of it."""
    if share is None:
        return NONE
    rounded = round(100 * share)
    if rounded == 100 and share < 1:
        rounded = 99
    return f"{rounded} %"


def ago(at: float | None, now: float) -> str:
    """How long ago something was, in its largest unit."""
    if at is None:
        return "never"
    seconds = max(0.0, now - at)
    if seconds < 5:
        return "just now"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def served_by(choices: tuple[Choice, ...]) -> str:
    """What a site's agents serve: one word when they agree, else how many serve what."""
    names = [model_name(choice.model, choice.normalisation) for choice in choices]
    kinds = {name: names.count(name) for name in names}
    if not kinds:
        return "not said yet"
    if len(kinds) == 1:
        return names[0]
    return ", ".join(f"{number} {name}" for name, number in sorted(kinds.items()))


def headline(view: View) -> str:
    """The one sentence to read when there is time for one."""
    if view.version is None:
        return "Nothing has been published yet."
    point = view.quality.newest("serve", view.serve)
    quality = (
        f", {metric_name(view.quality.metric)} {figure(view.quality.metric, point.value)}"
        if point
        else ""
    )
    alarms = "" if view.threshold is None else f", alarms from {view.threshold:.4g}"
    training = "training goes on" if view.training == "open" else "training is closed"
    return f"Version {view.serve} is served{quality}{alarms}; {training} at version {view.version}."


def verdict(decision: Decision) -> str:
    """What was decided, in words."""
    if not decision.is_turning_back:
        return f"v{decision.version} {decision.verdict}"
    back = "" if decision.served is None else f" to v{decision.served}"
    if decision.verdict == "abandoned":
        return f"lineage {decision.lineage} abandoned, back{back}"
    return f"rolled back{back}"


def direction(quality: Quality) -> str:
    """Which way is better."""
    return "lower is better" if quality.is_lower_better else "higher is better"

"""A run's figures as text: one row for each run, aligned columns, units in the header."""

from collections.abc import Sequence

from shopfloor.simulate.outcome import Outcome

_HEADER = (
    "run",
    "to target",
    "uplinks",
    "accuracy",
    "served",
    "uplinks",
    "refused",
    "downlinks",
    "staleness",
    "slow 1/4",
    "agents",
    "MB up",
    "MB down",
)
_UNDER = (
    "",
    "h",
    "to target",
    "at the end",
    "average",
    "in all",
    "",
    "",
    "mean / p95",
    "share",
    "took part",
    "",
    "",
)


def table(runs: Sequence[tuple[str, Outcome]]) -> str:
    """Lines without a newline at the end."""
    rows = [_HEADER, _UNDER, *(_row(name, outcome) for name, outcome in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(_cells(row, widths)).rstrip() for row in rows]
    lines.insert(2, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


def _row(name: str, outcome: Outcome) -> tuple[str, ...]:
    reached = outcome.reached
    return (
        name,
        "never" if reached is None else f"{reached.at_s / 3600:.2f}",
        "-" if reached is None else f"{reached.uplinks:,}",
        f"{outcome.final_accuracy:.3f}",
        f"{outcome.served_accuracy:.3f}",
        f"{outcome.uplinks:,}",
        f"{sum(outcome.refused.values()):,}",
        f"{outcome.downlinks:,}",
        f"{outcome.staleness_mean:.1f} / {outcome.staleness_p95:.0f}",
        f"{outcome.slow_share:.1%}",
        f"{outcome.took_part:,}",
        f"{outcome.uplink_bytes / 1e6:.1f}",
        f"{outcome.downlink_bytes / 1e6:.1f}",
    )


def remarks(name: str, outcome: Outcome, target: float) -> list[str]:
    """What the table can not say about a run, in sentences."""
    found = []
    if outcome.ended == "diverged":
        found.append(
            f"{name} diverged after {outcome.versions} versions; lower its learning rates."
        )
    elif outcome.reached is None:
        found.append(f"{name} did not come to {target:g}; give it more --hours or other settings.")
    numbers = outcome.saturated / max(outcome.uplink_bytes, 1)
    if numbers > 0.01:
        found.append(f"{name}: {numbers:.1%} of the numbers sent did not fit; raise policy.scale.")
    if not outcome.is_accounted:
        found.append(f"{name}: updates are not accounted for; this is a defect, please report it.")
    return found

"""A proposal in words: a table for a terminal, or JSON for programs.

Pure.  Both say that nothing was written to a machine.
"""

from collections.abc import Iterator
from dataclasses import asdict

import msgspec

from agent.recommend.proposal import Interval, Proposal
from agent.recommend.recipe import Recipe
from agent.recommend.situation import Situation

NOTHING_WRITTEN = "nothing was written to any machine: people decide, and set"
_HEAD = ("channel", "now", "proposed", "change", "bounds", "unit")


def in_lines(situation: Situation, recipe: Recipe, proposal: Proposal) -> Iterator[str]:
    """Yield the lines for a terminal."""
    units = {channel.name: channel.unit for channel in situation.manifest.channels}
    yield f"model    {situation.model}, {_versions(proposal.members)}"
    yield f"row      {situation.at}"
    yield ""
    yield from _aligned([_HEAD, *_rows(proposal, units)])
    yield ""
    name = f"{recipe.label}, {_aim(recipe)}"
    if proposal.now is not None and proposal.after is not None and proposal.effect is not None:
        share = f"{100 * proposal.coverage:g} %"
        yield f"{name}: intervals of {share}, from {proposal.rows} rows not learned from"
        yield f"  as it is       {_shown(proposal.now)}"
        found = "as proposed" if not proposal.reason else "best found"
        yield f"  {found:<14} {_shown(proposal.after)}"
        what = "change" if recipe.target is None else "nearer (-)"
        yield f"  {what:<14} {_shown(proposal.effect)}"
    else:
        yield name
    if proposal.reason:
        yield f"NO RECOMMENDATION: {proposal.reason}"
    yield NOTHING_WRITTEN


def as_json(situation: Situation, recipe: Recipe, proposal: Proposal) -> bytes:
    """The proposal as JSON; times and models in words, numbers in the channels' units."""
    document = {
        "model": situation.model,
        "row": situation.at,
        "label": recipe.label,
        "objective": recipe.objective,
        "recommended": not proposal.reason,
        **asdict(proposal),
        "written": False,
    }
    return msgspec.json.format(msgspec.json.encode(document))


def _rows(proposal: Proposal, units: dict[str, str]) -> Iterator[tuple[str, ...]]:
    for each in proposal.settings:
        change = each.proposed - each.now
        yield (
            each.channel,
            f"{each.now:.4g}",
            f"{each.proposed:.4g}" if not proposal.reason else "-",
            f"{change:+.3g}" if not proposal.reason else "-",
            f"{each.lowest:g} to {each.highest:g}",
            units[each.channel],
        )


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
    for row in rows:
        cells = (
            f"{cell:>{width}}" if at in (1, 2, 3) else f"{cell:<{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _shown(interval: Interval) -> str:
    return f"{interval.value:9.4g}   {interval.low:.4g} to {interval.high:.4g}"


def _aim(recipe: Recipe) -> str:
    if recipe.target is not None:
        return f"as close to {recipe.target:g} as possible"
    return "the smaller the better" if recipe.objective == "minimize" else "the larger the better"


def _versions(members: int) -> str:
    return "1 version at hand" if members == 1 else f"{members} versions at hand"

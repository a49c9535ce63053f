"""What the status says in words: sources, clocks and health, each in one line.  Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from agent.egress.lines import Account
from agent.sensors.source import ChannelSettings
from agent.serve.score import OK
from agent.signals.quality import ChannelQuality
from agent.status import Status

_CLOCKS_SAID = 3
_DESTINATIONS_SAID = 3
_THOUSAND = 1000.0


def in_one_line(states: Iterable[str]) -> str:
    """What all sources are doing: the one word that they agree on, or all."""
    return "; ".join(dict.fromkeys(states))


def health(status: Status) -> str:
    """How the agent is, for whoever reads its scores: `ok`, or what is wrong."""
    wrong = [f"{source.name}: {source.state}" for source in status.sources if not source.is_well]
    wrong += [f"storage: {status.storage}"] if status.storage != OK else []
    return "; ".join(wrong) or OK


def clocks_in_words(channels: Sequence[ChannelQuality]) -> str:
    """Which clocks are off: `torque: 12.0 s behind`; `ok` when none is."""
    off = [(each.name, each.skew_s) for each in channels if each.is_skewed]
    known = [(name, skew_s) for name, skew_s in off if skew_s is not None]
    said = [
        f"{name}: {abs(skew_s):.1f} s {'behind' if skew_s > 0 else 'ahead'}"
        for name, skew_s in known[:_CLOCKS_SAID]
    ]
    more = len(known) - len(said)
    return "; ".join(said + [f"and {more} more channels"] * (more > 0)) or OK


def egress_in_words(account: Account) -> str:
    """How much ever left: `1.2 MB since 2026-11-22, to broker 10.0.0.1:8883`."""
    if not account.lines:
        return "nothing"
    total = sum(line.bytes for line in account.lines)
    destinations = list(dict.fromkeys(line.destination for line in account.lines))
    more = len(destinations) - _DESTINATIONS_SAID
    said = ", ".join(destinations[:_DESTINATIONS_SAID]) + f" and {more} more" * (more > 0)
    since = datetime.fromtimestamp(account.since, UTC)
    return f"{in_bytes(total)} since {since:%Y-%m-%d}, to {said}"


def in_bytes(count: int) -> str:
    """A number of bytes: `317 B`, `12.3 kB`, `1.2 GB`."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < _THOUSAND:
            break
        size, unit = size / _THOUSAND, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def channel_lines(
    found: Sequence[ChannelQuality], channels: Sequence[ChannelSettings]
) -> list[str]:
    """Statistics of every channel as a table, a line each; see `agent.signals.quality`."""
    units = {channel.name: channel.unit for channel in channels}
    head = ("channel", "samples", "bad", "uncertain", "gaps", "last", "mean", "deviation", "least")
    lines: list[tuple[str, ...]] = [(*head, "most", "per second", "clock")]
    for each in found:
        counts = (each.samples, each.bad, each.uncertain, each.gaps)
        numbers = (each.last, each.mean, each.deviation, each.least, each.most)
        name = f"{each.name} [{units[each.name]}]" if units.get(each.name) else each.name
        lines.append(
            (
                name,
                *(str(count) for count in counts),
                *("-" if number is None else f"{number:.5g}" for number in numbers),
                f"{each.rate_hz:.3g}",
                "-" if each.skew_s is None else f"{each.skew_s:+.1f} s" + "!" * each.is_skewed,
            )
        )
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]

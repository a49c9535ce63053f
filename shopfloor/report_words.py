"""A run in plain words: the headline, the verdict for the terminal, the sentences of the page.

Responsible for wording and rounding.  Refuses to flatter: where the federated model is worse than
a site's own, the headline says so; few failures, lost updates and sums that do not add up are
named.  Invariant: words are plain text, ASCII but for site names; the page escapes them.
"""

from collections.abc import Sequence

from shopfloor.comparison import Comparison, compare_sites, direction
from shopfloor.record import (
    RunRecord,
    UpdateCounts,
    best_alone,
    final_baseline,
    served_quality,
)

ROUGH_BELOW = 30
"""With fewer failures than this to judge by, one site's figure is rough (DESIGN, gate: 30)."""


def verdict(record: RunRecord) -> str:
    """Plain lines for the terminal; the first answers: did learning together help?

    Raises:
      ValueError: the record has no baseline or its served version was never judged.
    """
    cost = (
        f"Links were down {record.link_down_share:.0%} of the time; "
        f"{bytes_words(record.bytes_per_update)} per update; "
        f"{record.versions} versions in {record.wall_s:.0f} s."
    )
    lines = [
        headline(record),
        f"PR-AUC on all sites' held-out rows: {overall_words(record)}.",
        f"On each site's own held-out rows, alone -> federated: {'; '.join(site_words(record))}.",
        caution(record),
        accounting(record.updates),
        cost,
        secured_words(record),
    ]
    return "\n".join(line for line in lines if line)


def headline(record: RunRecord) -> str:
    """Which sites learning together helped and which not; loudly, if updates were lost."""
    found = _helped(compare_sites(record))
    return f"{found}. {lost_words(record.updates)}." if record.updates.lost else f"{found}."


def overall_words(record: RunRecord) -> str:
    """The three qualities on all sites' held-out rows, against the best site alone."""
    served, (best, alone) = served_quality(record), best_alone(record)
    how = {1: "better than", 0: "equal to", -1: "worse than"}
    return (
        f"federated {served.pr_auc:.2f}, {how[direction(served.pr_auc - alone.pr_auc)]} "
        f"the best site alone ({best}, {alone.pr_auc:.2f}); all data pooled "
        f"{final_baseline(record).pooled.pr_auc:.2f}"
    )


def site_words(record: RunRecord, arrow: str = "->") -> list[str]:
    """For each site its own model's quality and the federated one, on its own held-out rows."""
    words = []
    for line in compare_sites(record):
        if line.gain is None:
            words.append(f"{line.site} not judgeable")
        else:
            note = " (worse)" if direction(line.gain) < 0 else ""
            words.append(f"{line.site} {line.own:.2f} {arrow} {line.federated:.2f}{note}")
    return words


def caution(record: RunRecord) -> str:
    """Which sites have too few failures for their figures to be more than rough; or nothing."""
    rough = [
        f"{site.site} ({site.held_out_failures})"
        for site in record.sites
        if site.held_out_failures < ROUGH_BELOW
    ]
    if not rough:
        return ""
    return (
        f"Few failures to judge by among the held-out rows of {listed(rough)}: "
        "read their own figures as rough."
    )


def accounting(updates: UpdateCounts) -> str:
    """Produced = the sum of all outcomes, and whether that is so."""
    balance = (
        f"{updates.produced} updates produced = {updates.folded} folded + "
        f"{updates.refused} refused + {updates.void} void + {updates.dropped} dropped"
    )
    if updates.lost:
        balance += f" + {updates.lost} lost"
    if updates.on_the_way:
        balance = f"The counts do not add up, off by {updates.on_the_way}: {balance}"
    copies = f"{updates.duplicates} duplicate{' was' if updates.duplicates == 1 else 's were'}"
    return f"{balance}. {lost_words(updates)}; {copies} recognized and dropped."


def secured_words(record: RunRecord) -> str:
    """Two or three plain lines for the terminal; nothing for a run without masks."""
    secured = record.secured
    if secured is None:
        return ""
    quality, size = served_quality(record).pr_auc, bytes_words(record.bytes_per_update)
    lines = [
        (
            f"The coordinator saw {secured.sums} sums, each over {secured.smallest} sites or more "
            f"(the charter asks for {secured.k_min}), and no update by itself."
        ),
        (
            f"Beside the same run without masks and noise: PR-AUC {quality:.2f} against "
            f"{secured.plain_pr_auc:.2f}; {size} per update against "
            f"{bytes_words(secured.plain_bytes)}."
        ),
    ]
    if secured.budget:
        most = max((site.epsilon for site in secured.sites), default=0.0)
        over = [site.site for site in secured.sites if site.epsilon > secured.budget]
        lines.append(
            f"Differential privacy of single records: budget epsilon {secured.budget:g} at delta "
            f"{secured.delta:g}, noise multiplier {secured.noise_multiplier:.2f}; most spent "
            f"{most:.2f}"
            + (f"; OVER BUDGET: {', '.join(over)}." if over else ".")
            + " What sites learn alone, and pooled, is shown without noise."
        )
    return "\n".join(lines)


def bytes_words(count: float) -> str:
    """Bytes in the decimal unit that suits them."""
    for size, unit in ((1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def _helped(lines: Sequence[Comparison]) -> str:
    judged = [line for line in lines if line.gain is not None]
    if not judged:
        return "No site has both kinds of held-out rows, so no site can be judged"
    helped, equal, worse = (
        [line.site for line in judged if direction(line.gain) == wanted] for wanted in (1, 0, -1)
    )
    unjudged = [line.site for line in lines if line.gain is None]
    others = [
        f"{listed(sites)} {did}"
        for sites, did in (
            (equal, "did as well alone"),
            (worse, "did better alone"),
            (unjudged, "cannot be judged"),
        )
        if sites
    ]
    if not others:
        return f"Learning together helped {'every site' if len(lines) > 1 else helped[0]}"
    if not helped:
        return f"Learning together helped no site; {listed(others)}"
    return f"Learning together helped {listed(helped)}, but {listed(others)}"


def lost_words(updates: UpdateCounts) -> str:
    """Whether updates were lost, loudly if so; without a full stop."""
    if updates.lost == 0:
        return "No update was lost"
    return "1 update was LOST" if updates.lost == 1 else f"{updates.lost} updates were LOST"


def listed(words: Sequence[str]) -> str:
    """One word or more as `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

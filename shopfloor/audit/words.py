"""A checked audit log in words, for whoever has to answer for the federation."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from agent.privacy.accounting import epsilon_of
from shopfloor.audit.account import Account
from shopfloor.audit.check import Checked
from wire.errors import one_line
from wire.messages import Charter

_MOST: Final = 20
"""Lines of a list that may be long: reasons, decisions."""
_DELTA: Final = 1e-5
"""Each site chooses its own, which its ledger is held against; here only to compare sites."""
_OUTCOMES: Final = ("folded", "refused", "void", "dropped")


def summary(checked: Checked, *, is_pinned: bool) -> str:
    """The whole report.

    Args:
      checked: what was found.
      is_pinned: whether the root was given, and not only taken from the file.
    """
    parts = (
        _what(checked, is_pinned=is_pinned),
        _charters(checked.account),
        _first_weights(checked.account),
        _versions(checked.account),
        _sites(checked.account),
        _updates(checked.account),
        _privacy(checked.account),
        _sums(checked.account),
        _decisions(checked.account),
        _contributions(checked.account),
        _verdict(checked),
    )
    return "\n".join(one_line(line) for part in parts for line in part)


def _what(checked: Checked, *, is_pinned: bool) -> Iterator[str]:
    opening, head = checked.opening, checked.head
    yield f"Audit log of federation {opening.federation}: {checked.tree.size:,} entries"
    yield f"  Merkle root     {checked.tree.root.hex()}"
    yield f"  federation root {opening.root.hex()}"
    if not is_pinned:
        yield "                  says the FILE: compare it with your [trust] root, or give --root"
    if head is not None:
        covered = head.log.size if head.log is not None else 0
        yield f"  newest head     {head.sequence}, signed over the first {covered:,} entries"


def _charters(account: Account) -> Iterator[str]:
    yield "Charters"
    for at, charter in account.charters:
        yield f"  epoch {charter.epoch}, noted {_time(at)}: {_terms(charter)}"


def _terms(charter: Charter) -> str:
    least = charter.least
    terms = [f"sums of {charter.k_min} sites or more", f"{len(charter.helpers)} helpers"]
    if charter.sites:
        terms.append(f"{len(charter.sites)} sites listed")
    if least.protection != "none":
        terms.append(f"every policy {least.protection}")
    if least.privacy != "none":
        terms.append(f"noise multiplier {least.noise_multiplier:g} or more per {least.privacy}")
    if charter.recovery:
        terms.append(f"recovery {charter.recovery}")
    if any(charter.agreement):
        terms.append(f"agreement {charter.agreement.hex()[:16]}…")
    return ", ".join(terms)


def _first_weights(account: Account) -> Iterator[str]:
    if account.earlier is not None:
        earlier = account.earlier
        yield "First weights"
        yield f"  unknown: this log begins after version {earlier.version}, which an older program"
        yield f"  made; {earlier.updates:,} updates had their outcome before it"
    if account.initial is not None:
        yield "First weights"
        yield f"  {account.initial.contributor}"


def _versions(account: Account) -> Iterator[str]:
    yield "Versions"
    version = account.version
    if version is None:
        yield "  none"
        return
    newest = f"the newest is {version.version} of lineage {version.lineage}"
    yield f"  {account.versions:,} recorded, {newest}"
    if account.first_at is not None and account.last_at is not None:
        yield f"  from {_time(account.first_at)} to {_time(account.last_at)}"
    if account.least_sites is not None:
        yield f"  each made of updates from {account.least_sites} sites or more"


def _sites(account: Account) -> Iterator[str]:
    yield "Sites and their agents (newest credential that each showed)"
    by_site: dict[str, list[str]] = {}
    for agent, noted in sorted(account.agents.items()):
        by_site.setdefault(noted.site, []).append(f"{agent} (credential {noted.serial})")
    for site, agents in sorted(by_site.items()):
        yield f"  {site:20} {', '.join(agents)}"
    if not by_site:
        yield "  none"


def _updates(account: Account) -> Iterator[str]:
    yield "Updates"
    total = sum(account.updates.values())
    outcomes = ", ".join(f"{account.updates[name]:,} {name}" for name in _OUTCOMES)
    yield f"  {total:,} with an outcome: {outcomes}; {account.waiting:,} committed and waiting"
    for agent, counts in sorted(account.by_agent.items()):
        words = ", ".join(f"{counts[name]:,} {name}" for name in _OUTCOMES if counts[name])
        yield f"  {agent:20} {words}"
    for reason, count in account.refusals.most_common(_MOST):
        yield f"    {count:,} x {reason}"


def _privacy(account: Account) -> Iterator[str]:
    yield f"Privacy spent, as updates said it (epsilon here at delta {_DELTA:g})"
    for agent, spent in sorted(account.spent.items()):
        epsilon = epsilon_of(spent, _DELTA)
        yield f"  {agent:20} epsilon {epsilon:.4g} after {spent.releases:,} releases"
    if not account.spent:
        yield "  no update carried a charge: differential privacy was off"


def _sums(account: Account) -> Iterator[str]:
    if account.manifests:
        yield "Hidden sums that were opened"
        for purpose, count in sorted(account.manifests.items()):
            yield f"  {purpose:20} {count:,}"


def _decisions(account: Account) -> Iterator[str]:
    yield "Decisions of the gate"
    left_out = len(account.decisions) - _MOST
    if left_out > 0:
        yield f"  ({left_out:,} earlier ones are in the file)"
    for decision in account.decisions[-_MOST:]:
        yield f"  {_time(decision.at)} version {decision.version} {decision.verdict}: " + (
            decision.reason
        )
    if not account.decisions:
        yield "  none"


def _contributions(account: Account) -> Iterator[str]:
    noted = account.contributions
    if noted is not None:
        yield f"Contributions, up to version {noted.version} (no ground for payment by themselves)"
        for each in noted.values:
            value = f"{each.value:+.3g} +- {each.error:.2g}"
            yield f"  {each.site:20} {value} in {each.versions:,} versions"


def _verdict(checked: Checked) -> Iterator[str]:
    if not checked.problems:
        yield "THE LOG HOLDS: signatures, Merkle root, heads and decisions fit each other."
        return
    yield f"THE LOG DOES NOT HOLD: {len(checked.problems)} problems"
    for problem in checked.problems:
        yield f"  {problem}"


def _time(at: int) -> str:
    """By the coordinator's clock."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return f"second {at}"

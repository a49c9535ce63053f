"""Heads that sites collected, held against an exported log and against each other.

A coordinator that shows one history to one site and another to the next has to sign both: heads
whose logs are no beginnings of one log.  Each finding names the heads, which are the evidence.

    equal sizes, different roots                          split view
    one (recovery, sequence), different heads             split view
    the root at its size is not the exported log's        split view
    the log records another head there, or none           split view
    as before, and the root signed a recovery since       lost with the recovery
    longer than the exported log                          not decided: export again
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from shopfloor.audit.check import Checked, open_head
from wire.audit_file import HeadsOpening
from wire.chunks import sha256
from wire.codec import open_envelope, parse_body
from wire.errors import WireError, one_line
from wire.messages import Head, TreeHead


@dataclass(frozen=True)
class Collected:
    """A signed head that a site kept.

    Attributes:
      owner: who kept it: the file, and the agent that it names.
      digest: SHA-256 of its envelope.
    """

    owner: str
    head: Head
    digest: bytes

    def __str__(self) -> str:
        log = self.head.log
        over = f"{log.size:,} entries, root {log.root.hex()}" if log is not None else "no log"
        return f"head {self.head.sequence} ({self.digest.hex()[:16]}…) of {self.owner}: {over}"


@dataclass(frozen=True)
class Finding:
    """What does not fit, in words, with the heads that show it."""

    kind: Literal["split view", "recovery", "not signed"]
    words: str
    evidence: tuple[Collected, ...] = ()


@dataclass
class Comparison:
    """All that was found.

    Attributes:
      prefixes: heads whose log is the beginning of the exported one.
      newer: heads that the export does not reach.
      without_log: heads from before there was a log.
    """

    findings: list[Finding] = field(default_factory=list)
    prefixes: int = 0
    newer: int = 0
    without_log: int = 0


def sizes_of(envelopes: Iterable[bytes]) -> set[int]:
    """Sizes of the logs that these heads name; what can not be read is told by `compare`."""
    return {log.size for log in map(_log_of, envelopes) if log is not None}


def _log_of(envelope: bytes) -> TreeHead | None:
    try:
        return parse_body(open_envelope(envelope, "head"), Head).log
    except WireError:
        return None


def compare(
    checked: Checked, collected: Iterable[tuple[str, HeadsOpening, list[bytes]]]
) -> Comparison:
    """Hold collected heads against a log and each other.

    Args:
      checked: the exported log, with the roots of all `sizes_of` them.
      collected: (file, its opening, envelopes).
    """
    result = Comparison()
    heads = list(_opened(checked, collected, result))
    for head in heads:
        _hold(checked, head, result)
    result.findings += _against_each_other(heads)
    return result


def _opened(
    checked: Checked,
    collected: Iterable[tuple[str, HeadsOpening, list[bytes]]],
    result: Comparison,
) -> Iterator[Collected]:
    charters = [charter for _, charter in checked.account.charters[::-1]]
    for file, opening, envelopes in collected:
        owner = f"{opening.agent} ({file})"
        if opening.federation != checked.opening.federation:
            words = f"{owner}: heads of federation {opening.federation}"
            result.findings.append(Finding("not signed", words))
            continue
        for envelope in envelopes:
            try:
                head = open_head(envelope, checked.opening.federation, charters)
            except WireError as error:
                result.findings.append(Finding("not signed", f"{owner}: {error}"))
                continue
            if head.log is None:
                result.without_log += 1
            else:
                yield Collected(owner, head, sha256(envelope))


def _hold(checked: Checked, each: Collected, result: Comparison) -> None:
    """Hold one head against the exported log."""
    log, account = each.head.log, checked.account
    if log is None or log.size > checked.tree.size:
        result.newer += 1
        return
    words = ""
    noted = account.heads.get(log.size)
    if checked.roots[log.size] != log.root:
        words = f"the exported log's first {log.size:,} entries have root "
        words += checked.roots[log.size].hex()
    elif log.size == checked.tree.size:
        result.newer += 1  # the head was signed after the last entry here
        return
    elif noted is None or noted[0].digest != each.digest:
        words = "the coordinator signed it, and the exported log does not record it"
    if not words:
        result.prefixes += 1
        return
    charter = account.charter
    is_lost = charter is not None and each.head.recovery < charter.recovery
    result.findings.append(Finding("recovery" if is_lost else "split view", words, (each,)))


def _against_each_other(heads: list[Collected]) -> Iterator[Finding]:
    """Heads that contradict each other, whatever any log says."""
    by_size: dict[int, Collected] = {}
    by_number: dict[tuple[int, int], Collected] = {}
    for each in heads:
        log = each.head.log
        if log is None:
            continue
        other = by_size.setdefault(log.size, each)
        is_split = other.head.log != log and other.head.recovery == each.head.recovery
        if is_split:
            words = f"two logs of {log.size:,} entries have different roots"
            yield Finding("split view", words, (other, each))
        same = by_number.setdefault((each.head.recovery, each.head.sequence), each)
        if same.digest != each.digest and not is_split:
            words = f"two different heads have number {each.head.sequence}"
            yield Finding("split view", words, (same, each))


def in_words(comparison: Comparison) -> str:
    """The findings for people."""
    splits = sum(finding.kind == "split view" for finding in comparison.findings)
    lines = [f"{comparison.prefixes:,} heads are beginnings of this log"]
    if comparison.newer:
        lines.append(f"{comparison.newer:,} heads are newer than it: export again to decide these")
    if comparison.without_log:
        lines.append(f"{comparison.without_log:,} heads are from before there was an audit log")
    for finding in comparison.findings:
        kind = {
            "split view": "SPLIT VIEW",
            "recovery": "lost with a recovery that the root signed",
            "not signed": "counts for nothing",
        }[finding.kind]
        lines.append(f"{kind}: {finding.words}")
        lines += [f"    {each}" for each in finding.evidence]
    if splits:
        lines.append(f"THE COORDINATOR SHOWED DIFFERENT HISTORIES: {splits} contradictions.")
        lines.append("Keep these files: its own signatures are the evidence.")
    else:
        lines.append("No split view among what was compared.")
    return "\n".join(map(one_line, lines))

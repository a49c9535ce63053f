"""The model on this gateway: which one, whether it is whole, and what it computes here.

It has to compute what its author computed (golden vectors).  Reads the model slots' file and
changes nothing in it.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from agent.doctor.disk import open_for_reading
from agent.doctor.finding import Finding, ok, problem, skipped, warning
from agent.learning.choice import BackendName
from agent.model import Model, prepare
from wire.bundle import read_bundle
from wire.chunks import sha256
from wire.codec import unseal
from wire.errors import WireError
from wire.messages import Head
from wire.trust import COORDINATOR, Trust

_MOST_BYTES = 64 << 20
"""A bundle is smaller; see `MAX_BYTES`."""


def model(
    path: Path, trust: Trust, channels: Sequence[str], backend: BackendName
) -> Iterator[Finding]:
    """Check the model in use, or the one that is on its way.

    Args:
      path: `models.db`.
      trust: whom to believe.
      channels: names that the configuration has.
      backend: that it asks for.
    """
    check = "model"
    if not path.exists():
        yield skipped(check, "none yet: it comes from the coordinator over the broker")
        return
    try:
        with closing(open_for_reading(path)) as database:
            yield from _in_database(check, database, trust, channels, backend)
    except sqlite3.DatabaseError as error:
        yield problem(check, f"{path.name} can not be read: {error}", "see the check of this file")


def _in_database(
    check: str,
    database: sqlite3.Connection,
    trust: Trust,
    channels: Sequence[str],
    backend: BackendName,
) -> Iterator[Finding]:
    row = database.execute("SELECT in_use, envelope FROM head").fetchone()
    if row is None:
        yield skipped(check, "none yet: it comes from the coordinator over the broker")
        return
    in_use, newest = row
    try:
        head = _head(bytes(newest if in_use is None else in_use), trust)
    except WireError as error:
        yield problem(check, f"its head is refused: {error}", "is [trust] of this federation?")
        return
    if in_use is None:
        yield warning(
            check,
            f"head {head.sequence} is here, but not used yet",
            "see status: parts are missing",
        )
    elif newest is not None and newest != in_use:
        yield warning(
            check,
            f"head {head.sequence} is in use, a newer one is not",
            "journeyman-agent status says why; what is missing comes over the broker",
        )
    data = _content(database, head.bundle.digest)
    if data is None or sha256(data) != head.bundle.digest:
        what = "is not here yet" if data is None else "was damaged on the disk"
        yield problem(
            check, f"its bundle {what}", "the agent fetches it when the broker is reached"
        )
        return
    for kind, version in (("train", head.train), ("serve", head.serve)):
        weights = _content(database, version.content.digest)
        if weights is None or sha256(weights) != version.content.digest:
            yield problem(
                check,
                f"weights to {kind}, version {version.version}, are not here or damaged",
                "the agent fetches them when the broker is reached",
            )
    yield from _computed(check, head, data, trust, channels, backend)


def _head(envelope: bytes, trust: Trust) -> Head:
    return unseal(
        envelope, Head, federation=trust.federation, signer=COORDINATOR, key=trust.coordinator
    )[0]


def _content(database: sqlite3.Connection, digest: bytes) -> bytes | None:
    """A whole content; None when it is not, or larger than one can be."""
    if database.execute("SELECT 1 FROM whole WHERE digest = ?", (digest,)).fetchone() is None:
        return None
    query = "SELECT total(length(data)) FROM parts WHERE digest = ?"
    if database.execute(query, (digest,)).fetchone()[0] > _MOST_BYTES:
        return None
    query = "SELECT data FROM parts WHERE digest = ? ORDER BY part"
    return b"".join(bytes(data) for (data,) in database.execute(query, (digest,)))


def _computed(
    check: str,
    head: Head,
    data: bytes,
    trust: Trust,
    channels: Sequence[str],
    backend: BackendName,
) -> Iterator[Finding]:
    """Run the bundle's own checks on this machine."""
    try:
        bundle = read_bundle(data, trust)
        made = prepare(bundle, backend)
    except (WireError, ImportError) as error:
        yield problem(
            check, f"the bundle of head {head.sequence} does not run here: {error}", _RUNS_ELSEWHERE
        )
        return
    name = f"{made.manifest.name}, head {head.sequence}, serving version {head.serve.version}"
    runtime = type(made.backend).__name__
    yield ok(check, f"{name}: golden vectors reproduced ({runtime})")
    absent = [each for each in _needed(made) if each not in channels]
    if absent:
        yield problem(
            "model channels",
            f"{made.manifest.name} needs channels that no source has: {', '.join(absent)}",
            "give a channel of each of these names in a [source] or [[labels.channel]]",
        )
    else:
        yield ok("model channels", "all that the model needs are configured")


def _needed(made: Model) -> list[str]:
    label = made.manifest.label
    return [*made.channels, *([] if label is None else [label.channel])]


_RUNS_ELSEWHERE = "try training.backend = 'numpy'; if that fails too, tell the bundle's author"

"""A process that keeps model slots as the agent does, and says what it has done.

    python -m tests.power.models_work DIRECTORY RUN SABOTAGE

After each call, what the slots hold is promised.  Run `first` dies in the middle of a download,
`second` goes on from the parts that are there.
"""

import hashlib
import os
import random
import sys
from pathlib import Path
from typing import Any

from agent.models import Models
from tests.power.replay import Promises
from tests.power.sabotage import sabotage
from wire.chunks import describe, split
from wire.messages import Content, Delta, Head, Policy, VersionRef

FILE = "models.db"
CHUNK_BYTES = 4000


def _made(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


DATA = {
    "bundle": _made(1, 9_000),
    "start": _made(2, 22_000),
    "next": _made(3, 22_000),
    "way": _made(4, 6_000),
    "last": _made(5, 22_000),
}
CONTENTS = {name: describe(data, CHUNK_BYTES) for name, data in DATA.items()}


def _head(sequence: int, train: str, serve: str, delta: bool = False) -> Head:
    way = Delta(
        base=CONTENTS["start"].digest, target=CONTENTS["next"].digest, content=CONTENTS["way"]
    )
    return Head(
        sequence=sequence,
        lineage=0,
        bundle=CONTENTS["bundle"],
        train=VersionRef(version=sequence, content=CONTENTS[train]),
        candidate=None,
        serve=VersionRef(version=1, content=CONTENTS[serve]),
        deltas=(way,) if delta else (),
        policy=Policy(),
        training="open",
    )


HEADS = {
    b"first head": _head(1, "start", "start"),
    b"second head": _head(2, "next", "start", delta=True),
    b"third head": _head(3, "last", "last"),
}
FIRST, SECOND, THIRD = HEADS


def named_by(head: Head) -> set[bytes]:
    """Digests of what an agent needs to use a head."""
    return {head.bundle.digest, head.train.content.digest, head.serve.content.digest}


def account_of(models: Models) -> list[Any]:
    """Everything that the slots say, as JSON."""
    heads = [envelope and envelope.decode() for envelope in (models.head_envelope, in_use(models))]
    return [*heads, {name: _held(models, content) for name, content in CONTENTS.items()}]


def in_use(models: Models) -> bytes | None:
    """The head in use."""
    return models.head_in_use


def _held(models: Models, content: Content) -> list[Any]:
    data = models.read(content.digest)
    return [
        models.has(content.digest),
        hashlib.sha256(data).hexdigest() if data is not None else None,
        sorted(models.parts(content.digest)),
    ]


class Work:
    """Model slots whose every step ends with a promise."""

    def __init__(self, directory: Path) -> None:
        self.models = Models(directory / FILE)
        self._promises = Promises(directory)
        self.promise()

    def promise(self) -> None:
        """Say what is there now."""
        self._promises.make(account=account_of(self.models))

    def parts(self, name: str, which: range) -> None:
        """Some chunks came."""
        chunks = split(DATA[name], CHUNK_BYTES)
        digest = CONTENTS[name].digest
        self.models.keep_parts([(digest, part, chunks[part]) for part in which])
        self.promise()

    def finish(self, name: str) -> None:
        """The rest came."""
        content = CONTENTS[name]
        here = self.models.parts(content.digest)
        chunks = enumerate(split(DATA[name], CHUNK_BYTES))
        self.models.finish(content, {part: data for part, data in chunks if part not in here})
        self.promise()

    def keep(self, name: str) -> None:
        """A delta made this content."""
        self.models.keep(CONTENTS[name].digest, DATA[name])
        self.promise()

    def accept(self, envelope: bytes, before: bytes | None) -> None:
        """A head came."""
        self.models.accept_head(envelope, HEADS[envelope], HEADS[before] if before else None)
        self.promise()

    def use(self, envelope: bytes) -> None:
        """All that it names passed every check."""
        self.models.use_head(envelope, HEADS[envelope])
        self.promise()


def first(work: Work) -> None:
    """The first head, and half of the second one's contents; killed."""
    work.accept(FIRST, None)
    work.parts("bundle", range(2))
    work.finish("bundle")
    work.finish("start")
    work.use(FIRST)
    work.accept(SECOND, FIRST)
    work.parts("way", range(1))
    work.finish("way")
    work.keep("next")
    work.use(SECOND)
    work.accept(THIRD, SECOND)
    work.parts("last", range(1, 3))


def second(work: Work) -> None:
    """The rest of the third head's contents."""
    work.parts("last", range(1))
    work.finish("last")
    work.use(THIRD)
    work.models.forget(CONTENTS["start"].digest)
    work.promise()
    work.models.close()


def main() -> None:
    """Do one run."""
    sabotage(sys.argv[3])
    {"first": first, "second": second}[sys.argv[2]](Work(Path(sys.argv[1])))
    os._exit(0)


if __name__ == "__main__":
    main()

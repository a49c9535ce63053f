"""One masked update, as whoever has it can read it with the seeds that it has."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wire.chunks import sha256
from wire.codec import open_envelope, parse_body
from wire.errors import MalformedError
from wire.masking import DTYPES, Seeds, Term, masks_of, name_of, open_seeds, opened
from wire.messages import Policy, UpdateHeader
from wire.sealing_keys import SealingKey

FEDERATION = "attacked"
MASKED = Policy(protection="masked", ring=32, bits=16, scale=2e-6, min_rows=1)


@dataclass(frozen=True)
class Report:
    """A masked update as the coordinator stores it."""

    envelope: bytes
    content: bytes
    credential: bytes

    @property
    def digest(self) -> bytes:
        """What manifests name it by."""
        return sha256(self.envelope)

    @property
    def header(self) -> UpdateHeader:
        """What the agent signed."""
        return parse_body(open_envelope(self.envelope, "update"), UpdateHeader)


def seeds_for(report: Report, key: SealingKey) -> Seeds:
    """Seeds that one key opens; none where no box is for it."""
    header = report.header
    if header.masked is None:
        return {}
    name, digest = name_of(header), header.content.digest
    try:
        return open_seeds(header.masked, key.raw, federation=FEDERATION, name=name, digest=digest)
    except MalformedError:
        return {}


def read(report: Report, seeds: Seeds) -> NDArray[np.int64]:
    """A report with the masks of these seeds taken off."""
    total = np.frombuffer(report.content, DTYPES[MASKED.ring])
    masks = masks_of([Term(1, tuple(seeds.values()))], len(total), MASKED.ring)
    return opened(total, [masks.tobytes()], MASKED.ring)

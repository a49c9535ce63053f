"""Two sums over nearly the same sites: their difference is the site that is in one of them only.

Evaluations of the served weights are summed again whenever there is another candidate beside them.
Nobody has to lie: a site that came too late for one of two sums is enough.  What is found here is a
limit of sums, not of masks, and the documents say so.
"""

from pathlib import Path

import numpy as np

from benchmarks.attacks.consortium import Consortium
from benchmarks.attacks.reports import FEDERATION, Report
from benchmarks.attacks.scene import Integers, Scene, scene_in
from benchmarks.attacks.verdicts import Finding, against_guessing
from wire.chunks import sha256
from wire.figures_vector import RING, subject_of
from wire.masking import mask, seal_seeds
from wire.messages import BINS, FiguresHeader, Manifest, ManifestMember

_SERVED, _CANDIDATE = sha256(b"served"), sha256(b"candidate")


def finding(trials: int, directory: Path) -> Finding:
    """Sum everybody's counts, and then those of everybody but one beside a candidate's."""
    shares = [_read(trial, directory) for trial in range(trials)]
    return Finding(
        attack="coordinator: Evaluations of the same weights in two sums, one site in one of them",
        setting="the product's helpers",
        figure=float(np.mean(shares)),
        beside=0.0,
        unit="share of counts",
        detail="",
        outcome=against_guessing(float(np.mean(shares)), 0.0),
        expected="open",
    )


def _read(trial: int, directory: Path) -> float:
    """The share of the victim's counts of rows that the coordinator knows in the end."""
    rng = np.random.default_rng(trial)
    with scene_in(directory, trial) as scene:
        counts = rng.poisson(3.0, (len(scene.identities), BINS))
        both = np.concatenate([counts, rng.poisson(3.0, counts.shape)], axis=1)
        first = _summed(scene, counts, subject_of([_SERVED]), 0)
        second = _summed(scene, both, subject_of([_SERVED, _CANDIDATE]), 1)
    if first is None or second is None:
        return 0.0
    return float(np.mean(first - second[:BINS] == counts[0]))


def _summed(scene: Scene, counts: Integers, subject: bytes, leave_out: int) -> Integers | None:
    """The sum over all sites but the first ones, opened by the helpers."""
    consortium = scene.consortium
    reports = [
        _report(consortium, scene, at, counts[at], subject) for at in range(leave_out, len(counts))
    ]
    members = tuple(ManifestMember(report=each.digest, coefficient=1) for each in reports)
    manifest = consortium.says(
        Manifest(
            number=leave_out + 1,
            epoch=1,
            purpose="evaluation",
            subject=subject,
            count=counts.shape[1],
            ring=RING,
            bits=52,
            members=members,
        )
    )
    return consortium.open_by_rules(reports, manifest)


def _report(
    consortium: Consortium, scene: Scene, at: int, counts: Integers, subject: bytes
) -> Report:
    """A site's masked counts."""
    identity = scene.identities[at]
    data, seeds = mask(counts, RING)
    masked = seal_seeds(
        seeds,
        RING,
        [helper.sealing for helper in consortium.charter.helpers],
        federation=FEDERATION,
        name=(identity.agent, f"evaluation/{subject.hex()}"),
        digest=sha256(data),
    )
    header = FiguresHeader(
        agent=identity.agent,
        purpose="evaluation",
        subject=subject,
        count=len(counts),
        digest=sha256(data),
        masked=masked,
    )
    envelope = consortium.signed_by(identity.agent, identity.key, header)
    return Report(envelope, data, identity.credential_envelope)

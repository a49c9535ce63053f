"""Any bytes as what a helper of secure aggregation hears, rightly signed by whoever may say it.

The first byte chooses what is said; reports reach it as the coordinator would show them.
"""

import atexit
import tempfile
from functools import cache
from pathlib import Path

import msgspec

from coordinator.helper.identity import OwnKeys
from coordinator.helper.judging import judge
from coordinator.helper.office import Office
from coordinator.helper.store import Store, make_store
from tests.coordinator.small_federation import FEDERATION, ROOT_KEY
from tests.fuzz.people import AGENT, HELPER, HELPER_KEY, INCARNATION, TRUST, credential, signed
from tests.fuzz.script import check_words
from wire.charters import KeptCharter
from wire.chunks import describe, sha256
from wire.codec import seal
from wire.errors import WireError
from wire.masking import seal_seeds
from wire.messages import (
    Base,
    Endorsement,
    Examine,
    FiguresHeader,
    HelperKeys,
    Manifest,
    ManifestMember,
    Message,
    Release,
    UpdateHeader,
)
from wire.sealing_keys import SealingKey
from wire.signing import PrivateKey
from wire.trust import Trust

WAYS = ("examine", "manifest", "release", "update", "figures", "head", "helper-state", "raw")
BASE = Base(version=3, digest=bytes([3] * 32))
SECOND, SECOND_KEY = "union", PrivateKey(bytes([8] * 32))
SEALING = tuple(SealingKey(bytes([number] * 32)) for number in (21, 22, 23))
VECTOR = bytes(range(40))


@cache
def office() -> Office:
    """A helper whose store lives as long as this process."""
    names = ((HELPER, HELPER_KEY), (SECOND, SECOND_KEY), ("third", PrivateKey(bytes([9] * 32))))
    helpers = tuple(
        HelperKeys(name=name, signing=key.public.raw, sealing=sealing.public)
        for (name, key), sealing in zip(names, SEALING, strict=True)
    )
    folder = tempfile.TemporaryDirectory(prefix="journeyman-fuzz-")
    atexit.register(folder.cleanup)
    make_store(Path(folder.name), helpers[0])
    trust = Trust(msgspec.structs.replace(TRUST.charter, helpers=helpers, k_min=1))
    kept = KeptCharter(Path(folder.name) / "charter.jm", ROOT_KEY.public, trust)
    return Office(
        Store(Path(folder.name), helpers[0]), OwnKeys(HELPER_KEY, SEALING[0], helpers[0]), kept
    )


def run(data: bytes) -> None:
    """Say one thing to the helper."""
    way, body = WAYS[(data[0] if data else 0) % len(WAYS)], data[1:]
    if way in ("update", "figures"):
        answer = judge(office(), _shown(signed(way, body)))
        for verdict in answer.items:  # type: ignore[union-attr]  # an `examine` has verdicts
            check_words(WireError(verdict.reason))
    elif way == "head":
        office().hear_head(signed(way, body))
    elif way == "helper-state":
        office().hear_own_endorsement(signed("endorsement", body))
    else:
        judge(office(), body if way == "raw" else signed(way, body))


def _shown(report: bytes) -> bytes:
    message = Examine(reports=(report,), credentials=(credential(),), bases=(BASE,))
    return signed("examine", msgspec.msgpack.encode(message))


def _masked(name: str, ring: int) -> dict[str, object]:
    digest = sha256(VECTOR)
    masked = seal_seeds(
        [bytes([number] * 32) for number in (1, 2, 3)],
        ring,  # type: ignore[arg-type]  # 32 or 64
        [key.public for key in SEALING],
        federation=FEDERATION,
        name=(AGENT, name),
        digest=digest,
    )
    return {"agent": AGENT, "masked": masked}


@cache
def seeds() -> list[bytes]:
    """An honest conversation, in its order."""
    update = UpdateHeader(
        incarnation=INCARNATION,
        sequence=1,
        lineage=0,
        base_version=BASE.version,
        base_digest=BASE.digest,
        examples=10,
        weight=10,
        scale=0.01,
        bits=8,
        content=describe(VECTOR),
        **_masked(f"{INCARNATION}/1", 32),  # type: ignore[arg-type]
    )
    figures = FiguresHeader(
        purpose="evaluation",
        subject=bytes(32),
        count=5,
        digest=sha256(VECTOR),
        **_masked(f"evaluation/{bytes(32).hex()}", 64),  # type: ignore[arg-type]
    )
    both = (("update", update), ("figures", figures))
    said = {name: signed(name, msgspec.msgpack.encode(each)) for name, each in both}
    manifest = Manifest(
        number=1,
        epoch=TRUST.charter.epoch,
        version=4,
        count=10,
        ring=32,
        scale=0.01,
        bits=8,
        weight_cap=100,
        members=(ManifestMember(report=sha256(said["update"]), coefficient=10),),
    )
    envelope = signed("manifest", msgspec.msgpack.encode(manifest))
    promise = Endorsement(manifest=sha256(envelope), accepted=True, number=1)
    words = [
        seal(promise, federation=FEDERATION, signer=name, counter=1, key=key)
        for name, key in ((HELPER, HELPER_KEY), (SECOND, SECOND_KEY))
    ]
    release = Release(
        manifest=sha256(envelope), endorsements=(words[0], words[1]), seeds=(1, 2), chunk_bytes=256
    )
    examine = Examine(reports=tuple(said.values()), credentials=(credential(),), bases=(BASE,))
    honest: list[tuple[str, Message]] = [
        ("examine", examine),
        ("manifest", manifest),
        ("release", release),
        ("update", update),
        ("figures", figures),
        ("helper-state", promise),
    ]
    found = [bytes([WAYS.index(way)]) + msgspec.msgpack.encode(each) for way, each in honest]
    return [*found, bytes([WAYS.index("raw")]) + envelope]

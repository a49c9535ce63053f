"""Encrypted updates become versions, bit for bit what the plain ones would have become."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("tenseal", reason='the extra "journeyman[he]" is not installed')

from coordinator.ingest import Update
from coordinator.secure.decryption import Decrypted
from tests.coordinator.recipient.encrypted_world import NAME, World
from wire.chunks import describe
from wire.errors import MalformedError, SignatureError
from wire.messages import Endorsement, Masks, Message
from wire.signing import PrivateKey
from wire.tensors import pack_integers
from wire.topics import Topics


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def statuses(world: World) -> dict[str, int]:
    found = world.store.counts().items()
    return {name: number for name, number in found if name != "duplicates" and number}


def test_versions_are_bit_equal_to_those_of_the_same_updates_in_the_clear(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    plain = World(tmp_path / "plain", "none")
    for sequence in (1, 2, 3):
        assert world.commit(world.five(sequence)) == ["committed"] * 5
        world.turn()
        plain.commit(plain.five(sequence))
        assert world.federation.head.train == plain.federation.head.train
        assert world.federation.head.train.version == sequence
    assert statuses(world) == {"folded": 15}
    assert sum(receipt.status == "folded" for _, receipt in world.receipts) == 15
    plain.close()


def test_nothing_is_decided_below_the_strategys_goal(world: World) -> None:
    world.commit(world.five()[:4])
    world.turn(3)
    assert statuses(world) == {"committed": 4}
    assert not world.store.secure.undecided()


@pytest.mark.parametrize("lost", ["examine", "manifest", "endorsement"])
def test_what_is_lost_on_the_way_is_asked_again(world: World, lost: str) -> None:
    seen: list[str] = []

    def lets(message: Message | bytes) -> bool:
        kind = "manifest" if isinstance(message, bytes) else type(message).__name__.lower()
        seen.append(kind)
        return kind != lost or seen.count(kind) > 1

    world.lets = lets
    world.commit(world.five())
    world.turn(3)
    assert world.federation.head.train.version == 1
    assert seen.count(lost) > 1


def test_a_coordinator_that_dies_after_deciding_goes_on(world: World) -> None:
    world.lets = lambda message: not isinstance(message, Endorsement)
    world.commit(world.five())
    world.turn()
    assert len(world.store.secure.undecided()) == 1
    world.lets = lambda _: True
    world.restart()
    world.turn(2)
    assert world.federation.head.train.version == 1
    assert statuses(world) == {"folded": 5}


def test_members_that_the_recipient_will_never_add_end_void_and_the_others_go_on(
    world: World,
) -> None:
    updates = world.five()
    world.desk.store.revocations._database.execute(  # noqa: SLF001
        "INSERT INTO revocations VALUES ('press-1', 1)"
    )
    world.commit(updates)
    world.turn()
    voided = [
        (agent, receipt.status) for agent, receipt in world.receipts if receipt.status == "void"
    ]
    assert voided == [("press-1", "void")]
    assert "is revoked" in world.receipts[-1][1].reason
    world.commit([world.update(world.agent("press-6", "site-6"))])
    world.turn(2)
    assert statuses(world) == {"folded": 5, "void": 1}


@pytest.mark.parametrize("lost", ["manifest", "endorsement"])
def test_a_sum_of_an_earlier_charter_is_decrypted_or_decided_anew(world: World, lost: str) -> None:
    what = bytes if lost == "manifest" else Endorsement  # promised, in the second case
    world.lets = lambda message: not isinstance(message, what)
    world.commit(world.five())
    world.turn()
    world.charter = msgspec.structs.replace(world.charter, epoch=3)
    world.lets = lambda _: True
    world.desk.charter.take(world.trust.envelope)
    world.restart()
    world.turn(4)
    assert statuses(world) == {"folded": 5}


def test_with_a_new_recipient_what_was_for_the_old_one_ends_void(world: World) -> None:
    world.commit(world.five())
    world.desk.store.close()
    world.appoint(world.directory / "second")
    world.restart()
    world.turn(6)
    assert statuses(world)["void"] >= 1
    world.agents.clear()  # they read the new context
    world.commit(world.five(2))
    world.turn(12)
    assert statuses(world) == {"void": 5, "folded": 5}


def bad(update: Update, content: bytes, **changes: Any) -> Update:
    header = msgspec.structs.replace(update.header, content=describe(content), **changes)
    return Update(header, content, update.envelope)


def test_what_is_no_ciphertext_for_this_coordinator_is_refused(world: World) -> None:
    first, second, *_ = world.five()
    plain = pack_integers(np.ones(612, np.int8), 8)
    cases = [
        (bad(first, plain, encrypted=b""), "the policy asks for updates encrypted"),
        (bad(first, plain), "bytes do not fit"),
        (bad(first, bytes(len(first.content))), "not a sealing key"),
        (bad(first, second.content), "altered, or is not for this key"),
    ]
    for number, (update, reason) in enumerate(cases):
        header = msgspec.structs.replace(update.header, sequence=10 + number)
        world.commit([Update(header, update.content, update.envelope)])
        assert reason in world.receipts[-1][1].reason
        assert world.receipts[-1][1].status == "refused"


def test_only_the_charters_recipient_is_heard(world: World) -> None:
    world.commit(world.five())
    world.note(world.federation.tick(100.0))
    ((digest, _),) = world.store.secure.undecided()
    word = Endorsement(manifest=digest, accepted=True, number=1)
    own = world.desk.keys.signing
    for signer, key in ((NAME, PrivateKey.generate()), ("somebody", own)):
        with pytest.raises(SignatureError):
            world.decryption.hear(world.sealed(word, signer, key))
    assert not list(world.decryption.parts(Topics("plant-net")))
    world.decryption.hear(world.sealed(word, NAME, own))
    assert list(world.decryption.parts(Topics("plant-net")))


def test_sums_of_another_size_than_the_manifests_are_refused(world: World) -> None:
    world.commit(world.five())
    world.note(world.federation.tick(100.0))
    ((digest, _),) = world.store.secure.undecided()
    masks = Masks(manifest=digest, seeds=(0,), content=describe(bytes(8 * 613), 1000))
    with pytest.raises(MalformedError, match="do not fit their manifest"):
        world.decryption.hear(world.sealed(masks, NAME, world.desk.keys.signing))
    with pytest.raises(MalformedError, match="no manifest of this digest"):
        world.federation.on_decrypted(Decrypted(bytes(32), bytes(8 * 612)), 100.0)
    assert statuses(world) == {"committed": 5}

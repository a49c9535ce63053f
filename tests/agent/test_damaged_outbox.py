"""A rotten card: what can be read goes on, what can not is accounted for, and nothing is fatal."""

import logging
import random
import sqlite3
from pathlib import Path

import pytest

from agent.config import Identity
from agent.outbox import Offer, Outbox, UpdateId
from agent.tombstones import bury_doomed, seal_update
from tests.agent.federation import AGENT, FEDERATION
from tests.agent.test_outbox import FIRST, first_file
from wire.chunks import describe
from wire.codec import Counter, unseal
from wire.messages import Receipt, UpdateHeader

PAGE = 4096
QUOTA = 1 << 30


def content_of(sequence: int) -> bytes:
    return random.Random(sequence).randbytes(9000)


def filled(path: Path, number: int = 30) -> str:
    """An outbox that was closed in peace; the first three updates are settled."""
    outbox = Outbox(path, QUOTA)
    for _ in range(number):
        outbox.add(0, 1, lambda _, at: (b"header %d" % at, content_of(at)))
    incarnation = outbox.incarnation
    settled = tuple(
        Receipt(incarnation=incarnation, sequence=at, status="folded", version=2)
        for at in (1, 2, 3)
    )
    outbox.settle(settled, 5)
    outbox.next_session()
    outbox.close()
    return incarnation


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def page_of(path: Path, marker: bytes) -> int:
    """Offset of the page that holds these bytes."""
    return path.read_bytes().index(marker) // PAGE * PAGE


def test_a_file_that_is_no_database_is_kept_and_a_new_one_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox.db"
    old = filled(path)
    overwrite(path, 0, b"rotten!!" * 512)
    rotten = path.read_bytes()
    outbox = Outbox(path, QUOTA)
    assert outbox.incarnation != old
    assert outbox.open_updates() == []
    assert (tmp_path / "outbox.db.damaged-1").read_bytes() == rotten
    assert outbox.set_aside == [tmp_path / "outbox.db.damaged-1"]
    assert outbox.problem == ""
    assert "outbox.db is damaged (file is not a database): kept as" in caplog.text
    outbox.close()
    again = Outbox(path, QUOTA)
    assert again.incarnation == outbox.incarnation
    assert again.set_aside == [tmp_path / "outbox.db.damaged-1"]


def test_a_second_damage_never_overwrites_what_the_first_left(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    for number in (1, 2, 3):
        filled(path)
        overwrite(path, 0, b"rotten %d" % number * 512)
        Outbox(path, QUOTA).close()
        kept = [tmp_path / f"outbox.db.damaged-{at}" for at in range(1, number + 1)]
        outbox = Outbox(path, QUOTA)
        assert outbox.set_aside == kept
        outbox.close()
        for at, file in enumerate(kept, start=1):
            assert file.read_bytes().startswith(b"rotten %d" % at)


def test_readable_updates_of_a_damaged_file_are_offered_under_their_own_ids(
    tmp_path: Path,
) -> None:
    path = tmp_path / "outbox.db"
    old = filled(path)
    overwrite(path, page_of(path, b"header 20"), bytes(PAGE))
    outbox = Outbox(path, QUOTA)
    assert outbox.set_aside
    assert outbox.incarnation != old
    salvaged = outbox.open_updates()
    assert {at.incarnation for at in salvaged} == {old}
    assert {UpdateId(old, 4), UpdateId(old, 30)} <= set(salvaged)
    assert UpdateId(old, 20) not in salvaged
    assert salvaged == sorted(salvaged)
    for at in salvaged:
        assert outbox.offer(at) == Offer(at, b"header %d" % at.sequence, content_of(at.sequence))
    assert outbox.highest(old) == 30
    assert outbox.receipt_counter == 5
    assert outbox.next_session() == 2
    assert outbox.add(0, 1, lambda *_: (b"h", b"c")) == UpdateId(outbox.incarnation, 1)
    assert outbox.made_from(0, 1) == len(salvaged) + 3 + 1


def test_a_file_of_the_first_schema_is_salvaged_too(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    first_file(path)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = database.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'open_updates'"
        ).fetchone()
    database.close()
    overwrite(path, (root - 1) * PAGE, bytes(PAGE))
    outbox = Outbox(path, QUOTA)
    assert outbox.set_aside
    assert outbox.open_updates() == [UpdateId(FIRST, at) for at in (2, 3, 4)]
    assert outbox.offer(UpdateId(FIRST, 2)) == Offer(UpdateId(FIRST, 2), b"h2", b"c2")
    assert outbox.incarnation != FIRST


def test_damage_found_while_running_changes_the_file_under_the_same_outbox(
    tmp_path: Path,
) -> None:
    path = tmp_path / "outbox.db"
    old = filled(path)
    outbox = Outbox(path, QUOTA)
    session = outbox.next_session()
    outbox.close()
    outbox = Outbox(path, QUOTA)
    overwrite(path, page_of(path, b"header 20"), b"\xff" * PAGE)
    other = sqlite3.connect(path)  # so that the outbox reads its pages from the disk again
    with other:
        other.execute("UPDATE identity SET session = session + 1")
    other.close()
    found = [outbox.offer(UpdateId(old, at)) for at in range(4, 31)]
    assert outbox.set_aside == [tmp_path / "outbox.db.damaged-1"]
    assert outbox.incarnation != old
    for offer in found:
        if offer is not None:
            assert offer.content == content_of(offer.id.sequence)
    assert UpdateId(old, 4) in outbox.open_updates()
    assert outbox.add(0, 1, lambda *_: (b"h", b"c")).sequence == 1
    assert outbox.next_session() > session


def test_a_salvage_cut_short_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    old = filled(path)
    overwrite(path, page_of(path, b"header 20"), bytes(PAGE))
    expected = Outbox(path, QUOTA).open_updates()
    with sqlite3.connect(path) as database:  # as a power cut leaves it: half, and no identity
        database.execute("DELETE FROM identity")
        database.execute("DELETE FROM updates WHERE sequence % 2 = 0")
    database.close()
    outbox = Outbox(path, QUOTA)
    assert sorted(outbox.open_updates()) == expected
    assert len(outbox.set_aside) == 1
    assert outbox.highest(old) == 30


@pytest.mark.parametrize("seed", range(60))
def test_whatever_rots_every_offer_is_the_update_or_nothing(
    tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    path = tmp_path / "outbox.db"
    old = filled(path, 12)
    rng = random.Random(100 * seed)
    size = path.stat().st_size
    for _ in range(rng.randrange(1, 6)):
        length = rng.choice([1, 1, 16, 512, PAGE])
        overwrite(path, rng.randrange(size - length), rng.randbytes(length))
    if rng.random() < 0.2:
        with path.open("r+b") as file:
            file.truncate(rng.randrange(size))
    used = {UpdateId(old, at) for at in range(1, 13)}
    for _ in range(2):
        outbox = Outbox(path, QUOTA)
        for at in outbox.open_updates():
            offer = outbox.offer(at)
            if offer is not None and offer.header != b"new":
                assert offer.header == b"header %d" % at.sequence
                assert offer.content in {None, content_of(at.sequence)}
        outbox.settle((Receipt(incarnation=old, sequence=5, status="folded"),), 9)
        made = outbox.add(0, 1, lambda *_: (b"new", b"new"))
        assert outbox.offer(made) == Offer(made, b"new", b"new")
        assert made not in used
        used.add(made)
        outbox.counts(), outbox.account(), outbox.over_quota(), outbox.next_session()
        outbox.close()


def signed(path: Path, identity: Identity) -> UpdateId:
    """An outbox with one real update; its content and its header can be found in the file."""
    outbox = Outbox(path, QUOTA)

    def build(incarnation: str, sequence: int) -> tuple[bytes, bytes]:
        header = UpdateHeader(
            agent=AGENT,
            incarnation=incarnation,
            sequence=sequence,
            lineage=2,
            base_version=3,
            base_digest=b"base" * 8,
            examples=100,
            weight=100,
            scale=0.001,
            bits=8,
            content=describe(content_of(1)),
        )
        return seal_update(header, identity, Counter(1)), content_of(1)

    made = outbox.add(2, 3, build)
    outbox.close()
    return made


@pytest.mark.parametrize("part", ["content", "header", "both", "committed"])
def test_rotten_bytes_end_as_a_tombstone_of_the_same_id_and_content(
    tmp_path: Path, identity: Identity, part: str
) -> None:
    path = tmp_path / "outbox.db"
    made = signed(path, identity)
    data = path.read_bytes()
    if part != "header":
        overwrite(path, data.index(content_of(1)[6000:6100]), b"rot")
    if part in {"header", "both"}:
        overwrite(path, data.index(b"base" * 8), b"rot")
    outbox = Outbox(path, QUOTA)
    if part == "committed":
        receipt = Receipt(incarnation=made.incarnation, sequence=1, status="committed")
        outbox.settle((receipt,), 1)
    assert outbox.offer(made) is None
    assert outbox.open_updates() == [made]
    bury_doomed(outbox, identity, Counter(2))
    offer = outbox.offer(made)
    assert offer is not None
    assert offer.content is None
    header, _ = unseal(
        offer.header, UpdateHeader, federation=FEDERATION, signer=AGENT, key=identity.key.public
    )
    assert header.dropped == "damaged"
    assert (header.incarnation, header.sequence) == (made.incarnation, made.sequence)
    assert (header.lineage, header.base_version) == (2, 3)
    assert header.content.digest == describe(content_of(1)).digest
    assert outbox.damaged() == []
    assert outbox.set_aside == []

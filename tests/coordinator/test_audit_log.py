"""The audit log in the coordinator's file: written with each decision, and not without it."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.audit import load_tree
from coordinator.store import Store
from tests.coordinator.audited_federation import SITES, Audited, lived
from tests.coordinator.small_federation import (
    COORDINATOR_KEY,
    FEDERATION,
    Site,
    open_federation,
    trust,
)
from wire.audit_entries import (
    AgentNoted,
    Charge,
    CharterNoted,
    ContributionsNoted,
    DecisionNoted,
    EarlierNoted,
    Entry,
    HeadNoted,
    InitialNoted,
    ManifestNoted,
    SettledNoted,
    UpdateNoted,
    VersionNoted,
    decode_entry,
    encode_entry,
)
from wire.chunks import sha256
from wire.codec import open_envelope, parse_body, seal
from wire.errors import MalformedError
from wire.merkle import Tree, leaf_hash
from wire.messages import Head, Manifest, ManifestMember
from wire.trust import COORDINATOR


def entries(store: Store) -> list[bytes]:
    rows = vars(store)["_db"].execute("SELECT number, entry FROM audit ORDER BY number").fetchall()
    assert [number for number, _ in rows] == list(range(len(rows)))
    return [bytes(entry) for _, entry in rows]


def said(store: Store) -> list[Entry]:
    return [decode_entry(entry) for entry in entries(store)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    made = lived(tmp_path_factory.mktemp("audit") / "coordinator.db", rounds=4)
    yield made
    made.store.close()


def test_a_new_log_begins_with_the_charter_and_whose_the_first_weights_are(store: Store) -> None:
    federation = open_federation(store)
    charter, initial, version, head = said(store)
    assert isinstance(charter, CharterNoted)
    assert charter.envelope == trust().envelope
    assert isinstance(initial, InitialNoted)
    assert initial.contributor == "the author of bundle spindle revision 1"
    assert isinstance(version, VersionNoted)
    assert version.digest == initial.digest == federation.head.train.content.digest
    assert isinstance(head, HeadNoted)
    assert head.digest == sha256(federation.head_envelope)


def test_every_head_is_signed_over_the_log_before_it_and_recorded_after(
    federation: Audited,
) -> None:
    stored = entries(federation.store)
    leaves = [leaf_hash(entry) for entry in stored]
    assert len(federation.heads) > 4
    for envelope in federation.heads:
        head = parse_body(open_envelope(envelope, "head"), Head)
        assert head.log is not None
        assert head.log.root == Tree(leaves).root(head.log.size)
        noted = decode_entry(stored[head.log.size])
        assert noted == HeadNoted(0, head.sequence, sha256(envelope))


def test_the_tree_in_the_file_is_that_of_the_entries(federation: Audited) -> None:
    leaves = [leaf_hash(entry) for entry in entries(federation.store)]
    tree = load_tree(vars(federation.store)["_db"])
    assert (tree.size, tree.root) == (len(leaves), Tree(leaves).root())
    assert federation.store.audit.tree.root == tree.root


def test_every_outcome_version_decision_and_charge_is_in_the_log(federation: Audited) -> None:
    store, log = federation.store, said(federation.store)
    made = [entry for entry in log if isinstance(entry, VersionNoted)]
    assert {entry.version: entry.digest.hex() for entry in made} == store.versions()
    folded = [
        (entry.version, *(each.agent, each.incarnation, each.sequence, each.coefficient))
        for entry in log
        if isinstance(entry, SettledNoted) and entry.status == "folded"
        for each in entry.updates
    ]
    assert sorted(folded) == store.memberships()
    first = [entry for entry in log if isinstance(entry, UpdateNoted)]
    assert len(first) == 14
    assert [entry.status for entry in first].count("committed") == 12
    (refused,) = (entry for entry in first if entry.status == "refused")
    assert "is not the policy's" in refused.reason
    (dropped,) = (entry for entry in first if entry.status == "dropped")
    assert dropped.reason == "quota"
    assert first[0].spent == Charge(0.25, (), 1)
    decided = [entry for entry in log if isinstance(entry, DecisionNoted)]
    assert [
        (entry.version, entry.lineage, entry.verdict, entry.reason) for entry in decided
    ] == store.record.decisions()
    assert decided
    agents = {entry.agent: entry.site for entry in log if isinstance(entry, AgentNoted)}
    assert agents == SITES


def test_contributions_are_noted_as_people_see_them(tmp_path: Path) -> None:
    made = lived(tmp_path / "coordinator.db", rounds=22)
    noted = [entry for entry in said(made.store) if isinstance(entry, ContributionsNoted)]
    shown = vars(made.store)["_db"].execute("SELECT * FROM contributions ORDER BY site").fetchall()
    assert [each[0] for each in shown] == sorted(SITES.values())
    newest = noted[-1]
    assert [
        (each.site, each.value, each.error, each.versions, newest.version) for each in newest.values
    ] == shown
    made.store.close()


def test_a_restart_goes_on_with_the_same_log_and_says_the_charter_once(tmp_path: Path) -> None:
    made = lived(tmp_path / "coordinator.db", rounds=1)
    before = entries(made.store)
    made.store.close()
    again = Audited(made.path)
    assert entries(again.store) == before
    again.round(2)
    assert entries(again.store)[: len(before)] == before
    assert sum(isinstance(entry, CharterNoted) for entry in said(again.store)) == 1
    again.store.close()


def test_a_decision_that_fails_leaves_no_entry_and_the_next_one_follows_the_old_root(
    store: Store,
) -> None:
    federation = open_federation(store, "[strategy]\ngoal = 1\n")
    before, site = entries(store), Site()
    broken = site.update(federation.head.train)
    vars(store)["_db"].execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON versions BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="full"):
        federation.commit([broken], 1.0)
    assert entries(store) == before
    vars(store)["_db"].execute("DROP TRIGGER full")
    federation.commit([broken], 2.0)
    stored = entries(store)
    assert stored[: len(before)] == before
    assert store.audit.tree.root == Tree([leaf_hash(entry) for entry in stored]).root()


def test_an_entry_outside_a_transaction_is_refused(store: Store) -> None:
    with pytest.raises(RuntimeError, match="outside the transaction"):
        store.audit.note_decision(1, 0, "promoted", "why")
    assert entries(store) == []


def test_no_entry_can_be_changed_or_deleted_by_the_program(federation: Audited) -> None:
    database = vars(federation.store)["_db"]
    for statement in ("DELETE FROM audit WHERE number = 3", "UPDATE audit SET entry = x'00'"):
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            database.execute(statement)


def test_a_file_of_an_older_program_begins_its_log_where_it_is(tmp_path: Path) -> None:
    made = lived(tmp_path / "coordinator.db", rounds=1)
    update = made.sites["mill-1"].update(made.federation.head.train)
    made.federation.commit([update], 9.0)
    made.store.close()
    with closing(sqlite3.connect(made.path)) as database:
        database.executescript("DROP TABLE audit; DROP TABLE audit_tree;")
    again = Audited(made.path)
    charter, earlier, *rest = said(again.store)
    assert isinstance(charter, CharterNoted)
    assert isinstance(earlier, EarlierNoted)
    assert (earlier.version, earlier.updates) == (1, 5)
    waiting = [entry.sequence for entry in rest if isinstance(entry, UpdateNoted)]
    assert waiting == [update.header.sequence]
    assert {entry.agent for entry in rest if isinstance(entry, AgentNoted)} == set(SITES)
    again.store.close()


def test_a_manifest_is_noted_with_its_reports_and_helpers(store: Store) -> None:
    open_federation(store)
    members = tuple(
        ManifestMember(report=bytes([number]) * 32, coefficient=number) for number in (1, 2)
    )
    manifest = Manifest(number=1, epoch=1, count=612, ring=32, bits=8, members=members)
    envelope = seal(
        manifest, federation=FEDERATION, signer=COORDINATOR, counter=1, key=COORDINATOR_KEY
    )
    with store.transaction():
        store.audit.note_manifest(envelope, ("h1", "h3"))
    noted = said(store)[-1]
    assert isinstance(noted, ManifestNoted)
    assert (noted.digest, noted.helpers) == (sha256(envelope), ("h1", "h3"))
    assert [(each.report[0], each.coefficient) for each in noted.members] == [(1, 1), (2, 2)]


def test_a_killed_coordinator_has_a_log_that_leads_to_its_root(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.coordinator.committing", str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(14):
        process.stdout.readline()
    process.kill()
    process.communicate()
    with closing(Store(path)) as store:
        stored = entries(store)
        assert store.audit.tree.root == Tree([leaf_hash(entry) for entry in stored]).root()
        known = store.counts()
        noted = sum(isinstance(entry, UpdateNoted) for entry in said(store))
        assert noted == sum(known.values()) - known["duplicates"] >= 6


def test_bytes_that_the_coordinator_would_not_write_are_no_entry() -> None:
    entry = encode_entry(HeadNoted(0, 1, bytes(32)))
    assert decode_entry(entry) == HeadNoted(0, 1, bytes(32))
    longer = entry.replace(b"\x01\xc4", b"\xcd\x00\x01\xc4", 1)  # 1 as two bytes
    for wrong in (longer, entry[:-1], b"\x91\xa6head.9", b"", entry[:1] + entry):
        with pytest.raises(MalformedError):
            decode_entry(wrong)

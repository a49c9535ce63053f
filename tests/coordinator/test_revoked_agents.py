"""A revoked credential: nothing that comes under it counts any more; the next one does."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from coordinator.revocations import RevokedFile
from coordinator.store import Store
from tests.coordinator.small_federation import FEDERATION
from tests.fuzz.coordinator_case import OPERATIONS, CoordinatorCase, birth_body
from tests.fuzz.mutating import Record
from tests.fuzz.people import (
    AGENT,
    AGENT_KEY,
    OTHER,
    STRANGER_KEY,
    TOPICS,
    TRUST,
    credential,
    signed,
)
from tests.fuzz.script import database, listen
from wire.codec import seal
from wire.messages import AgentState, RevocationList, Revoked
from wire.mqtt import Received
from wire.trust import ENROLMENT

AT = OPERATIONS.index


def listed(number: int, *entries: tuple[str, int]) -> Received:
    """The authority's list as the broker keeps it."""
    said = RevocationList(
        number=number,
        entries=tuple(Revoked(agent=agent, serial=serial) for agent, serial in entries),
    )
    return Received(TOPICS.revoked, signed("revoked", msgspec.msgpack.encode(said)), retained=True)


def outcomes(case: CoordinatorCase) -> list[tuple[str, int, str, str]]:
    """Agent, sequence, status and reason of every update."""
    query = "SELECT agent, sequence, status, reason FROM updates ORDER BY agent, sequence"
    return database(case.store).execute(query).fetchall()


def test_updates_of_a_revoked_credential_are_refused_and_others_are_taken() -> None:
    case = CoordinatorCase()

    def story() -> Iterator[Received]:
        yield from case.begin()
        yield from case.messages(Record(AT("whole"), 0, b"1"))
        yield listed(1, (AGENT, 1))
        yield from case.messages(Record(AT("whole"), 0, b"2"))
        yield from case.messages(Record(AT("whole"), 1, b"3"))

    listen(case.connection, story())
    first, second, other = outcomes(case)
    assert first[:2] == (AGENT, 1)
    assert first[2] in ("committed", "folded")  # what was taken before stays
    assert second == (AGENT, 2, "refused", f"credential 1 of {AGENT} was revoked")
    assert other[0] == OTHER
    assert other[2] in ("committed", "folded")
    (alarm,) = [alarm for alarm in case.store.alarms() if alarm[1] == "revoked"]
    assert alarm[0] == AGENT
    assert "update 2 was refused" in alarm[2]


def test_reports_and_asks_of_a_revoked_credential_change_nothing() -> None:
    case = CoordinatorCase()

    def story() -> Iterator[Received]:
        yield from case.begin()
        yield listed(1, (AGENT, 1))
        yield from case.messages(Record(AT("judgement"), 0, b""))
        yield from case.messages(Record(AT("ready"), 0, b""))

    listen(case.connection, story())
    digest = case.federation.head.train.content.digest
    assert AGENT not in case.store.evaluations(digest)
    assert case.connection.admissions.waiting == 0


def birth(serial: int, session: int) -> Received:
    """A birth under another credential of the same key."""
    state = AgentState(
        status="online",
        incarnation="0123456789abcdef",
        session=session,
        credential=credential(AGENT, "site-a", serial),
    )
    data = seal(
        state, federation=FEDERATION, signer=AGENT, counter=(session << 32) + 1, key=AGENT_KEY
    )
    return Received(TOPICS.state(AGENT), data, retained=True)


def test_who_was_enrolled_again_counts_again() -> None:
    case = CoordinatorCase()

    def story() -> Iterator[Received]:
        yield from case.begin()
        yield listed(3, (AGENT, 1), (OTHER, 1))
        yield birth(serial=2, session=9)
        yield from case.messages(Record(AT("whole"), 0, b"1"))
        yield birth(serial=1, session=10)

    listen(case.connection, story())
    ((agent, _, status, _),) = outcomes(case)
    assert (agent, status) == (AGENT, "committed")
    known = case.store.agent(AGENT)
    assert known is not None
    assert known.serial == 2


def test_a_birth_of_a_revoked_credential_is_not_taken_and_is_an_alarm() -> None:
    case = CoordinatorCase()

    def story() -> Iterator[Received]:
        yield listed(1, (AGENT, 1))
        body = birth_body(AGENT)
        yield Received(TOPICS.state(AGENT), signed("agent-state", body), retained=True)

    listen(case.connection, story())
    assert case.store.agent(AGENT) is None
    assert case.store.alarm(AGENT, "revoked").endswith("does the broker let it in?")


def test_lists_are_joined_and_a_forged_one_counts_for_nothing() -> None:
    case = CoordinatorCase()
    forged = seal(
        RevocationList(number=9, entries=(Revoked(agent=OTHER, serial=5),)),
        federation=FEDERATION,
        signer=ENROLMENT,
        counter=9,
        key=STRANGER_KEY,
    )
    messages = [listed(2, (AGENT, 4)), listed(1, (AGENT, 2), ("press-9", 1))]
    messages.append(Received(TOPICS.revoked, forged, retained=True))
    listen(case.connection, iter(messages))
    covers = case.store.revocations.covers
    assert [covers(AGENT, serial) for serial in (1, 4, 5)] == [True, True, False]
    assert covers("press-9", 1)
    assert not covers(OTHER, 1)


def test_what_was_revoked_outlives_the_coordinator(tmp_path: Path) -> None:
    first = Store(tmp_path / "coordinator.db")
    assert first.revocations.take(RevocationList(number=1, entries=(Revoked(agent="a", serial=3),)))
    first.close()
    second = Store(tmp_path / "coordinator.db")
    assert second.revocations.covers("a", 3)
    assert not second.revocations.covers("a", 4)
    second.close()


def test_a_file_is_read_when_it_is_new_and_a_bad_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "revoked.jm"
    file = RevokedFile(path, TRUST)
    assert file.changed() is None
    assert file.changed() is None
    assert caplog.text.count("can not read it") == 1
    path.write_bytes(listed(1, (AGENT, 1)).payload)
    found = file.changed()
    assert found is not None
    assert found.number == 1
    assert file.changed() is None
    other = tmp_path / "other"
    other.write_bytes(b"nonsense")
    other.replace(path)
    assert file.changed() is None
    assert "what is revoked stays as it was" in caplog.text

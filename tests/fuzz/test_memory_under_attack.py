"""What strangers send leaves nothing behind: no memory, no row, whatever names they invent."""

import gc
import hashlib
import tracemalloc
from collections.abc import Callable, Iterator

import msgspec

from coordinator.ingest import BUDGET_BYTES, Ingest
from tests.coordinator.small_federation import COORDINATOR_KEY, FEDERATION, P
from tests.fuzz.agent_case import AgentCase, head_body, weights
from tests.fuzz.coordinator_case import CoordinatorCase, birth_body
from tests.fuzz.mutating import Record
from tests.fuzz.people import (
    AGENT,
    INCARNATION,
    STRANGER_KEY,
    TOPICS,
    bundle,
)
from tests.fuzz.script import changes, listen, watching
from tests.fuzz.seeds import bodies
from wire.chunks import describe
from wire.codec import seal_bytes
from wire.messages import UpdateHeader
from wire.mqtt import Received
from wire.topics import shard

WARM, MORE = 1_500, 6_000
GROWTH_BYTES = 65_536
"""Ten bytes a message would be a leak; caches and free lists that fill once are not."""


def forged(kind: str, body: bytes, signer: str, number: int) -> bytes:
    """A message in somebody's name under a key of nobody."""
    return seal_bytes(
        kind, body, federation=FEDERATION, signer=signer, counter=number, key=STRANGER_KEY
    )


def against_the_coordinator(number: int) -> Received:
    """Something that must be refused, with a name that never came before."""
    name = f"x{number}"
    golden = bodies()
    kinds: list[Callable[[], Received]] = [
        lambda: Received(
            TOPICS.state(name), forged("agent-state", birth_body(), name, number), retained=True
        ),
        lambda: Received(
            TOPICS.report(name), forged("report", golden["report"][0], name, number), retained=False
        ),
        lambda: Received(
            TOPICS.update(name, INCARNATION, number + 1, "h"),
            forged("update", golden["update"][0], name, number),
            retained=False,
        ),
        lambda: Received(
            TOPICS.update(name, f"{number:016x}", number, 0), bytes(200), retained=False
        ),
        lambda: Received(
            TOPICS.update(AGENT, f"{number:016x}", number, 0), bytes(200), retained=False
        ),
        lambda: Received(f"{TOPICS.base}/up/{shard(AGENT)}/{AGENT}/{number}", b"x", retained=False),
        lambda: Received(f"{TOPICS.base}/{name}/{'y' * 1000}", name.encode(), retained=False),
        lambda: Received(
            TOPICS.state(AGENT), forged("agent-state", birth_body(), AGENT, number), retained=True
        ),
        lambda: Received(
            TOPICS.report(AGENT),
            forged("report", golden["report"][0], AGENT, number),
            retained=False,
        ),
        lambda: Received(
            TOPICS.ask(name),
            forged("readiness", golden["readiness"][0], name, number),
            retained=False,
        ),
        lambda: Received(
            TOPICS.ask(AGENT),
            forged("readiness", golden["readiness"][0], AGENT, number),
            retained=False,
        ),
    ]
    return kinds[number % len(kinds)]()


def against_the_agent(number: int) -> Received:
    """Something that an agent must refuse or ignore."""
    digest = hashlib.sha256(number.to_bytes(8, "big")).hexdigest()
    golden = bodies()
    named = [describe(part, 512) for part in (bundle(), weights(number % 5), weights(0))]
    kinds: list[Callable[[], Received]] = [
        lambda: Received(TOPICS.model(digest, number), bytes(300), retained=True),
        lambda: Received(TOPICS.bundle(digest, 0), bytes(300), retained=True),
        lambda: Received(
            TOPICS.head,
            forged("head", head_body(number + 9, named), "coordinator", number),
            retained=True,
        ),
        lambda: Received(
            TOPICS.to(AGENT),
            forged("receipts", golden["receipts"][0], "coordinator", number),
            retained=False,
        ),
        lambda: Received(
            TOPICS.to(AGENT),
            forged("command", golden["command"][0], "coordinator", number),
            retained=False,
        ),
        lambda: Received(
            TOPICS.state(AGENT), forged("agent-state", birth_body(), AGENT, number), retained=True
        ),
        lambda: Received(
            TOPICS.to(AGENT),
            forged("grant", golden["grant"][0], "coordinator", number),
            retained=False,
        ),
        lambda: Received(f"{TOPICS.base}/x{number}/{digest}", digest.encode(), retained=False),
    ]
    return kinds[number % len(kinds)]()


def flood(make: Callable[[int], Received], grown: list[int]) -> Iterator[Received]:
    """Messages, and what was allocated meanwhile by the later ones."""
    for number in range(WARM):
        yield make(number)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(WARM, WARM + MORE):
        yield make(number)
    gc.collect()
    grown.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()


def test_refused_messages_leave_nothing_in_the_coordinator() -> None:
    with watching() as watch:
        case, grown = CoordinatorCase(), list[int]()
        listen(case.connection, case.begin())
        rows, refused = changes(case.store), watch.refused
        listen(case.connection, flood(against_the_coordinator, grown))
        # Chunks without a header and topics of nobody are dropped without a word.
        assert watch.refused - refused >= (WARM + MORE) // 2
        assert changes(case.store) == rows
        assert grown[0] < GROWTH_BYTES
        assert case.held() == (0, 0)


def test_refused_messages_leave_nothing_in_the_agent() -> None:
    with watching() as watch:
        case, grown = AgentCase(), list[int]()
        listen(case.connection, iter(case.messages(Record(6, 0, b""))))
        in_use = case.adoption.current
        rows = changes(case.outbox), changes(case.models)
        listen(case.connection, flood(against_the_agent, grown))
        assert watch.refused >= (WARM + MORE) // 2
        assert (changes(case.outbox), changes(case.models)) == rows
        assert case.adoption.current is in_use is not None
        assert grown[0] < GROWTH_BYTES


def test_a_coordinator_that_repeats_itself_leaves_nothing_in_the_agent() -> None:
    """Signed messages that change nothing: old receipts, the same head again and again."""
    with watching():
        case, grown = AgentCase(), list[int]()
        said = case.messages(Record(6, 0, b""))
        said += [
            Received(
                TOPICS.to(AGENT),
                seal_bytes(
                    "receipts",
                    bodies()["receipts"][0],
                    federation=FEDERATION,
                    signer="coordinator",
                    counter=3,
                    key=COORDINATOR_KEY,
                ),
                retained=False,
            )
        ]
        listen(case.connection, iter(said))
        rows = changes(case.outbox), changes(case.models)
        listen(case.connection, flood(lambda number: said[number % len(said)], grown))
        assert (changes(case.outbox), changes(case.models)) == rows
        assert grown[0] < GROWTH_BYTES


def test_an_enrolled_agent_can_not_make_the_coordinator_hold_more_than_its_budget() -> None:
    """Headers without end from one agent, each signed and valid, whose chunks never come."""
    budget = 1 << 20
    ingest, later = Ingest(budget), 0
    content = describe(bytes(P), 256)
    for sequence in range(1, 3 * budget // P):
        header = UpdateHeader(
            agent=AGENT,
            incarnation=INCARNATION,
            sequence=sequence,
            lineage=0,
            base_version=0,
            base_digest=bytes(32),
            examples=1,
            weight=1,
            scale=0.01,
            bits=8,
            content=content,
        )
        answer = ingest.on_header(header, 0.0)
        later += answer is not None
        assert ingest.pledged_bytes <= budget <= BUDGET_BYTES
        if later > 100:
            break
    assert later > 100
    assert ingest.ask(1e6) == []  # the abandoned ones are forgotten
    assert ingest.pledged_bytes == 0


def test_a_topic_of_nobody_is_refused_in_a_short_line() -> None:
    with watching() as watch:
        case = CoordinatorCase()
        longest = f"{TOPICS.base}/state/{'x' * 65_000}"
        listen(case.connection, iter([Received(longest, b"", retained=False)]))
        assert watch.refused == 1
        assert watch.unfit == ""


def test_a_case_can_be_read_from_any_bytes() -> None:
    for data in (b"", b"\0", b"\0\0\xff\xff", msgspec.msgpack.encode([1, 2, 3]), bytes(500)):
        case = CoordinatorCase()
        listen(case.connection, case.begin())
        assert case.held()[0] == 0, data

"""The topic tree: what is built is parsed back, and nothing else is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import MalformedError
from wire.topics import HEADER_PART, NAME, SHARDS, Topics, UpdateTopic, check_name, natural, shard

TOPICS = Topics("plant-net")
BASE = "journeyman/v1/plant-net"
INCARNATION = "0123456789abcdef"
names = st.from_regex(NAME, fullmatch=True)
naturals = st.integers(0, (1 << 53) - 1)


@given(names, names, naturals, st.none() | naturals)
def test_an_update_topic_is_parsed_into_what_it_was_built_from(
    federation: str, agent: str, sequence: int, chunk: int | None
) -> None:
    topics = Topics(federation)
    part = HEADER_PART if chunk is None else chunk
    topic = topics.update(agent, INCARNATION, sequence, part)
    assert topics.parse_update(topic) == UpdateTopic(agent, INCARNATION, sequence, chunk)


@given(st.text() | st.text(alphabet=f"{BASE}up0123456789abcdefh/+#\0").map(f"{BASE}/up/".__add__))
def test_any_topic_is_parsed_or_malformed(topic: str) -> None:
    try:
        parsed = TOPICS.parse_update(topic)
    except MalformedError:
        return
    part = HEADER_PART if parsed.chunk is None else parsed.chunk
    assert TOPICS.update(parsed.agent, parsed.incarnation, parsed.sequence, part) == topic


def good(**changes: str) -> str:
    levels = {
        "base": BASE,
        "up": "up",
        "shard": str(shard("press-1")),
        "agent": "press-1",
        "incarnation": INCARNATION,
        "sequence": "7",
        "part": "h",
    }
    return "/".join((levels | changes).values())


def test_the_example_of_the_specification_parses() -> None:
    assert TOPICS.parse_update(good()) == UpdateTopic("press-1", INCARNATION, 7, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": "journeyman/v2/plant-net"},
        {"base": "journeyman/v1/other-net"},
        {"up": "down"},
        {"shard": str((shard("press-1") + 1) % SHARDS)},
        {"shard": "0" + str(shard("press-1"))},
        {"agent": "press 1"},
        {"agent": "press-1\n"},
        {"agent": ""},
        {"agent": "+"},
        {"agent": "a" * 64},
        {"incarnation": INCARNATION.upper()},
        {"incarnation": INCARNATION + "\n"},
        {"incarnation": INCARNATION[1:]},
        {"sequence": "07"},
        {"sequence": "-7"},
        {"sequence": "7\n"},
        {"sequence": "\u0667"},
        {"sequence": str(1 << 53)},
        {"part": "H"},
        {"part": ""},
        {"part": "1.0"},
        {"part": "0/0"},
    ],
)
def test_a_hostile_update_topic_is_malformed(changes: dict[str, str]) -> None:
    with pytest.raises(MalformedError):
        TOPICS.parse_update(good(**changes))


@pytest.mark.parametrize(
    "name", ["", ".hidden", "-x", "a/b", "a+", "#", "a b", "ä", "a\n", "a" * 64]
)
def test_a_name_that_could_break_out_of_its_level_is_refused(name: str) -> None:
    for build in (TOPICS.state, TOPICS.to, TOPICS.report, lambda name: Topics(name).head):
        with pytest.raises(MalformedError):
            build(name)
    with pytest.raises(MalformedError, match="site"):
        check_name(name, "site")


@given(names)
def test_the_agent_of_a_state_topic_is_found_again(agent: str) -> None:
    assert TOPICS.agent_of(TOPICS.state(agent), "state") == agent
    assert TOPICS.agent_of(TOPICS.report(agent), "report") == agent
    with pytest.raises(MalformedError):
        TOPICS.agent_of(TOPICS.report(agent), "state")


def test_an_agent_of_another_federation_is_not_found() -> None:
    with pytest.raises(MalformedError):
        TOPICS.agent_of(Topics("other-net").state("press-1"), "state")


def test_filters_are_prefixes_of_what_they_subscribe_to() -> None:
    assert TOPICS.update("press-1", INCARNATION, 1, 0).startswith(TOPICS.all_updates[:-1])
    assert TOPICS.state("press-1").startswith(TOPICS.all_states[:-1])
    assert TOPICS.report("press-1").startswith(TOPICS.all_reports[:-1])
    assert TOPICS.to("press-1").startswith(TOPICS.all_inboxes[:-1])
    assert TOPICS.coordinator_state == TOPICS.state("coordinator")


def test_the_fixed_topics_are_those_of_the_specification() -> None:
    assert TOPICS.head == f"{BASE}/head"
    assert TOPICS.bundle("ab", 0) == f"{BASE}/bundle/ab/0"
    assert TOPICS.model("ab", 12) == f"{BASE}/model/ab/12"


def test_a_shard_is_the_same_in_every_process_for_ever() -> None:
    assert [shard(agent) for agent in ("press-1", "press-2", "mill-L")] == [15, 1, 2]  # sha256sum
    assert {shard(str(agent)) for agent in range(1000)} == set(range(SHARDS))


@given(naturals)
def test_a_natural_number_is_read_back(number: int) -> None:
    assert natural(str(number), "chunk") == number

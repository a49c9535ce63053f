"""Each access rule both ways, for the ACL file and for dynamic security, over both protocols.

Allowed means that somebody else sees the effect; forbidden means that the watcher, who may read
everything, sees none, and that nothing is kept.
"""

import itertools
from collections.abc import Callable

import pytest

from tests.broker.conftest import WATCHER, Guard, RealBroker
from tests.broker.probe import DEADLINE_S, NOT_AUTHORIZED, REFUSED, Probe, Protocol
from tests.broker.rights import READS, TOPICS, TREE, may_read, may_write

GUARDS: tuple[Guard, ...] = ("acl", "dynsec")
PROTOCOLS: tuple[Protocol, ...] = ("3.1.1", "5")
Guarded = Callable[[Guard], RealBroker]
RULES = list(itertools.product(GUARDS, PROTOCOLS, READS, TREE))
GREEDY = {
    "everything": "#",
    "everything below one level": "+/#",
    "the federation": f"{TOPICS.base}/#",
    "all updates": TOPICS.all_updates,
    "all inboxes": TOPICS.all_inboxes,
    "all reports": TOPICS.all_reports,
    "all asks": TOPICS.all_asks,
    "all births": TOPICS.all_states,
    "all inboxes of all federations": "journeyman/+/+/to/+",
    "a share of all updates": f"$share/thieves/{TOPICS.all_updates}",
    "a share of another's inbox": f"$share/thieves/{TOPICS.to('press-2')}",
}
_numbers = itertools.count()


def token() -> bytes:
    """A payload that no other test uses."""
    return f"message {next(_numbers)}".encode()


def watch(broker: RealBroker, protocol: Protocol) -> Probe:
    """The user who hears everything that the broker takes from now on."""
    watcher = broker.probe(WATCHER, protocol)
    watcher.subscribe("#")
    watcher.heard()
    return watcher


def refusal(protocol: Protocol) -> int:
    """Reason code of a refused subscription."""
    return NOT_AUTHORIZED if protocol == "5" else REFUSED


@pytest.mark.parametrize(("guard", "protocol", "user", "what"), RULES)
def test_a_message_is_taken_where_its_sender_may_publish_and_nowhere_else(
    guarded: Guarded, guard: Guard, protocol: Protocol, user: str, what: str
) -> None:
    broker, topic, payload = guarded(guard), TREE[what], token()
    watcher, sender = watch(broker, protocol), broker.probe(user, protocol)
    code = sender.publish(topic, payload, retain=True)
    seen, kept = watcher.heard().get(topic), watcher.retained(topic)
    watcher.publish(topic, b"", retain=True)
    if what in may_write(guard, user):
        assert (code, seen, kept) == (0, payload, payload)
    else:
        assert (seen, kept) == (None, None)
        assert code == (NOT_AUTHORIZED if protocol == "5" else 0)  # 3.1.1 has no word for it
    assert sender.is_connected


@pytest.mark.parametrize(("guard", "protocol", "user", "what"), RULES)
def test_a_message_comes_to_whom_may_read_it_and_to_nobody_else(
    guarded: Guarded, guard: Guard, protocol: Protocol, user: str, what: str
) -> None:
    broker, topic, kept, live = guarded(guard), TREE[what], token(), token()
    watcher, reader = watch(broker, protocol), broker.probe(user, protocol)
    watcher.publish(topic, kept, retain=True)
    codes = reader.subscribe(topic)
    before = reader.heard().get(topic)
    watcher.publish(topic, live)
    after = reader.heard().get(topic)
    reader.unsubscribe(topic)
    watcher.publish(topic, b"", retain=True)
    if what in may_read(guard, user):
        assert (codes, before, after) == ([1], kept, live)
    else:
        assert (before, after) == (None, None)
        # An ACL file is asked when a message is delivered, dynamic security also before.
        assert codes == ([1] if guard == "acl" else [refusal(protocol)])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("greedy", GREEDY.values(), ids=GREEDY)
@pytest.mark.parametrize("user", ["press-1", "newcomer"])
def test_a_wide_subscription_brings_nothing_that_a_narrow_one_would_not(
    guarded: Guarded, guard: Guard, protocol: Protocol, user: str, greedy: str
) -> None:
    broker, payload = guarded(guard), token()
    watcher, reader = watch(broker, protocol), broker.probe(user, protocol)
    codes = reader.subscribe(greedy)
    for topic in TREE.values():
        watcher.publish(topic, payload)
    heard = set(reader.heard())
    reader.unsubscribe(greedy)
    everything = {TREE[what] for what in may_read(guard, user)}
    if guard == "dynsec":
        assert (codes, heard) == ([refusal(protocol)], set())
    elif greedy == "#":
        assert (codes, heard) == ([1], everything)
    else:
        assert heard <= everything
        assert TOPICS.to("press-2") not in heard


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize(
    "what",
    [
        "head",
        "chunk of the bundle",
        "chunk of a model",
        "coordinator's state",
        "another's state",
    ],
)
def test_an_agent_can_not_clear_what_is_kept_for_all(
    guarded: Guarded, guard: Guard, protocol: Protocol, what: str
) -> None:
    broker, topic, payload = guarded(guard), TREE[what], token()
    watcher, agent = broker.probe(WATCHER, protocol), broker.probe("press-1", protocol)
    watcher.publish(topic, payload, retain=True)
    agent.publish(topic, b"", retain=True)
    assert watcher.retained(topic) == payload
    if what != "another's state":
        assert agent.retained(topic) == payload
        broker.probe("coordinator", protocol).publish(topic, b"", retain=True)
        assert watcher.retained(topic) is None
    watcher.publish(topic, b"", retain=True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize(
    ("user", "is_allowed"), [("observer", True), ("coordinator", False), ("press-1", False)]
)
def test_only_the_observer_reads_what_the_broker_says_of_itself(
    guarded: Guarded, guard: Guard, protocol: Protocol, user: str, *, is_allowed: bool
) -> None:
    reader = guarded(guard).probe(user, protocol)
    codes = reader.subscribe("$SYS/#")
    heard = set(reader.heard())
    reader.unsubscribe("$SYS/#")
    assert ("$SYS/broker/uptime" in heard) == is_allowed
    assert bool(heard) == is_allowed
    assert codes == ([1] if is_allowed or guard == "acl" else [refusal(protocol)])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("user", ["press-1", "coordinator", "observer", "newcomer"])
def test_nobody_but_the_administrator_changes_rights(
    guarded: Guarded, protocol: Protocol, user: str
) -> None:
    broker, at = guarded("dynsec"), "$CONTROL/dynamic-security/v1"
    order = b'{"commands":[{"command":"createClient","username":"%s"}]}'
    sender = broker.probe(user, protocol)
    code = sender.publish(at, order % b"thief")
    assert code == (NOT_AUTHORIZED if protocol == "5" else 0)
    assert sender.subscribe("$CONTROL/#") == [refusal(protocol)]
    with_will = broker.connect(user, protocol, will=(at, order % b"thief"))
    broker.connect(user, protocol).close()  # takes over, so that the will would be published
    assert with_will.ended.wait(DEADLINE_S)
    assert "thief" not in broker.control("listClients").split()
    broker.probe("administrator", protocol).publish(at, order % b"friend")
    assert "friend" in broker.control("listClients").split()
    broker.control("deleteClient", "friend")

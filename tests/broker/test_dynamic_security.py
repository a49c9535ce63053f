"""Rights that change while the broker runs: given, taken away, kept over a restart."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.broker.conftest import FEDERATION, MakeBroker, RealBroker, allow_watcher, enrol
from tests.broker.probe import DEADLINE_S, NOT_AUTHORIZED
from tests.broker.rights import TOPICS, TREE

Enrol = Callable[[str, str], str]


@pytest.fixture
def broker(make_broker: MakeBroker) -> Iterator[RealBroker]:
    """A broker of this test's own; nobody but the roles has rights yet."""
    made = make_broker("dynsec")
    made.start()
    allow_watcher(made)
    yield made
    made.kill()


def test_an_agent_has_no_rights_before_it_is_added_and_none_after_it_is_removed(
    broker: RealBroker, repository: Path
) -> None:
    agent, watcher = broker.connect("press-1"), broker.connect("watcher")
    watcher.subscribe("#")
    assert agent.publish(TREE["own state"], b"too early") == NOT_AUTHORIZED
    assert enrol(broker, repository, "add", "press-1") == ""
    assert agent.ended.wait(DEADLINE_S)  # whoever's rights change is disconnected, and comes again
    agent = broker.connect("press-1")
    assert agent.publish(TREE["own state"], b"in time") == 0
    assert agent.subscribe(TOPICS.to("press-1")) == [1]
    assert watcher.heard() == {TREE["own state"]: b"in time"}
    assert enrol(broker, repository, "remove", "press-1") == ""
    assert agent.ended.wait(DEADLINE_S)
    # The certificate still lets it in, without any right.
    back = broker.connect("press-1")
    assert back.publish(TREE["own header"], b"too late") == NOT_AUTHORIZED
    assert back.subscribe(TOPICS.to("press-1"), TOPICS.head) == [NOT_AUTHORIZED] * 2
    watcher.publish(TOPICS.to("press-1"), b"receipt")
    assert back.heard() == {}
    assert TREE["own header"] not in watcher.heard()


def test_adding_and_removing_twice_is_harmless(broker: RealBroker, repository: Path) -> None:
    assert enrol(broker, repository, "add", "press-1") == ""
    once = broker.control("getRole", "agent-press-1"), broker.control("getClient", "press-1")
    assert enrol(broker, repository, "add", "press-1") == ""
    assert once == (
        broker.control("getRole", "agent-press-1"),
        broker.control("getClient", "press-1"),
    )
    for _ in range(2):
        assert enrol(broker, repository, "remove", "press-1") == ""
    assert "press-1" not in broker.control("listClients") + broker.control("listRoles")


def test_an_agent_called_like_the_group_gets_its_rights_too(
    broker: RealBroker, repository: Path
) -> None:
    assert enrol(broker, repository, "add", "agents") == ""
    agent = broker.connect("newcomer")
    assert agent.subscribe(TOPICS.head) == [NOT_AUTHORIZED]
    listed = broker.control("getClient", "agents")
    assert "agent-agents (" in listed.partition("Roles:")[2]
    assert "agents (" in listed.partition("Groups:")[2]


def test_adding_half_an_agent_can_be_done_again(broker: RealBroker, repository: Path) -> None:
    broker.control("createRole", "agent-press-1")
    broker.control("createClient", "press-1", "-p", "unused")
    assert enrol(broker, repository, "add", "press-1") == ""
    agent = broker.connect("press-1")
    assert agent.publish(TREE["own state"], b"online") == 0
    assert agent.subscribe(TOPICS.head, TOPICS.to("press-1")) == [1, 1]


def test_a_broker_of_before_learns_who_may_ask_as_the_page_says(
    broker: RealBroker, repository: Path
) -> None:
    page = " ".join((repository / "docs" / "broker.md").read_text().split())
    words = ["addRoleACL", "coordinator", "subscribePattern", TOPICS.all_asks, "allow"]
    assert " ".join(words).replace(FEDERATION, "my-federation") in page
    for kind in ("subscribePattern", "publishClientReceive"):
        broker.control("removeRoleACL", "coordinator", kind, TOPICS.all_asks)
    assert broker.connect("coordinator").subscribe(TOPICS.all_asks) == [NOT_AUTHORIZED]
    assert broker.control(*words) == ""
    assert broker.control(*words[:2], "publishClientReceive", *words[3:]) == ""
    coordinator = broker.connect("coordinator")
    assert coordinator.subscribe(TOPICS.all_asks) == [1]
    enrol(broker, repository, "add", "press-1")
    assert broker.connect("press-1").publish(TREE["own ask"], b"may I?") == 0
    assert coordinator.heard() == {TREE["own ask"]: b"may I?"}


def test_rights_outlive_the_broker(broker: RealBroker, repository: Path) -> None:
    enrol(broker, repository, "add", "press-1")
    broker.kill()
    broker.start()
    agent = broker.connect("press-1")
    assert agent.publish(TREE["own state"], b"online") == 0
    assert agent.publish(TREE["another's state"], b"online") == NOT_AUTHORIZED


def test_a_certificate_gets_in_past_disable_client_so_removing_is_the_way(
    broker: RealBroker, repository: Path
) -> None:
    """What docs/broker.md warns of: mosquitto 2.0.11 asks the plugin for passwords only."""
    enrol(broker, repository, "add", "press-1")
    broker.control("disableClient", "press-1")
    agent = broker.connect("press-1")
    assert agent.accepted == 0
    assert agent.publish(TREE["own state"], b"still here") == 0


def test_an_agent_that_is_not_there_can_not_be_added_by_whom_may_not(
    broker: RealBroker, repository: Path
) -> None:
    script = repository / "configs" / "broker" / "agent-rights"
    assert script.stat().st_mode & 0o111
    said = broker.control("createRole", "thieves", user="press-1")
    assert "Not authorized" in said
    assert "thieves" not in broker.control("listRoles")

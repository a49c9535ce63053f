"""The recipient of encrypted sums has the rights that docs/homomorphic.md gives it, and they do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.conftest import FEDERATION, Guard, MakeBroker, RealBroker, allow_watcher, enrol
from wire.topics import Topics

TOPICS, NAME = Topics(FEDERATION), "notary"
SUBJECT = "ab" * 32


@pytest.fixture(params=["acl", "dynsec"])
def broker(
    request: pytest.FixtureRequest, make_broker: MakeBroker, repository: Path
) -> Iterator[RealBroker]:
    guard: Guard = request.param
    made = make_broker(guard)
    made.start()
    if guard == "dynsec":
        allow_watcher(made)
        assert enrol(made, repository, "add-helper", NAME) == ""
        made.control("addGroupClient", "agents", NAME)
    yield made
    made.kill()


def test_it_hears_the_parts_of_a_sum_and_says_what_it_decrypted(broker: RealBroker) -> None:
    recipient, watcher = broker.connect(NAME), broker.connect("watcher")
    parts = TOPICS.model(SUBJECT, 0).removesuffix("0") + "+"
    ask = TOPICS.helper_ask(NAME)
    assert recipient.subscribe(TOPICS.charter, TOPICS.revoked, ask, parts) == [1] * 4
    said = {
        TOPICS.helper_answer(NAME): b"endorsement",
        TOPICS.helper_masks(NAME, SUBJECT, 0): b"sums",
    }
    watcher.subscribe(*said)
    for offset in (0, 120_000):
        watcher.publish(TOPICS.model(SUBJECT, offset), b"%d" % offset)
    watcher.publish(ask, b"manifest")
    for topic, payload in said.items():
        assert recipient.publish(topic, payload) == 0
    heard = {ask: b"manifest"} | {TOPICS.model(SUBJECT, at): b"%d" % at for at in (0, 120_000)}
    assert recipient.heard() == heard
    assert watcher.heard() == said

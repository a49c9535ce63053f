"""A real coordinator and a real recipient on a real broker: encrypted updates become a version."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("tenseal", reason='the extra "journeyman[he]" is not installed')

import coordinator.config
from agent.config import Identity
from agent.wrapping import wrap
from coordinator.config import read_coordinator_settings
from coordinator.helper.main import main
from coordinator.ingest import Update
from coordinator.recipient.config import (
    RecipientSettings,
    read_identity,
    read_recipient_settings,
)
from coordinator.recipient.keys import make_recipient, read_recipient
from tests.coordinator.conftest import AGENTS, Broker, Plant
from tests.coordinator.scripted_agent import TOPICS, Floor, floor
from tests.coordinator.small_federation import FEDERATION, PARAMS, SCALE, P
from tests.house.test_configs import keys_of, keys_of_file
from wire.chunks import describe
from wire.codec import open_envelope, parse_body, seal
from wire.errors import SettingsError
from wire.keys import read_federation, replace_charter
from wire.messages import Head, HelperState, UpdateHeader
from wire.signing import read_private_key
from wire.tensors import flatten, read_params
from wire.trust import read_credential

NAME, WEIGHTS = "auditor", {"press-1": 10, "press-2": 20, "mill-1": 15}
CONFIG = """\
[recipient]
name = "auditor"
state_dir = "recipient-state"

[trust]
root = "{root}"
charter = "keys/charter.jm"
signing_key = "recipient/auditor.signing.key"
bfv_key = "recipient/auditor.bfv.key"
context = "recipient/auditor.context"

[broker]
port = {port}
"""


class Place:
    """The plant's folder with a recipient, whose process may be killed."""

    def __init__(self, plant: Plant) -> None:
        self.plant, self.folder = plant, plant.directory
        recipient = make_recipient(self.folder / "recipient", NAME)
        charter = read_federation(plant.keys)[2].charter
        changed = msgspec.structs.replace(charter, epoch=2, k_min=2, recipient=recipient)
        replace_charter(plant.keys, changed)
        self.config = self.folder / "recipient.toml"
        self.config.write_text(CONFIG.format(root=plant.root.raw.hex(), port=plant.port))
        plant.configure("[strategy]\ngoal = 3\n[gate]\nquorum = 3\n", 'protection = "encrypted"\n')
        text = plant.config.read_text()
        key = 'key = "keys/coordinator.key"\n'
        plant.config.write_text(
            text.replace(key, key + 'sealing_key = "keys/coordinator.sealing.key"\n')
        )
        self.processes: list[subprocess.Popen[bytes]] = []

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        program = [sys.executable, "-m", "coordinator.helper.main", "recipient", *arguments]
        return subprocess.run(program, capture_output=True, check=False, timeout=20)

    def start(self) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "coordinator.helper.main", "recipient", "run"]
        with (self.folder / "recipient.log").open("ab") as log:
            process = subprocess.Popen([*program, str(self.config)], stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def update(self, agent: str, head: Head, sequence: int) -> Update:
        keys, base = self.plant.keys, head.train
        trust = read_federation(keys)[2]
        envelope = (keys / f"{agent}.credential").read_bytes()
        key = read_private_key(keys / f"{agent}.key")
        context = (self.folder / "recipient" / f"{NAME}.context").read_bytes()
        identity = Identity(trust, read_credential(envelope, trust), envelope, key, context)
        integers = integers_of(agent, sequence)
        update = ("0123456789abcdef", sequence)
        wrapped = wrap(integers, head.policy, identity, update, base.content.digest)
        header = UpdateHeader(
            agent=agent,
            incarnation=update[0],
            sequence=sequence,
            lineage=head.lineage,
            base_version=base.version,
            base_digest=base.content.digest,
            examples=WEIGHTS[agent],
            weight=WEIGHTS[agent],
            scale=head.policy.scale,
            bits=head.policy.bits,
            content=describe(wrapped.content),
            encrypted=wrapped.context,
        )
        return Update(header, wrapped.content)


def integers_of(agent: str, sequence: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng([sequence, *agent.encode()]).integers(-127, 127, P)


@pytest.fixture
def place(plant: Plant) -> Iterator[Place]:
    made = Place(plant)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


async def offered(seen: Floor, place: Place, sequence: int, version: int) -> None:
    head = await seen.head(version)
    for agent in AGENTS:
        await seen.offer(place.update(agent, head, sequence))
    for agent in AGENTS:
        await seen.receipt(agent, "committed", sequence)


def test_the_programs_make_the_version_that_the_plain_sum_makes(
    place: Place, broker: Broker
) -> None:
    assert broker.process is not None

    async def run() -> bytes:
        async with floor(place.plant.port, place.plant.keys) as seen:
            place.plant.start()
            await seen.head()
            for agent in AGENTS:
                await seen.birth(agent)
            first = place.start()
            await offered(seen, place, 1, 0)
            await seen.head(version=1)
            first.kill()  # with everything that it holds in memory
            first.wait()
            await offered(seen, place, 2, 1)
            second = place.start()
            head = await seen.head(version=2)
            for agent in AGENTS:
                await seen.receipt(agent, "folded", 2)
            second.terminate()
            assert await asyncio.to_thread(second.wait, 20) == 0
            return seen.content("model", head.train.content)

    data = asyncio.run(run())
    expected = flatten(PARAMS)
    for sequence in (1, 2):
        total = sum(weight * integers_of(agent, sequence) for agent, weight in WEIGHTS.items())
        step = np.multiply(total, SCALE / sum(WEIGHTS.values()), dtype=np.float64)
        expected = (expected + step).astype(np.float32)
    shapes = [(name, tensor.shape) for name, tensor in PARAMS.items()]
    assert np.array_equal(flatten(read_params(data, shapes)), expected)


def test_a_late_will_of_the_recipient_is_answered_with_a_new_birth(
    place: Place, broker: Broker
) -> None:
    assert broker.process is not None
    key = read_private_key(place.folder / "recipient" / f"{NAME}.signing.key")

    async def run() -> None:
        async with floor(place.plant.port, place.plant.keys) as seen:
            topic = TOPICS.helper_state(NAME)

            def states() -> list[HelperState]:
                payloads = [each.payload for each in seen.messages if each.topic == topic]
                return [
                    parse_body(open_envelope(each, "helper-state"), HelperState)
                    for each in payloads
                ]

            place.start()
            born = (await seen.until(states, "its birth"))[0]
            late = HelperState(status="offline", session=0, store=born.store)
            will = seal(late, federation=FEDERATION, signer=NAME, counter=1, key=key)
            await seen.link.publish(topic, will, retain=True)
            await seen.until(lambda: len(states()) == 3, "its new birth")
            assert [each.status for each in states()] == ["online", "offline", "online"]
            assert {each.session for each in (states()[0], states()[2])} == {1}

    asyncio.run(run())


def test_the_commands_make_keys_and_say_whether_the_charter_names_them(place: Place) -> None:
    config = str(place.config)
    assert main(["recipient", "check", config]) == 0
    folder = place.folder / "another"
    made = place.command("keys", NAME, "--out", str(folder))
    assert (made.returncode, made.stderr) == (0, b"")
    assert f"{folder}/{NAME}.context is for every agent".encode() in made.stdout
    charter = read_federation(place.plant.keys)[2].charter
    other = read_recipient(folder / f"{NAME}.recipient")
    replace_charter(place.plant.keys, msgspec.structs.replace(charter, epoch=3, recipient=other))
    unwell = place.command("check", config)
    assert unwell.returncode == 1
    assert b"the charter's signing is" in unwell.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "auditor"', 'name = "a/b"', "recipient.name"),
        ('host = "127.0.0.1"', 'host = "a..b"', "broker.host"),
        ("auditor.bfv.key", "auditor.context", "trust.bfv_key"),
        ("[broker]", "[broker]\nhots = 1", "broker.hots"),
    ],
)
def test_a_wrong_file_is_refused_by_key(place: Place, old: str, new: str, said: str) -> None:
    text = place.config.read_text().replace("[broker]", '[broker]\nhost = "127.0.0.1"')
    place.config.write_text(text.replace(old, new))
    with pytest.raises(SettingsError) as caught:
        read_identity(place.config, read_recipient_settings(place.config))
    assert (caught.value.file, caught.value.key) == (str(place.config), said)


def test_the_documented_file_explains_every_key_and_no_other(repository: Path) -> None:
    found = keys_of_file(repository / "configs" / "recipient.toml", RecipientSettings)
    assert found == keys_of(RecipientSettings)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("coordinator.sealing.key", "coordinator.key", "trust.sealing_key"),
        ('sealing_key = "keys/coordinator.sealing.key"\n', "", "trust.sealing_key"),
        ("weight_cap = 1000", "weight_cap = 400000", "policy.weight_cap"),
        ("goal = 3", 'goal = 3\nname = "fedasync"', "strategy.name"),
        ("[gate]", '[robust]\nclip = "norm"\n[gate]', "robust.clip"),
    ],
)
def test_a_coordinator_that_could_not_do_it_does_not_start(
    place: Place, old: str, new: str, said: str
) -> None:
    config = place.plant.config
    assert old in config.read_text()
    coordinator.config.read_identity(config, read_coordinator_settings(config))
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(SettingsError) as caught:
        coordinator.config.read_identity(config, read_coordinator_settings(config))
    assert caught.value.key == said


def test_encryption_needs_a_recipient_in_the_charter(place: Place) -> None:
    charter = read_federation(place.plant.keys)[2].charter
    replace_charter(place.plant.keys, msgspec.structs.replace(charter, epoch=3, recipient=None))
    config = place.plant.config
    with pytest.raises(SettingsError, match="the charter; it names none"):
        coordinator.config.read_identity(config, read_coordinator_settings(config))

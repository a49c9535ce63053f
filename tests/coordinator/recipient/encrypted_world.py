"""A coordinator, its agents and a recipient in one process, with time that tests turn.

Everything is the products' own but the broker between them: bytes go from `Decryption` to `Desk`
and `Gathering`, and back to `Federation`, through whatever a test lets through.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from agent.config import Identity as AgentIdentity
from agent.wrapping import wrap
from coordinator.config import Identity
from coordinator.current import Result
from coordinator.federation import Federation
from coordinator.ingest import Update
from coordinator.recipient.desk import Desk
from coordinator.recipient.gathering import Gathering
from coordinator.recipient.keys import make_recipient, read_keys
from coordinator.recipient.store import DATABASE, RecipientStore
from coordinator.secure.decryption import Decryption
from coordinator.store import KnownAgent, Store
from tests.coordinator.small_federation import (
    AUTHOR_KEY,
    COORDINATOR_KEY,
    ENROLMENT_KEY,
    FEDERATION,
    ROOT_KEY,
    P,
    bundle_bytes,
    settings,
)
from wire.bfv import encrypted_bytes
from wire.bundle import read_bundle
from wire.charters import KeptCharter, sign_charter
from wire.chunks import describe, split
from wire.codec import Counter, seal
from wire.messages import (
    Charter,
    Credential,
    Examine,
    HelperState,
    Masks,
    Message,
    Receipt,
    UpdateHeader,
)
from wire.sealing_keys import SealingKey
from wire.signing import PrivateKey
from wire.topics import Topics
from wire.trust import COORDINATOR, ENROLMENT, Trust, read_charter, read_credential

INCARNATION, NAME = "00112233445566ff", "auditor"
POLICY = '[policy]\nscale = 0.01\nweight_cap = 1000\nclip_norm = 100.0\nprotection = "%s"\n'
GOAL = "[strategy]\ngoal = 5\n"


class World:
    """The federation; `directory` holds the recipient's files and the coordinator's.

    Attributes:
      lets: which messages to and from the recipient arrive.
    """

    def __init__(self, directory: Path, protection: str = "encrypted") -> None:
        self.directory, self.protection = directory, protection
        self.sealing = SealingKey.generate()
        self.charter = Charter(
            federation=FEDERATION,
            epoch=1,
            enrolment_key=ENROLMENT_KEY.public.raw,
            coordinator_key=COORDINATOR_KEY.public.raw,
            author_keys=(AUTHOR_KEY.public.raw,),
            k_min=3,
            coordinator_sealing_key=self.sealing.public,
        )
        self.counter, self.now_s = Counter(1), 0.0
        self.lets: Callable[[Message | bytes], bool] = lambda _: True
        self.receipts: list[tuple[str, Receipt]] = []
        self.agents: dict[str, AgentIdentity] = {}
        self.appoint(directory)
        self.store = Store(directory / "coordinator.db")
        self.start()

    @property
    def trust(self) -> Trust:
        return read_charter(sign_charter(self.charter, ROOT_KEY), ROOT_KEY.public)

    def appoint(self, folder: Path) -> None:
        """Make a recipient with files in a folder, and put it into the next charter."""
        recipient, self.folder = make_recipient(folder, NAME), folder
        epoch = self.charter.epoch + 1
        self.charter = msgspec.structs.replace(self.charter, epoch=epoch, recipient=recipient)
        ends = ("signing.key", "bfv.key", "context")
        keys = read_keys(NAME, *(folder / f"{NAME}.{end}" for end in ends))
        kept = KeptCharter(folder / "charter.jm", ROOT_KEY.public, self.trust)
        self.desk = Desk(RecipientStore(folder / DATABASE), keys, kept)

    def start(self) -> None:
        """Start the coordinator on its file, as after a crash."""
        data = bundle_bytes()
        bundle = read_bundle(data, self.trust)
        source = Path("coordinator.toml")
        identity = Identity(
            source, self.trust, COORDINATOR_KEY, bundle, data, bundle.weights, self.sealing
        )
        toml = settings(GOAL, POLICY % self.protection)
        self.federation = Federation(self.store, toml, identity, self.now_s)
        if self.federation.encrypted is not None and self.charter.recipient is not None:
            sums, recipient = self.federation.encrypted, self.charter.recipient
            self.decryption = Decryption(sums, recipient, FEDERATION, 10_000)
            state = HelperState(status="online", session=1, store=INCARNATION)
            self.decryption.hear(self.sealed(state, NAME, self.desk.keys.signing))

    def restart(self) -> None:
        """Kill the coordinator and start it again."""
        self.store.close()
        self.store = Store(self.directory / "coordinator.db")
        self.start()

    def close(self) -> None:
        self.store.close()
        self.desk.store.close()

    # Agents

    def agent(self, name: str, site: str) -> AgentIdentity:
        key = PrivateKey.generate()
        self.store.keep_agent(KnownAgent(name, site, key.public.raw, 1, INCARNATION, 1), "online")
        said = Credential(agent=name, site=site, public_key=key.public.raw, serial=1)
        envelope = self.sealed(said, ENROLMENT, ENROLMENT_KEY)
        self.store.keep_credential(name, envelope)
        context = (self.folder / f"{NAME}.context").read_bytes()
        made = AgentIdentity(
            self.trust, read_credential(envelope, self.trust), envelope, key, context
        )
        self.agents[name] = made
        return made

    def update(self, identity: AgentIdentity, sequence: int = 1, **changes: object) -> Update:
        """An update of integers that follow from its id."""
        seed = [sequence, *identity.agent.encode()]
        integers = np.random.default_rng(seed).integers(-127, 127, P)
        policy, base = self.federation.policy, self.federation.head.train
        update = (INCARNATION, sequence)
        wrapped = wrap(integers, policy, identity, update, base.content.digest)
        header = UpdateHeader(
            agent=identity.agent,
            incarnation=INCARNATION,
            sequence=sequence,
            lineage=0,
            base_version=base.version,
            base_digest=base.content.digest,
            examples=10,
            weight=10,
            scale=policy.scale,
            bits=policy.bits,
            content=describe(wrapped.content),
            encrypted=wrapped.context,
        )
        header = msgspec.structs.replace(header, **changes)
        envelope = self.sealed(header, identity.agent, identity.key)
        return Update(header, wrapped.content, envelope)

    def five(self, sequence: int = 1) -> list[Update]:
        names = [(f"press-{at}", f"site-{at}") for at in range(5)]
        found = [self.agents.get(name) or self.agent(name, site) for name, site in names]
        return [self.update(each, sequence) for each in found]

    def commit(self, updates: Sequence[Update]) -> list[str]:
        result = self.federation.commit(list(updates), self.now_s)
        self.note(result)
        return [receipt.status for _, receipt in result.receipts]

    # What goes on between coordinator and recipient

    def turn(self, times: int = 1) -> None:
        """Let time pass and messages go to and fro."""
        for _ in range(times):
            self.now_s += 20.0
            self.note(self.federation.tick(self.now_s))
            for message in list(self.decryption.due(self.now_s)):
                if self.lets(message):
                    self._ask(message)
            parts = list(self.decryption.parts(Topics(FEDERATION)))
            self._send(parts)

    def _ask(self, message: Examine | bytes) -> None:
        if isinstance(message, Examine):
            self.desk.examine(self.sealed(message, COORDINATOR, COORDINATOR_KEY))
            return
        answer = self.desk.endorse(message)
        if self.lets(answer):
            heard = self.decryption.hear(self.sealed(answer, NAME, self.desk.keys.signing))
            if heard is not None:
                key = self.desk.keys.public.signing.hex()
                self.note(self.federation.on_recipient(key, heard))

    def _send(self, parts: Sequence[tuple[str, bytes]]) -> None:
        gatherings: dict[str, Gathering] = {}
        for topic, part in parts:
            *_, name, offset = topic.split("/")
            whole = Gathering(bytes.fromhex(name), encrypted_bytes(P))
            data = gatherings.setdefault(name, whole).add(int(offset), part)
            if data is not None:
                self._decrypt(data)

    def _decrypt(self, ciphertexts: bytes) -> None:
        for digest, _ in self.store.secure.undecided():
            sums = self.desk.decrypt(digest, ciphertexts)
            content = describe(sums, 1000)
            masks = Masks(manifest=digest, seeds=(0,), content=content)
            self.decryption.hear(self.sealed(masks, NAME, self.desk.keys.signing))
            for at, chunk in enumerate(split(sums, 1000)):
                decrypted = self.decryption.on_chunk(content.digest, at, chunk)
                if decrypted is not None:
                    self.note(self.federation.on_decrypted(decrypted, self.now_s))

    def note(self, result: Result) -> None:
        self.receipts += result.receipts

    def sealed(self, message: Message, signer: str, key: PrivateKey) -> bytes:
        number = self.counter.next()
        return seal(message, federation=FEDERATION, signer=signer, counter=number, key=key)

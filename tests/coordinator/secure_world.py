"""A coordinator, its agents and three helpers in one process, with time that tests turn.

Everything is the products' own but the broker between them: bytes go from `Exchange.due` to
`helper.judging.judge` and back to `Federation`, through whatever a test lets through.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.config import Identity
from coordinator.current import Result
from coordinator.federation import Federation
from coordinator.helper.config import CHARTER
from coordinator.helper.identity import OwnKeys, make_helper, read_keys
from coordinator.helper.judging import judge
from coordinator.helper.office import Office
from coordinator.helper.releasing import Opening
from coordinator.helper.store import Store as HelperStore
from coordinator.helper.store import make_store
from coordinator.helper.summing import Answers
from coordinator.ingest import Update
from coordinator.secure.exchange import Exchange
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
from wire.bundle import read_bundle
from wire.charters import KeptCharter, sign_charter
from wire.chunks import describe, sha256, split
from wire.codec import Counter, kind_of, parse_body, seal
from wire.figures_vector import encode_evaluations, encode_statistics, subject_of
from wire.manifest import Standardise
from wire.masking import mask, seal_seeds
from wire.messages import (
    Charter,
    Credential,
    Endorsement,
    Evaluation,
    FiguresHeader,
    HelperState,
    Masks,
    Message,
    Report,
    SealedFigures,
    Statistics,
    UpdateHeader,
    Verdicts,
    VersionRef,
)
from wire.signing import PrivateKey
from wire.trust import COORDINATOR, ENROLMENT, read_charter
from wire.waiting import no_beat

HELPERS = ("notary", "union", "insurer")
INCARNATION = "00112233445566ff"
SCALE = 0.01
POLICY = f"""[policy]
scale = {SCALE}
weight_cap = 1000
clip_norm = 100.0
protection = "masked"
"""
CHUNK_BYTES = 1000


@dataclass
class Agent:
    """A gateway: its key, and the updates it made with what they hold."""

    name: str
    site: str
    key: PrivateKey = field(default_factory=PrivateKey.generate)
    sequence: int = 0
    integers: dict[int, NDArray[np.int64]] = field(default_factory=dict)


class World:
    """The federation; `directory` holds the helpers' folders."""

    def __init__(
        self,
        directory: Path,
        toml: str = "",
        policy: str = POLICY,
        k_min: int = 3,
        standardise: Standardise = "given",
        endorsements: Literal[2, 3] = 2,
    ) -> None:
        self.directory, self.toml, self.policy = directory, toml, policy
        self.standardise = standardise
        self.keys: dict[str, OwnKeys] = {}
        for name in HELPERS:
            make_store(directory / name, make_helper(directory / name, name))
            files = (directory / name / f"{name}.{kind}.key" for kind in ("signing", "sealing"))
            self.keys[name] = read_keys(name, *files)
        self.charter = Charter(
            federation=FEDERATION,
            epoch=1,
            enrolment_key=ENROLMENT_KEY.public.raw,
            coordinator_key=COORDINATOR_KEY.public.raw,
            author_keys=(AUTHOR_KEY.public.raw,),
            helpers=tuple(self.keys[name].public for name in HELPERS),
            k_min=k_min,
            endorsements=endorsements,
        )
        self.counter, self.now_s, self.session = Counter(1), 0.0, 0
        self.offices = {name: self.open_helper(name) for name in HELPERS}
        self.answers = {name: Answers() for name in HELPERS}
        self.store = Store(directory / "coordinator.db")
        self.agents: dict[str, Agent] = {}
        self.results: list[tuple[str, Any]] = []
        self.start()

    # The programs

    def open_helper(self, name: str) -> Office:
        trust = read_charter(sign_charter(self.charter, ROOT_KEY), ROOT_KEY.public)
        folder = self.directory / name
        kept = KeptCharter(folder / CHARTER, ROOT_KEY.public, trust)
        return Office(HelperStore(folder, self.keys[name].public), self.keys[name], kept)

    def start(self) -> None:
        """Start the coordinator on its file, as after a crash."""
        trust = read_charter(sign_charter(self.charter, ROOT_KEY), ROOT_KEY.public)
        data = bundle_bytes()
        bundle = read_bundle(data, trust)
        manifest = msgspec.structs.replace(bundle.manifest, standardise=self.standardise)
        bundle = replace(bundle, manifest=manifest)
        identity = Identity(
            Path("coordinator.toml"), trust, COORDINATOR_KEY, bundle, data, bundle.weights
        )
        self.federation = Federation(
            self.store, settings(self.toml, self.policy), identity, self.now_s
        )
        self.exchange = Exchange(self.federation.sums, FEDERATION, CHUNK_BYTES)

    def restart(self) -> None:
        """Kill the coordinator and start it again."""
        self.store.close()
        self.store = Store(self.directory / "coordinator.db")
        self.start()

    @property
    def base(self) -> VersionRef:
        return self.federation.head.train

    # Agents

    def agent(self, name: str, site: str) -> Agent:
        """Enrol an agent and let it be born."""
        agent = self.agents[name] = Agent(name, site)
        public = agent.key.public.raw
        self.store.keep_agent(KnownAgent(name, site, public, 1, INCARNATION, 1), "online")
        said = Credential(agent=name, site=site, public_key=public, serial=1)
        self.store.keep_credential(name, self._sealed(said, ENROLMENT, ENROLMENT_KEY))
        return agent

    def sites(self, number: int) -> list[Agent]:
        """One agent at each of so many sites."""
        return [self.agent(f"press-{at}", f"site-{at}") for at in range(number)]

    def update(
        self,
        agent: Agent,
        integers: NDArray[Any] | None = None,
        *,
        weight: int = 10,
        base: VersionRef | None = None,
        charter_order: Sequence[int] = (0, 1, 2),
        **changes: Any,
    ) -> Update:
        """The agent's next update, masked as the policy asks."""
        agent.sequence += 1
        base = base or self.base
        policy = self.federation.policy
        if integers is None:
            seed = [agent.sequence, *agent.name.encode()]
            integers = np.random.default_rng(seed).integers(-127, 128, P)
        agent.integers[agent.sequence] = integers.astype(np.int64)
        content, seeds = mask(integers, policy.ring)
        header = UpdateHeader(
            agent=agent.name,
            incarnation=INCARNATION,
            sequence=agent.sequence,
            lineage=self.federation.head.lineage,
            base_version=base.version,
            base_digest=base.content.digest,
            examples=weight,
            weight=weight,
            scale=policy.scale,
            bits=policy.bits,
            content=describe(content, 1000),
            masked=seal_seeds(
                seeds,
                policy.ring,
                [self.charter.helpers[at].sealing for at in charter_order],
                federation=FEDERATION,
                name=(agent.name, f"{INCARNATION}/{agent.sequence}"),
                digest=sha256(content),
            ),
        )
        header = msgspec.structs.replace(header, **changes)
        return Update(header, content, self._sealed(header, agent.name, agent.key))

    def commit(self, updates: Sequence[Update]) -> list[str]:
        """Offer updates; the statuses of their receipts."""
        result = self.federation.commit(list(updates), self.now_s)
        self._note(result)
        return [receipt.status for _, receipt in result.receipts]

    def report(self, agent: Agent, evaluations: Sequence[Evaluation]) -> None:
        """Masked evaluations of what the head names."""
        subject = subject_of([each.digest for each in evaluations])
        self._tell(agent, "evaluation", subject, encode_evaluations(evaluations))

    def tell_statistics(self, agent: Agent, statistics: Statistics) -> None:
        """Masked sums of a site's inputs."""
        self._tell(agent, "statistics", statistics.bundle, encode_statistics(statistics))

    def _tell(
        self,
        agent: Agent,
        purpose: Literal["evaluation", "statistics"],
        subject: bytes,
        vector: NDArray[np.int64],
    ) -> None:
        data, seeds = mask(vector, 64)
        header = FiguresHeader(
            agent=agent.name,
            purpose=purpose,
            subject=subject,
            count=len(vector),
            digest=sha256(data),
            masked=seal_seeds(
                seeds,
                64,
                [helper.sealing for helper in self.charter.helpers],
                federation=FEDERATION,
                name=(agent.name, f"{purpose}/{subject.hex()}"),
                digest=sha256(data),
            ),
        )
        envelope = self._sealed(header, agent.name, agent.key)
        report = Report(
            head=self.federation.head.sequence,
            sealed=(SealedFigures(header=envelope, vector=data),),
        )
        self._note(self.federation.on_report(agent.name, agent.site, report, self.now_s))

    # What goes on between coordinator and helpers

    def online(self, *names: str) -> None:
        """These helpers connect anew, the others' last connections are over."""
        self.session += 1
        for name in HELPERS:
            self.says(name, "online" if name in names else "offline", self.session)

    def says(
        self, name: str, status: Literal["online", "offline"], session: int, place: int = 1
    ) -> None:
        """A helper's state, signed as number `place` of what it signs in a session, arrives."""
        state = HelperState(status=status, session=session, store=INCARNATION)
        envelope = seal(
            state,
            federation=FEDERATION,
            signer=name,
            counter=(session << 32) + place,
            key=self.keys[name].signing,
        )
        helper, opened = self.exchange.verified(envelope, "helper-state", name)
        self.exchange.on_state(helper, parse_body(opened, HelperState), opened.counter)

    def turn(
        self, times: int = 1, lets: Callable[[str, Message | bytes], bool] = lambda *_: True
    ) -> None:
        """Let time pass and messages go to and fro; `lets` says which of them arrive."""
        for _ in range(times):
            self.now_s += 6.0
            self._note(self.federation.tick(self.now_s))
            for ask in self.exchange.due(self.now_s):
                data = (
                    ask.message
                    if isinstance(ask.message, bytes)
                    else self._sealed(ask.message, COORDINATOR, COORDINATOR_KEY)
                )
                if lets(ask.helper, ask.message):
                    self._answer(ask.helper, data, lets)

    def _answer(self, name: str, data: bytes, lets: Callable[[str, Message | bytes], bool]) -> None:
        answer = judge(self.offices[name], data)
        chunks: list[bytes] = []
        if isinstance(answer, Opening):
            masks = asyncio.run(self.answers[name].of(answer, no_beat))
            content = describe(masks, answer.release.chunk_bytes)
            chunks = split(masks, answer.release.chunk_bytes)
            answer = Masks(
                manifest=answer.release.manifest, seeds=answer.release.seeds, content=content
            )
        if not lets(name, answer):
            return
        self.hear(name, self._sealed(answer, name, self.keys[name].signing))
        for at, chunk in enumerate(chunks):
            if answer.content is not None and lets(name, chunk):  # type: ignore[union-attr]
                digest = answer.content.digest  # type: ignore[union-attr]
                complete = self.exchange.on_chunk(name, digest, at, chunk)
                if complete is not None:
                    self._note(
                        self.federation.on_masks(complete.manifest, complete.masks, self.now_s)
                    )

    def hear(self, name: str, envelope: bytes) -> None:
        """The coordinator hears what a helper signed."""
        kind = kind_of(envelope, ("verdicts", "endorsement", "masks"))
        helper, opened = self.exchange.verified(envelope, kind, name)
        if kind == "masks":
            self.exchange.on_masks(helper, parse_body(opened, Masks))
        elif kind == "verdicts":
            verdicts = parse_body(opened, Verdicts)
            self._note(self.federation.on_verdicts(helper, verdicts))
        else:
            word = parse_body(opened, Endorsement)
            self._note(self.federation.on_endorsement(helper, word, envelope))

    def settle(self, turns: int = 12) -> None:
        """Turn until nothing waits, or so often."""
        for _ in range(turns):
            if not self.store.secure.waiting("update"):
                return
            self.turn()

    # What to compare with

    def outcomes(self) -> dict[str, int]:
        """Updates by status."""
        return {name: n for name, n in self.store.counts().items() if name != "duplicates"}

    def refolded(self, version: int) -> NDArray[np.int64]:
        """Sum of coefficient x integers over a version's members, from what agents know."""
        total = np.zeros(P, np.int64)
        for at, agent, _, sequence, coefficient in self.store.memberships():
            if at == version:
                total += coefficient * self.agents[agent].integers[sequence]
        return total

    def shares(self, version: int) -> dict[str, int]:
        """Coefficient of each agent in a version."""
        return {agent: c for at, agent, _, _, c in self.store.memberships() if at == version}

    def _note(self, result: Result) -> None:
        self.results.extend(result.receipts)

    def _sealed(self, message: Message, signer: str, key: PrivateKey) -> bytes:
        number = self.counter.next()
        return seal(message, federation=FEDERATION, signer=signer, counter=number, key=key)

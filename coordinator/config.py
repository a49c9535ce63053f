"""The coordinator's configuration: one strict TOML file (`configs/coordinator.toml` explains).

What a table alone can say is checked by its types; what keys, charter and bundle say about each
other is checked here, and named by file, line and key as well.
"""

import contextlib
import logging
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from coordinator.contribution import ContributionSettings
from coordinator.drift import DriftSettings
from coordinator.gate import GateSettings, unfit_metric
from coordinator.initial import InitialSettings, first_weights
from coordinator.robust import RobustSettings
from coordinator.robust import problem_with as problem_with_robust
from coordinator.secure.rules import problem_with_ring
from coordinator.selection import SelectionSettings
from coordinator.server_optimizer import ServerOptimizerSettings
from coordinator.strategies.choice import StrategySettings, make_strategy
from coordinator.strategies.own import StrategyError
from coordinator.web.settings import WebSettings
from wire.bfv import problem_with as problem_with_sum
from wire.bundle import Bundle, read_bundle, read_draft
from wire.charters import newest_trust
from wire.chunks import CHUNK_BYTES, sha256
from wire.errors import MalformedError, SettingsError, SignatureError, WireError
from wire.messages import HELPERS, MAX_CHUNKS, Charter, Policy
from wire.mqtt import BrokerSettings, with_full_paths
from wire.revocations import read_revoked_file
from wire.safeguards import below, problems
from wire.sealing_keys import SealingKey, read_sealing_key
from wire.settings import Settings, host_problem, read_settings, resolve, settings_error
from wire.signing import PrivateKey, parse_public_key, read_private_key
from wire.tally import check_judged
from wire.tensors import Params
from wire.trust import Trust, read_charter

logger = logging.getLogger(__name__)

DATABASE = "coordinator.db"
CHARTER = "charter.jm"
"""The newest one seen, in the state directory."""


class CoordinatorTable(Settings, frozen=True, kw_only=True):
    """`[coordinator]`: state, and the bundle that the federation learns.

    Attributes:
      state_dir: folder for the SQLite file with everything; one coordinator a folder.
      bundle: file of the signed model bundle (`journeyman bundle build`).
      chunk_bytes: of published chunks; below the broker's maximum packet size.
    """

    state_dir: str
    bundle: str
    chunk_bytes: Annotated[int, msgspec.Meta(ge=256, le=16 << 20)] = CHUNK_BYTES


class TrustTable(Settings, frozen=True, kw_only=True):
    """`[trust]`: the pinned root, its charter, and the coordinator's online key.

    Attributes:
      root: the federation root's public key, 64 hexadecimal digits.
      charter: file signed by the root.
      key: file with the coordinator's private key; the charter names its public half.
      revoked: file with the enrolment authority's list of revoked credentials, read again when it
        changes; empty where `journeyman enrolment serve` tells it over the broker.
      sealing_key: file with the coordinator's other private key, to which encrypted updates are
        sealed (`docs/homomorphic.md`); the charter names its public half. Empty: none.
    """

    root: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    charter: str
    key: str
    revoked: str = ""
    sealing_key: str = ""


class AverageTable(Settings, frozen=True, kw_only=True):
    """`[average]`: how long the memory of the served average is.

    Attributes:
      decay: larger forgets early versions faster; 0 is the mean of all.
    """

    decay: Annotated[float, msgspec.Meta(ge=0, le=100)] = 2.0


class ScheduleTable(Settings, frozen=True, kw_only=True):
    """`[schedule]`: how the sites' learning rate falls as versions are made.

    Averages of models that were trained apart with a constant rate stay a distance from the optimum
    that grows with that rate (X. Li et al., arXiv:1907.02189, theorem 1 and section 3.3), so it has
    to fall.

    Attributes:
      versions: from `policy.learning_rate` at version 0 along half a cosine to
        `last_learning_rate` at this version, and there from then on; 0: the rate stays.
      last_learning_rate: the rate at the end.
    """

    versions: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    last_learning_rate: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0

    def rate(self, first: float, version: int) -> float:
        """The learning rate of trainings from this version, where the first one's was `first`."""
        if not self.versions:
            return first
        done = min(version / self.versions, 1.0)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return self.last_learning_rate + (first - self.last_learning_rate) * cosine


class PolicyTable(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[policy]`: the head's training policy; fields as in `wire/messages.py`, Policy."""


class CoordinatorSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    coordinator: CoordinatorTable
    trust: TrustTable
    broker: BrokerSettings
    strategy: StrategySettings = StrategySettings()
    server_optimizer: ServerOptimizerSettings = ServerOptimizerSettings()
    average: AverageTable = AverageTable()
    robust: RobustSettings = RobustSettings()
    selection: SelectionSettings = SelectionSettings()
    initial: InitialSettings = InitialSettings()
    gate: GateSettings = GateSettings()
    drift: DriftSettings = DriftSettings()
    contribution: ContributionSettings = ContributionSettings()
    web: WebSettings = WebSettings()
    policy: PolicyTable = PolicyTable()
    schedule: ScheduleTable = ScheduleTable()


@dataclass(frozen=True)
class Identity:
    """What the coordinator may sign with, and what it publishes.

    Attributes:
      source: the configuration file that names all this.
      initial: weights of version 0, the shared tensors.
    """

    source: Path
    trust: Trust
    key: PrivateKey
    bundle: Bundle
    bundle_bytes: bytes
    initial: Params
    sealing: SealingKey | None = None


def read_coordinator_settings(path: Path) -> CoordinatorSettings:
    """Read the file; unknown keys are refused.  The broker's files become full paths."""
    settings = read_settings(path, CoordinatorSettings)
    if problem := host_problem(settings.broker.host):
        raise settings_error(path, "broker.host", problem)
    return msgspec.structs.replace(settings, broker=with_full_paths(settings.broker, path))


def read_identity(path: Path, settings: CoordinatorSettings) -> Identity:
    """Read and verify the files that the configuration names; errors name file, line and key."""
    where = "trust.root"
    try:
        root = parse_public_key(settings.trust.root)
        where = "trust.charter"
        trust = read_charter(resolve(path, settings.trust.charter).read_bytes(), root)
        state = resolve(path, settings.coordinator.state_dir)
        trust = newest_trust(state / CHARTER, root, trust)
        where = "trust.revoked"
        if settings.trust.revoked:
            read_revoked_file(resolve(path, settings.trust.revoked), trust)
        where = "coordinator.bundle"
        data = resolve(path, settings.coordinator.bundle).read_bytes()
        bundle = bundle_of(data, trust, state / DATABASE)
        where = "trust.key"
        key = read_private_key(resolve(path, settings.trust.key))
        where = "trust.sealing_key"
        sealing = _sealing_key(path, settings.trust, trust)
        where = f"initial.{'file' if settings.initial.source == 'file' else 'source'}"
        file = resolve(path, settings.initial.file)
        initial = first_weights(settings.initial, bundle.manifest, bundle.weights, file)
    except (OSError, ValueError, WireError, SettingsError) as error:
        raise settings_error(path, where, str(error)) from None
    if key.public != trust.coordinator:
        reason = f"this is not the coordinator key of charter {trust.charter.epoch}"
        raise settings_error(path, "trust.key", reason)
    identity = Identity(path, trust, key, bundle, data, initial, sealing)
    _check_together(identity, settings)
    return identity


def bundle_of(data: bytes, trust: Trust, database: Path) -> Bundle:
    """The bundle, verified; one that is published already goes on when its author was removed.

    Raises:
      WireError: it can not be used.
    """
    try:
        return read_bundle(data, trust)
    except SignatureError as error:
        if not _is_published(sha256(data), database):
            raise
        logger.warning("%s; agents that do not have this bundle yet will refuse it", error)
        return read_draft(data)[0]


def _is_published(digest: bytes, database: Path) -> bool:
    if not database.exists():
        return False
    where = f"{database.resolve().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(where, uri=True)) as file:
            found = file.execute("SELECT 1 FROM contents WHERE digest = ?", (digest,)).fetchone()
    except sqlite3.Error:
        return False
    return found is not None


def _sealing_key(path: Path, table: TrustTable, trust: Trust) -> SealingKey | None:
    if not table.sealing_key:
        return None
    hint = "not a sealing key; `journeyman keys federation` makes coordinator.sealing.key"
    key = read_sealing_key(resolve(path, table.sealing_key), hint)
    if key.public != trust.charter.coordinator_sealing_key:
        raise MalformedError("this is not the charter's coordinator_sealing_key")
    return key


def _check_together(identity: Identity, settings: CoordinatorSettings) -> None:
    for where, reason in _contradictions(identity, settings):
        raise settings_error(identity.source, where, reason)


def _contradictions(identity: Identity, settings: CoordinatorSettings) -> Iterator[tuple[str, str]]:
    """What tables, charter and bundle say against each other: (key, words)."""
    yield from _about_k_min(identity.trust.charter.k_min, settings)
    yield from _about_the_bundle(identity, settings)
    try:
        make_strategy(settings.strategy, settings.policy)
    except StrategyError as error:
        yield "strategy.function", str(error)
    yield from _about_safeguards(identity, settings)
    yield from _about_calibration(settings)
    if settings.policy.protection == "masked":
        yield from _about_masks(identity.trust.charter, settings)
    if settings.policy.protection == "encrypted":
        yield from _about_encryption(identity, settings)
    if settings.initial.source == "site" and not settings.initial.site:
        yield "initial.site", "name the site that trains first"
    schedule = settings.schedule
    if schedule.versions and not 0 < schedule.last_learning_rate <= settings.policy.learning_rate:
        reason = "must be above 0 and at most policy.learning_rate"
        yield "schedule.last_learning_rate", f"{reason}, {settings.policy.learning_rate:g}"


def _about_k_min(k_min: int, settings: CoordinatorSettings) -> Iterator[tuple[str, str]]:
    """No sum that is looked at has fewer sites behind it than the charter says."""
    members = settings.strategy.members
    if members < k_min:
        key = {"fedavg": "clients", "fedasync": "name"}.get(settings.strategy.name, "goal")
        reason = f"{members} updates can not come from the {k_min} sites that the charter asks for"
        yield f"strategy.{key}", reason
    problem = problem_with_robust(settings.robust, members, k_min)
    if problem:
        yield "robust.buckets", problem
    if settings.gate.quorum < k_min:
        yield "gate.quorum", f"{settings.gate.quorum} sites are fewer than the charter's {k_min}"
    if settings.initial.source == "site" and k_min > 1:
        yield "initial.source", f"one site alone is fewer than the charter's {k_min} sites"


def _about_the_bundle(
    identity: Identity, settings: CoordinatorSettings
) -> Iterator[tuple[str, str]]:
    unjudged = check_judged(identity.bundle.manifest)
    if unjudged:
        yield "coordinator.bundle", unjudged
    unfit = unfit_metric(settings.gate, identity.bundle.manifest)
    if unfit:
        yield "gate.metric", unfit
    largest = len(identity.bundle_bytes)  # the weights are in it
    if largest > MAX_CHUNKS * settings.coordinator.chunk_bytes:
        reason = f"{largest} bytes of bundle are more than {MAX_CHUNKS} chunks of this size"
        yield "coordinator.chunk_bytes", reason


def _about_safeguards(
    identity: Identity, settings: CoordinatorSettings
) -> Iterator[tuple[str, str]]:
    """Whether the policy keeps its own promises, and the charter's."""
    policy, charter, manifest = settings.policy, identity.trust.charter, identity.bundle.manifest
    for field, reason in problems(policy, k_min=charter.k_min):
        yield f"policy.{field}", reason
    problem = below(policy, charter.least)
    if problem:
        yield f"policy.{problem.split()[0]}", f"{problem} by the charter"
    if policy.privacy == "record" and manifest.standardise == "local":
        reason = "a bundle that is standardised by each site's own rows can not hide one of them"
        yield "policy.privacy", reason
    if policy.privacy == "record" and any(tensor.local for tensor in manifest.tensors):
        reason = "a bundle with tensors that stay at the site can not hide one record there"
        yield "policy.privacy", reason
    if policy.noise_sites > 1 and settings.robust.clip != "none":
        reason = "clipping lets some updates count less, and with them the noise that sites share"
        yield "robust.clip", reason


def _about_masks(charter: Charter, settings: CoordinatorSettings) -> Iterator[tuple[str, str]]:
    """What secure aggregation can not do, or not safely."""
    policy, strategy, robust = settings.policy, settings.strategy, settings.robust
    if len(charter.helpers) != HELPERS:
        reason = f"masks need three helpers in the charter; it names {len(charter.helpers)}"
        yield "policy.protection", reason
    problem = problem_with_ring(policy, max(strategy.members, robust.buckets * charter.k_min))
    if problem:
        yield "policy.ring", problem
    yield from _about_sums(charter, settings)


def _about_encryption(
    identity: Identity, settings: CoordinatorSettings
) -> Iterator[tuple[str, str]]:
    """What homomorphic encryption needs, and can not do."""
    charter, robust = identity.trust.charter, settings.robust
    if charter.recipient is None:
        yield "policy.protection", "encrypted sums need a recipient in the charter; it names none"
    if identity.sealing is None:
        reason = "encrypted updates are sealed to the coordinator: name its sealing key's file"
        yield "trust.sealing_key", reason
    members = max(settings.strategy.members, robust.buckets * charter.k_min)
    problem = problem_with_sum(settings.policy, members)
    if problem:
        yield "policy.weight_cap", problem
    yield from _about_sums(charter, settings)


def _about_sums(charter: Charter, settings: CoordinatorSettings) -> Iterator[tuple[str, str]]:
    """What can not be done, or not safely, where updates are known in sums only."""
    policy, strategy, robust = settings.policy, settings.strategy, settings.robust
    if charter.k_min < 2:
        reason = "a sum over one site hides nothing: the charter's k_min must be 2 or more"
        yield "policy.protection", reason
    if strategy.name not in ("fedbuff", "fedavg", "calibrated"):
        reason = f"{strategy.name} looks at single updates; hidden ones are known in sums only"
        yield "strategy.name", reason
    if strategy.name == "calibrated" and policy.weight_cap > 1:
        reason = "hidden weights are levelled, and agents under calibration rely on theirs: say 1"
        yield "policy.weight_cap", reason
    if robust.clip != "none":
        reason = 'hidden updates can not be measured one by one: say "none" and use buckets'
        yield "robust.clip", reason


def _about_calibration(settings: CoordinatorSettings) -> Iterator[tuple[str, str]]:
    policy, is_calibrated = settings.policy, settings.strategy.name == "calibrated"
    if is_calibrated != (policy.calibration > 0):
        reason = 'calibration above 0 and strategy "calibrated" go together: agents send what is '
        yield "policy.calibration", reason + "left of their delta, and only this strategy adds it"
    if is_calibrated and policy.offline_training:
        reason = "an agent under calibration waits for the outcome of each update: say false"
        yield "policy.offline_training", reason
    robust = settings.robust
    if is_calibrated and (robust.clip, robust.combine) != ("none", "mean"):
        key = "clip" if robust.clip != "none" else "combine"
        reason = "agents under calibration remember what they sent, the strategy what it added: "
        yield f"robust.{key}", reason + 'they differ but for clip = "none" and combine = "mean"'

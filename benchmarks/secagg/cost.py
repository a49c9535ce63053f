"""What masks cost an agent, the coordinator and a helper; and BFV beside them.

CPU time of this process, medians.  An agent's part is everything between its integers and the
signed header: masks or ciphertexts, hashes of the chunks, boxes, signature.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.config import Identity
from benchmarks.secagg.exact import BITS, Case, run_case
from benchmarks.secagg.hall import FEDERATION, report
from wire.bfv import add
from wire.bfv_keys import can_encrypt, decrypt, make_keys
from wire.charters import sign_charter
from wire.chunks import sha256
from wire.encrypted import belonging_of, open_ciphertexts
from wire.messages import Charter, Credential, HelperKeys, Policy, Recipient
from wire.sealing_keys import SealingKey
from wire.signing import PrivateKey
from wire.trust import read_charter

PARAMETERS: Final = 100_000
RING: Final = 16
MEMBERS: Final = 50
_PASSES, _BFV_PASSES = 31, 5
_BASE = (0, sha256(b"version 0"))
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class AgentCost:
    """What one way to send an update costs.

    Attributes:
      cpu_ms: of the agent, for one update.
      upload_bytes: header and content.
    """

    cpu_ms: float
    upload_bytes: int

    @property
    def factor(self) -> float:
        """Upload over the float32 weights' bytes."""
        return self.upload_bytes / (_FLOAT32_BYTES * PARAMETERS)


@dataclass(frozen=True)
class Bfv:
    """Homomorphic encryption in the same run.

    Attributes:
      agent: its cost.
      adding_ms, decrypting_ms: CPU of the coordinator for each update, of the recipient for a sum.
      wrong: integers of the sum that are not exact.
    """

    agent: AgentCost
    adding_ms: float
    decrypting_ms: float
    wrong: int


@dataclass(frozen=True)
class Costs:
    """All of it.

    Attributes:
      agent: by protection: `none`, `masked`.
      helper_ms: CPU of one helper for each report of a sum.
      coordinator_ms: the coordinator's, SQLite included.
      bfv: None where TenSEAL is not installed.
    """

    agent: dict[str, AgentCost]
    helper_ms: float
    coordinator_ms: float
    bfv: Bfv | None


def measure(directory: Path) -> Costs:
    """Measure everything; `directory` is on a real disk."""
    secret, public = make_keys() if not can_encrypt() else (b"", b"")
    sealing = SealingKey.generate()
    identity = _identity(public, sealing.public)
    agent = {"none": _agent_cost(identity, "none"), "masked": _agent_cost(identity, "masked")}
    # Two of the three helpers are there.
    found = run_case(Case(MEMBERS, PARAMETERS, RING), directory)
    bfv = _bfv(identity, secret, sealing) if secret else None
    return Costs(
        agent,
        1e3 * found.helpers_s / 2 / MEMBERS,
        1e3 * found.coordinator_s / MEMBERS,
        bfv,
    )


def _identity(public: bytes, sealing: bytes) -> Identity:
    """An agent under a charter with helpers, and with a recipient where `public` is not empty."""
    root, key, enrolment, coordinator, author = (PrivateKey.generate() for _ in range(5))
    helpers = tuple(
        HelperKeys(
            name=name,
            signing=PrivateKey.generate().public.raw,
            sealing=SealingKey.generate().public,
        )
        for name in ("notary", "union", "insurer")
    )
    charter = Charter(
        federation=FEDERATION,
        epoch=1,
        enrolment_key=enrolment.public.raw,
        coordinator_key=coordinator.public.raw,
        author_keys=(author.public.raw,),
        helpers=helpers,
        k_min=3,
    )
    if public:
        signing = PrivateKey.generate().public.raw
        recipient = Recipient(name="recipient", signing=signing, context=sha256(public))
        charter = msgspec.structs.replace(
            charter, recipient=recipient, coordinator_sealing_key=sealing
        )
    trust = read_charter(sign_charter(charter, root), root.public)
    credential = Credential(agent="press-1", site="north", public_key=key.public.raw, serial=1)
    return Identity(trust, credential, b"", key, public)


def _policy(protection: str) -> Policy:
    return msgspec.convert({"bits": BITS, "ring": RING, "protection": protection}, Policy)


def _integers(seed: int) -> NDArray[np.int8]:
    """As trained ones are: around zero."""
    steps = np.random.default_rng(seed).normal(0.0, 30.0, PARAMETERS)
    return np.clip(np.round(steps), -127, 127).astype(np.int8)


def _agent_cost(identity: Identity, protection: str, passes: int = _PASSES) -> AgentCost:
    policy, integers = _policy(protection), _integers(0)
    sent = report(identity, integers, policy, _BASE)
    cpu_s = [_cpu_s(lambda: report(identity, integers, policy, _BASE)) for _ in range(passes)]
    return AgentCost(1e3 * statistics.median(cpu_s), len(sent.envelope) + len(sent.content))


def _cpu_s(work: Callable[[], object]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def _bfv(identity: Identity, secret: bytes, sealing: SealingKey) -> Bfv:
    """A sum of `MEMBERS` encrypted updates; the fresh ciphertexts of a few, which all others use.

    The sum's bytes are the same work whoever encrypted them, and encrypting is the slow part.
    """
    cost = _agent_cost(identity, "encrypted", _BFV_PASSES)
    weights = np.random.default_rng(1).integers(1, 20, MEMBERS).tolist()
    fresh = []
    for seed in range(_BFV_PASSES):
        sent = report(identity, _integers(seed), _policy("encrypted"), _BASE)
        fresh.append((belonging_of(sent.header, FEDERATION), sent.content))
    began_s = time.process_time()
    opened = (
        open_ciphertexts(sealing.raw, content, belonging, PARAMETERS)
        for belonging, content in itertools.islice(itertools.cycle(fresh), MEMBERS)
    )
    summed = add(zip(opened, weights, strict=True), PARAMETERS)
    adding_s = time.process_time() - began_s
    began_s = time.process_time()
    found = decrypt(secret, summed, PARAMETERS)
    decrypting_s = time.process_time() - began_s
    total = np.zeros(PARAMETERS, np.int64)
    for at, weight in enumerate(weights):
        total += weight * _integers(at % _BFV_PASSES).astype(np.int64)
    wrong = int(np.count_nonzero(total != found))
    return Bfv(cost, 1e3 * adding_s / MEMBERS, 1e3 * decrypting_s, wrong)

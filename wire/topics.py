"""The topic tree, the only place where topic strings are built or parsed.

    journeyman/v1/{federation}/
      up/{shard}/{agent}/{incarnation}/{sequence}/{part}    client updates; part: `h` or a chunk
      to/{agent}                                            receipts and commands, never retained
      state/{agent}                                         birth and will, retained
      state/coordinator                                     the same for the coordinator
      head                                                  the signed head, retained
      bundle/{digest}/{chunk}                               the model bundle, retained
      model/{digest}/{chunk}                                weights, retained while in the head
      report/{agent}                                        evaluations of what the head names
      ask/{agent}                                           readiness to train
      renew/{agent}                                         question for a newer certificate
      renewed/{agent}                                       the enrolment authority's answer
      revoked                                               its list of credentials, retained
      charter                                               the root's newest charter, retained
      helper/{helper}/ask                                   what the coordinator asks a helper
      helper/{helper}/answer                                what it answers
      helper/{helper}/state                                 its birth and will, retained
      helper/{helper}/masks/{digest}/{chunk}                summed masks

An agent's id is one whole topic level so that brokers can write ACL patterns
(`PROTOCOL.md`, "Topics").
"""

import hashlib
import re
from dataclasses import dataclass

from wire.errors import MalformedError

ROOT = "journeyman/v1"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""Names of federations, agents and sites: safe as a topic level, a file name and a user name."""
COORDINATOR = "coordinator"
HEADER_PART = "h"
SHARDS = 16
"""Precedent: 16 leases spread over any few workers; one coordinator subscribes to all."""


def check_name(name: str, what: str) -> str:
    """Return `name` when it is a legal name; `what` says in the error what it names."""
    if not NAME.fullmatch(name):
        reason = f"{what} {name[:80]!r} must match {NAME.pattern}"
        raise MalformedError(reason)
    return name


@dataclass(frozen=True)
class UpdateTopic:
    """One parsed `up/...` topic; `chunk` is None for the header."""

    agent: str
    incarnation: str
    sequence: int
    chunk: int | None


@dataclass(frozen=True)
class Topics:
    """Topics of one federation."""

    federation: str

    @property
    def base(self) -> str:
        """Common prefix of all topics of the federation."""
        return f"{ROOT}/{check_name(self.federation, 'federation')}"

    @property
    def head(self) -> str:
        """The signed head, retained."""
        return f"{self.base}/head"

    @property
    def coordinator_state(self) -> str:
        """Birth and will of the coordinator, retained."""
        return f"{self.base}/state/{COORDINATOR}"

    def state(self, agent: str) -> str:
        """Birth and will of one agent, retained."""
        return f"{self.base}/state/{check_name(agent, 'agent')}"

    def to(self, agent: str) -> str:
        """Inbox of one agent."""
        return f"{self.base}/to/{check_name(agent, 'agent')}"

    def bundle(self, digest: str, chunk: int) -> str:
        """One chunk of the bundle with this SHA-256 (hex)."""
        return f"{self.base}/bundle/{digest}/{chunk}"

    def model(self, digest: str, chunk: int) -> str:
        """One chunk of the weights with this SHA-256 (hex)."""
        return f"{self.base}/model/{digest}/{chunk}"

    def report(self, agent: str) -> str:
        """Evaluations by one agent, not retained."""
        return f"{self.base}/report/{check_name(agent, 'agent')}"

    def ask(self, agent: str) -> str:
        """Readiness of one agent, not retained."""
        return f"{self.base}/ask/{check_name(agent, 'agent')}"

    def renew(self, agent: str) -> str:
        """Questions of one agent to the enrolment authority, not retained."""
        return f"{self.base}/renew/{check_name(agent, 'agent')}"

    def renewed(self, agent: str) -> str:
        """Its answers, not retained."""
        return f"{self.base}/renewed/{check_name(agent, 'agent')}"

    @property
    def revoked(self) -> str:
        """The list of revoked credentials, retained."""
        return f"{self.base}/revoked"

    @property
    def charter(self) -> str:
        """The newest charter, retained; whoever publishes it, only the root can have signed it."""
        return f"{self.base}/charter"

    def helper_ask(self, helper: str) -> str:
        """Inbox of one helper of secure aggregation."""
        return f"{self.base}/helper/{check_name(helper, 'helper')}/ask"

    def helper_answer(self, helper: str) -> str:
        """What one helper answers."""
        return f"{self.base}/helper/{check_name(helper, 'helper')}/answer"

    def helper_state(self, helper: str) -> str:
        """Birth and will of one helper, retained."""
        return f"{self.base}/helper/{check_name(helper, 'helper')}/state"

    def helper_masks(self, helper: str, digest: str, chunk: int) -> str:
        """One chunk of summed masks with this SHA-256 (hex)."""
        return f"{self.base}/helper/{check_name(helper, 'helper')}/masks/{digest}/{chunk}"

    @property
    def all_helpers(self) -> str:
        """Topic filter over what helpers say, and what they are asked."""
        return f"{self.base}/helper/#"

    @property
    def from_helpers(self) -> list[str]:
        """Topic filters over all that helpers say."""
        return [f"{self.base}/helper/+/{what}" for what in ("state", "answer", "masks/#")]

    def parse_helper(self, topic: str) -> tuple[str, str, tuple[str, int] | None]:
        """Parse a `helper/...` topic: helper, `ask`, `answer`, `state` or `masks`, and its chunk.

        Raises:
          MalformedError: anything else.
        """
        levels = topic.removeprefix(f"{self.base}/helper/").split("/")
        if topic.startswith(f"{self.base}/helper/") and len(levels) in (2, 4):
            helper, what = check_name(levels[0], "helper"), levels[1]
            if len(levels) == 2 and what in ("ask", "answer", "state"):
                return helper, what, None
            if len(levels) == 4 and what == "masks" and re.fullmatch(r"[0-9a-f]{64}", levels[2]):
                return helper, what, (levels[2], natural(levels[3], "chunk"))
        reason = f"not a helper's topic: {topic[:120]!r}"
        raise MalformedError(reason)

    def update(self, agent: str, incarnation: str, sequence: int, part: int | str) -> str:
        """One part of a client update."""
        return f"{self.base}/up/{shard(agent)}/{agent}/{incarnation}/{sequence}/{part}"

    @property
    def all_updates(self) -> str:
        """Topic filter over every agent's updates."""
        return f"{self.base}/up/#"

    @property
    def all_states(self) -> str:
        """Topic filter over every birth and will."""
        return f"{self.base}/state/+"

    @property
    def all_reports(self) -> str:
        """Topic filter over every agent's evaluations."""
        return f"{self.base}/report/+"

    @property
    def all_asks(self) -> str:
        """Topic filter over every agent's readiness."""
        return f"{self.base}/ask/+"

    @property
    def all_renewals(self) -> str:
        """Topic filter over every agent's questions to the enrolment authority."""
        return f"{self.base}/renew/+"

    @property
    def all_inboxes(self) -> str:
        """Topic filter over every inbox (observers only; agents may read their own)."""
        return f"{self.base}/to/+"

    def agent_of(self, topic: str, kind: str) -> str:
        """Return the agent id of a topic such as `state/{agent}` or `ask/{agent}`."""
        prefix, _, agent = topic.rpartition("/")
        if prefix != f"{self.base}/{kind}":
            reason = f"not a {kind} topic: {topic[:120]!r}"
            raise MalformedError(reason)
        return check_name(agent, "agent")

    def parse_update(self, topic: str) -> UpdateTopic:
        """Parse an `up/...` topic; anything else is `MalformedError`."""
        levels = topic.removeprefix(f"{self.base}/up/").split("/")
        if not topic.startswith(f"{self.base}/up/") or len(levels) != 5:
            reason = f"not an update topic: {topic[:120]!r}"
            raise MalformedError(reason)
        at, agent, incarnation, sequence, part = levels
        check_name(agent, "agent")
        if at != str(shard(agent)):
            reason = f"updates of {agent} belong to shard {shard(agent)}, not {at[:20]!r}"
            raise MalformedError(reason)
        if not re.fullmatch(r"[0-9a-f]{16}", incarnation):
            reason = f"incarnation of {agent} must be 16 hexadecimal digits"
            raise MalformedError(reason)
        chunk = None if part == HEADER_PART else natural(part, "chunk")
        return UpdateTopic(agent, incarnation, natural(sequence, "sequence"), chunk)


def natural(text: str, what: str) -> int:
    """Parse a decimal without sign or leading zeros, below 2**53."""
    if not re.fullmatch(r"0|[1-9][0-9]{0,15}", text) or int(text) >= 1 << 53:
        reason = f"{what} {text[:20]!r} is not a natural number below 2**53"
        raise MalformedError(reason)
    return int(text)


def shard(agent: str) -> int:
    """Shard of an agent, the same in every process (so not Python's `hash`)."""
    return hashlib.sha256(agent.encode()).digest()[0] % SHARDS

"""Who may say and hear what, written down once more and apart from the files under test."""

from tests.broker.conftest import FEDERATION, Guard
from wire.topics import SHARDS, Topics, shard

TOPICS = Topics(FEDERATION)
OTHERS = Topics("other-federation")
INCARNATION = "0123456789abcdef"
DIGEST = "ab" * 32


def _foreign_shard(agent: str) -> str:
    return f"{TOPICS.base}/up/{(shard(agent) + 1) % SHARDS}/{agent}/{INCARNATION}/1/h"


TREE = {
    "own header": TOPICS.update("press-1", INCARNATION, 1, "h"),
    "own chunk": TOPICS.update("press-1", INCARNATION, 1, 0),
    "own header in another shard": _foreign_shard("press-1"),
    "own state": TOPICS.state("press-1"),
    "own report": TOPICS.report("press-1"),
    "own ask": TOPICS.ask("press-1"),
    "own renewal": TOPICS.renew("press-1"),
    "own renewed": TOPICS.renewed("press-1"),
    "own inbox": TOPICS.to("press-1"),
    "another's header": TOPICS.update("press-2", INCARNATION, 1, "h"),
    "another's chunk": TOPICS.update("press-2", INCARNATION, 1, 0),
    "another's header in a shard of mine": _foreign_shard("press-2"),
    "another's state": TOPICS.state("press-2"),
    "another's report": TOPICS.report("press-2"),
    "another's ask": TOPICS.ask("press-2"),
    "another's renewal": TOPICS.renew("press-2"),
    "another's renewed": TOPICS.renewed("press-2"),
    "another's inbox": TOPICS.to("press-2"),
    "coordinator's state": TOPICS.coordinator_state,
    "head": TOPICS.head,
    "list of revoked": TOPICS.revoked,
    "charter": TOPICS.charter,
    "a helper's questions": TOPICS.helper_ask("notary"),
    "a helper's answers": TOPICS.helper_answer("notary"),
    "a helper's state": TOPICS.helper_state("notary"),
    "a helper's masks": TOPICS.helper_masks("notary", DIGEST, 0),
    "another helper's questions": TOPICS.helper_ask("union"),
    "another helper's answers": TOPICS.helper_answer("union"),
    "answers of an agent as of a helper": TOPICS.helper_answer("press-1"),
    "answers of a helper called coordinator": TOPICS.helper_answer("coordinator"),
    "chunk of the bundle": TOPICS.bundle(DIGEST, 0),
    "chunk of a model": TOPICS.model(DIGEST, 0),
    "below an ask": f"{TOPICS.ask('press-1')}/more",
    "below the head": f"{TOPICS.head}/press-1",
    "below an inbox": f"{TOPICS.to('press-1')}/more",
    "beside the tree": f"{TOPICS.base}/press-1",
    "the root itself": TOPICS.base,
    "update of an agent called coordinator": TOPICS.update("coordinator", INCARNATION, 1, "h"),
    "report of an agent called coordinator": TOPICS.report("coordinator"),
    "ask of an agent called coordinator": TOPICS.ask("coordinator"),
    "inbox of an agent called coordinator": TOPICS.to("coordinator"),
    "update of an agent called observer": TOPICS.update("observer", INCARNATION, 1, "h"),
    "state of an agent called observer": TOPICS.state("observer"),
    "report of an agent called observer": TOPICS.report("observer"),
    "ask of an agent called observer": TOPICS.ask("observer"),
    "update of an agent called enrolment": TOPICS.update("enrolment", INCARNATION, 1, "h"),
    "renewal of an agent called enrolment": TOPICS.renew("enrolment"),
    "own state in another federation": OTHERS.state("press-1"),
    "own header in another federation": OTHERS.update("press-1", INCARNATION, 1, "h"),
    "another federation's head": OTHERS.head,
    "another version's head": f"journeyman/v2/{FEDERATION}/head",
    "the plant's own topics": "line-1/press-1/temperature",
}
"""Every kind of topic under the root, and what is near it; `own` is press-1's."""

_PUBLISHED_FOR_ALL = {
    "coordinator's state",
    "charter",
    "head",
    "chunk of the bundle",
    "chunk of a model",
}
_READ_BY_ALL = _PUBLISHED_FOR_ALL | {"list of revoked"}
_NAMED_LIKE_COORDINATOR = {name for name in TREE if name.endswith("called coordinator")}
_NAMED_LIKE_ENROLMENT = {name for name in TREE if name.endswith("called enrolment")}
_NAMED_LIKE_OBSERVER = {name for name in TREE if name.endswith("called observer")}
_UNDER_THE_ROOT = {
    name for name, topic in TREE.items() if f"{topic}/".startswith(f"{TOPICS.base}/")
}
_QUESTIONS = {"a helper's questions", "another helper's questions"}
_SAID_BY_ITSELF = {"a helper's answers", "a helper's state"}
_OF_HELPERS = {name for name, topic in TREE.items() if topic.startswith(f"{TOPICS.base}/helper/")}
_READ_BY_HELPERS = {"charter", "head", "list of revoked"}
_INBOXES = {"own inbox", "another's inbox"}
_RENEWALS = {"own renewal", "another's renewal", "renewal of an agent called enrolment"}
_RENEWED = {"own renewed", "another's renewed"}
_FROM_AGENTS = {
    name
    for name, topic in TREE.items()
    if topic.startswith(
        tuple(f"{TOPICS.base}/{kind}/" for kind in ("up", "state", "report", "ask"))
    )
    and name != "below an ask"
}

WRITES: dict[str, set[str]] = {
    "press-1": {
        "own header",
        "own chunk",
        # The broker does not know which shard is right; the coordinator refuses the wrong one.
        "own header in another shard",
        "own state",
        "own report",
        "own ask",
        "own renewal",
    },
    "coordinator": _PUBLISHED_FOR_ALL | _INBOXES | _QUESTIONS,
    "notary": _SAID_BY_ITSELF | {"a helper's masks"},
    "enrolment": _RENEWED | {"list of revoked"},
    "observer": set(),
    "newcomer": set(),
    "administrator": set(),
}
READS: dict[str, set[str]] = {
    "press-1": _READ_BY_ALL | {"own inbox", "own state", "own renewed"},
    "coordinator": _READ_BY_ALL | _FROM_AGENTS | _OF_HELPERS,
    "notary": _SAID_BY_ITSELF | _READ_BY_HELPERS | {"a helper's questions"},
    "enrolment": _RENEWALS,
    "observer": _UNDER_THE_ROOT,
    "newcomer": _READ_BY_ALL,
    "administrator": _READ_BY_ALL,
}


def may_write(guard: Guard, user: str) -> set[str]:
    """Names of the topics on which `user` may publish.

    The file has the lines of helpers for everybody's own name; nobody listens to an agent there.
    """
    own = {"answers of an agent as of a helper"} if (guard, user) == ("acl", "press-1") else set()
    return WRITES[user] | own


def may_read(guard: Guard, user: str) -> set[str]:
    """Names of the topics whose messages `user` may get.

    The file denies by topic and not by direction, so who must not publish as an agent of its own
    name may not read there either; nobody publishes there.  It holds for every certificate of the
    CA; the plugin wants to be told each name.
    """
    if guard == "acl":
        named_like = {
            "coordinator": _NAMED_LIKE_COORDINATOR,
            "enrolment": _NAMED_LIKE_ENROLMENT,
            "observer": _NAMED_LIKE_OBSERVER,
        }
        # A `pattern` line holds for every user: what all agents read, the authority may read too.
        more = _READ_BY_ALL if user in ("enrolment", "notary") else set()
        if user == "press-1":
            more = {"answers of an agent as of a helper"}
        return READS[user] - named_like.get(user, set()) | more
    return set() if user in {"newcomer", "administrator"} else READS[user]

"""What a helper answers to whatever comes in on its topic `ask`.

Bytes in, messages out; `WireError` for bytes that deserve no answer, and nothing else is raised but
what disks do.  Every question may be asked again, in any order: the answer is the same.
"""

from collections.abc import Callable

from coordinator.helper.endorsing import endorse
from coordinator.helper.examining import examine
from coordinator.helper.office import Office
from coordinator.helper.releasing import Opening, release
from wire.errors import MalformedError
from wire.messages import Endorsement, Masks, Verdicts

Answer = Verdicts | Endorsement | Masks | Opening
_JUDGES: dict[str, Callable[[Office, bytes], Answer]] = {
    "examine": examine,
    "manifest": endorse,
    "release": release,
}


def judge(office: Office, payload: bytes) -> Answer:
    """Answer one message; an `Opening` still has to be summed.

    Raises:
      WireError: the coordinator did not send this to a helper.
    """
    start = payload[:16]  # where the kind stands, which the signature covers
    for kind, answer in _JUDGES.items():
        if kind.encode() in start:
            return answer(office, payload)
    raise MalformedError(f"{len(payload)} bytes that are nothing to ask a helper")

"""A strategy of one's own: one function, named in `[strategy]` as `function = "module:name"`.

    def fresh_only(offer, buffer, current):
        if current - offer.base_version > 3:
            return Rejected("more than three versions behind")
        return offer.weight

It takes what `Admit` says and returns a positive weight or `Rejected(reason)`; buffering, deadline,
robust rule and server optimizer stay what the configuration says.  It runs in the coordinator, from
a module that its operator installed; nothing is ever loaded from the network.  It is asked about an
update when its header comes and again when it is whole, so it must be pure (docs/strategies.md).
"""

import importlib

from coordinator.aggregate import MAX_WEIGHT_SUM, Buffer
from coordinator.robust import UNIT
from coordinator.strategies.fedbuff import fedbuff
from coordinator.strategies.strategy import Admit, Offer, Rejected, Strategy
from wire.messages import Policy


class StrategyError(ValueError):
    """The named function can not be used; says why."""


def own(function: str, goal: int, deadline_s: float, policy: Policy) -> Strategy:
    """Buffered like FedBuff, admitted by the operator's function.

    Raises:
      StrategyError: there is no such function.
    """
    decide = _load(function)

    def admit(offer: Offer, buffer: Buffer, current: int) -> int | Rejected:
        answer = decide(offer, buffer, current)
        if isinstance(answer, Rejected):
            return answer
        most = (MAX_WEIGHT_SUM - buffer.weight) // UNIT  # clipping counts in such units
        if type(answer) is not int or not 1 <= answer <= most:
            return Rejected(f"the strategy {function} answered {answer!r:.60}, not a weight")
        return answer

    return Strategy(admit, fedbuff(goal, deadline_s, policy).is_ready)


def _load(function: str) -> Admit:
    module, _, name = function.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise StrategyError(f"{function!r} is not of the form module:function")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, SyntaxError) as error:
        raise StrategyError(f"module {module} can not be imported: {error}") from None
    if not callable(found):
        raise StrategyError(f"module {module} has no function {name}")
    loaded: Admit = found
    return loaded

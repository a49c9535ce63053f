"""Whether an update may be made, and what it costs: this site's own word about privacy.

    head ─► holds together? enough? affordable? ─ no ─► a reason, in the status
                    │ yes
    trained ─► charge (fsync) ─► noise ─► integers ─► outbox, with the mark in its header

Theory.  The budget must hold over all lives of an agent: its card may be wiped, restored from a
backup, or copied.  So the mark, which is all that was spent, travels in every header, the
coordinator keeps the highest of all incarnations, and says it in the answer to every birth.  An
agent makes no private update before it has heard that answer once since its process started, and
raises its ledger to it.  A ledger alone never proves that it was not restored, so this is asked of
an agent without a link too: it trains on through a lost link, but not from a cold start without
one.

What this can not see: two copies of one card that run at the same time each spend, and the mark is
the larger of both, not their sum (the copies are noticed by their updates' numbers, and alarmed);
a coordinator that lies about the mark to a card that was wiped; a broker that replays an old answer
to a restored card.

One account has one unit.  What was spent on hiding records says nothing about updates, nor the
other way around; a policy that turns from one to the other is refused, unless the site's own
`[privacy] unit` names the new one: then the account goes on, and counts too much.
"""

from collections.abc import Callable, Iterable
from typing import Final

from agent.privacy.accounting import epsilon_of
from agent.privacy.cost import cost_of, not_covered, unfit
from agent.privacy.ledger import Account, Ledger
from agent.privacy.report import PrivacyReport
from agent.privacy.settings import PrivacyTable
from wire.database import DiskError
from wire.manifest import Manifest
from wire.messages import Charter, Policy, Spent
from wire.safeguards import below, problems
from wire.spent import added

_MOST_LEFT: Final = 1 << 20
"""Releases that are counted ahead, for display."""
_NOTHING_ASKED: Final = PrivacyTable()
_UNKNOWN_MARK: Final = (
    "waiting for the coordinator's word on what this agent has spent before; it is asked once "
    "after each start"
)


class BudgetSpent(Exception):  # noqa: N818 - states what happened
    """The update that was to be charged would cost more than the budget has left."""


class Privacy:
    """This agent's account and what it insists on.

    Args:
      table: the site's own settings.
      ledger: durable but for tests.
      unsent: gives the marks in updates that wait in the outbox, for a ledger that was lost.
    """

    def __init__(
        self,
        table: PrivacyTable = _NOTHING_ASKED,
        ledger: Ledger | None = None,
        unsent: Callable[[], Iterable[Spent]] = tuple,
    ) -> None:
        self.table = table
        self._ledger, self._unsent = ledger or Ledger(), unsent
        self._mark: Spent | None = None
        self._knows_mark = False
        self._too_dear: tuple[Policy, Spent] | None = None
        self._asked: tuple[Policy, Manifest] | None = None
        self._cost: Spent | None = None
        self._refused = ""
        self._left: tuple[tuple[Spent, Spent], int] | None = None

    @property
    def problem(self) -> str:
        """What is wrong with the disk; empty when nothing is."""
        return self._ledger.problem

    def on_mark(self, mark: Spent) -> None:
        """The coordinator's answer to a birth: what it knows that this agent has spent."""
        self._mark = mark
        self._learn_mark()

    def reason_to_wait(
        self, policy: Policy, charter: Charter, manifest: Manifest, examples: int
    ) -> str:
        """Why no update may be made under a policy now; empty when one may.

        Args:
          policy: the head's.
          charter: in force; its `least` is a floor, and its `k_min` what noise may be shared by.
          manifest: of the bundle to be trained.
          examples: that would be trained on, as far as is known before they are cut.
        """
        self._asked, self._cost = (policy, manifest), None
        self._refused = self._reason(policy, charter, manifest, max(examples, 1))
        return self._refused

    def charge(self, policy: Policy, examples: int) -> Spent | None:
        """Charge one update, trained on so many examples, before it is made.

        Returns:
          The mark for its header, durable in the ledger; None without privacy.

        Raises:
          BudgetSpent: the update must not be made.
          DiskError: it must not be made yet; nothing was charged as far as this process knows.
        """
        if policy.privacy == "none":
            return None
        if not self._knows_mark:
            raise BudgetSpent(_UNKNOWN_MARK)
        cost = cost_of(policy, examples, self.table.honest_sites)
        reason = self._over_budget(self._ledger.account.spent, cost)
        if reason:
            self._too_dear = policy, cost
            raise BudgetSpent(reason)
        return self._ledger.charge(cost, policy.privacy)

    def report(self) -> PrivacyReport:
        """What this agent says about its privacy."""
        try:
            account = self._ledger.account
        except DiskError as error:
            return PrivacyReport(unit=self.table.unit, refused=f"waiting for the disk: {error}")
        return PrivacyReport(
            unit="none" if self._asked is None else self._asked[0].privacy,
            refused=self._refused,
            epsilon=epsilon_of(account.spent, self.table.delta),
            budget=self.table.epsilon,
            delta=self.table.delta,
            releases=account.spent.releases,
            releases_left=self._releases_left(account),
            not_covered=[]
            if self._cost is None or self._asked is None
            else not_covered(*self._asked),
        )

    def _reason(self, policy: Policy, charter: Charter, manifest: Manifest, examples: int) -> str:
        words = self._not_enough(policy, charter)
        if not words and policy.privacy != "none":
            words = unfit(policy, manifest)
        if words or policy.privacy == "none":
            return words and f"refused: {words}"
        self._cost = cost_of(policy, examples, self.table.honest_sites)
        try:
            return self._reason_of_account(policy, self._cost)
        except DiskError as error:
            return f"waiting for the disk: {error}"

    def _not_enough(self, policy: Policy, charter: Charter) -> str:
        """Why a policy is not to be followed here, whatever it would cost; empty when it may be."""
        for field, reason in problems(policy, k_min=charter.k_min):
            return f"the head's policy contradicts itself: {field}: {reason}"
        floors = (("the charter's", charter.least), ("this site's own [privacy]", self.table.least))
        for whose, least in floors:
            if words := below(policy, least):
                return f"the head's policy is below {whose}: {words}"
        return ""

    def _reason_of_account(self, policy: Policy, cost: Spent) -> str:
        if not self._learn_mark():
            return f"waiting for the disk: {self.problem}" if self.problem else _UNKNOWN_MARK
        account = self._ledger.account
        other = account.unit not in (None, policy.privacy)
        if other and policy.privacy != self.table.unit:
            return (
                f"refused: the ledger counts what hides one {account.unit}, and the head's policy "
                f'hides one {policy.privacy}; [privacy] unit = "{policy.privacy}" allows that'
            )
        reason = self._over_budget(account.spent, cost)
        if not reason and self._too_dear is not None and self._too_dear[0] == policy:
            reason = self._over_budget(account.spent, self._too_dear[1])
        return reason

    def _learn_mark(self) -> bool:
        """Raise the ledger to the coordinator's mark; whether this life has done so."""
        if self._mark is not None:
            try:
                self._ledger.raise_to(self._mark)
                if self._ledger.is_new:
                    for mark in self._unsent():
                        self._ledger.raise_to(mark)
            except DiskError:  # logged by the ledger; tried again before the next training
                return False
            self._mark, self._knows_mark = None, True
        return self._knows_mark

    def _over_budget(self, spent: Spent, cost: Spent) -> str:
        budget, delta = self.table.epsilon, self.table.delta
        after = epsilon_of(added(spent, cost), delta)
        if budget == 0 or after <= budget:
            return ""
        return (
            f"privacy budget spent: epsilon {epsilon_of(spent, delta):.4g} of {budget:g} at delta "
            f"{delta:g}, and one more update would make it {after:.4g}"
        )

    def _releases_left(self, account: Account) -> int | None:
        """Updates that the budget has room for; looked up, because a status is told often."""
        if not self.table.epsilon or self._cost is None:
            return None
        key = account.spent, self._cost
        if self._left is None or self._left[0] != key:
            self._left = key, releases_left(account.spent, self._cost, self.table)
        return self._left[1]


def releases_left(spent: Spent, cost: Spent, table: PrivacyTable) -> int:
    """How many releases of one cost fit a budget, at most `_MOST_LEFT`."""

    def fits(number: int) -> bool:
        return epsilon_of(added(spent, times(cost, number)), table.delta) <= table.epsilon

    low, high = 0, _MOST_LEFT
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def times(cost: Spent, number: int) -> Spent:
    """The cost of as many releases; not clamped, because it is only compared."""
    return Spent(
        gaussian=cost.gaussian * number,
        sampled=tuple(each * number for each in cost.sampled),
        releases=cost.releases * number,
    )

"""What leaves this site says little about any one row: floors, budget, ledger (README.md)."""

from agent.privacy.cost import private_plan
from agent.privacy.ledger import FILE_NAME, Ledger, read_account
from agent.privacy.privacy import BudgetSpent, Privacy
from agent.privacy.report import PrivacyReport
from agent.privacy.settings import PrivacyTable, problems

__all__ = [
    "FILE_NAME",
    "BudgetSpent",
    "Ledger",
    "Privacy",
    "PrivacyReport",
    "PrivacyTable",
    "private_plan",
    "problems",
    "read_account",
]

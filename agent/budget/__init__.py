"""What the gateway can spare for training: heat, processor, memory, hours."""

from agent.budget.budget import Budget, BudgetReport
from agent.budget.machine import read_machine
from agent.budget.readings import Readings
from agent.budget.settings import BudgetTable, problems
from agent.budget.watch import BudgetWatch

__all__ = [
    "Budget",
    "BudgetReport",
    "BudgetTable",
    "BudgetWatch",
    "Readings",
    "problems",
    "read_machine",
]

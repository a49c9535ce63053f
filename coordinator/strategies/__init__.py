"""Aggregation strategies: who enters the buffer, when it becomes a version, and by which step.

One file for each algorithm, opening with its paper; `strategy.py` says what a strategy is, and
`choice.py` makes the one that `[strategy]` names.
"""

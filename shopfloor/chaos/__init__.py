"""Chaos: the real programs under a thousand faults, and a sceptic's account of what became of it.

`python -m shopfloor.chaos --faults 1000 --seed 1` runs it, with `--secure` under masks and with
three helpers; `run.py` is where to begin reading.
"""

"""Secure aggregation at the coordinator: masked reports wait as rows until two helpers open a sum.

`rules.py` says which sums are allowed and is the helpers' rule as well.
"""

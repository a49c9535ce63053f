"""The secure-aggregation helper: run by somebody other than the coordinator's operator.

Three helpers stand in the charter; any two of them will release the masks of one agreed sum.  So
far a helper has its identity (`identity.py`): keys of its own, and the check that the charter names
exactly them.
"""

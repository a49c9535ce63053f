"""The secure-aggregation helper: run by somebody other than the coordinator's operator.

Three helpers stand in the charter; any two of them open one agreed sum of masked reports, and none
of them opens anything else (`wire/SECURE.md`).  `judging.py` answers by the rules of
`examining.py`, `endorsing.py` and `releasing.py`; `store.py` remembers what was promised;
`connection.py` and `app.py` are the service.
"""

"""The coordinator's web page and metrics: a process of its own beside the coordinator.

It reads `coordinator.db` read-only (`coordinator/reader.py`), so that no browser, however slow, can
hold up an update.  Needs the extra `journeyman[web]`; importing this package does not.
"""

"""Microcontrollers that run what this gateway serves.

    adoption, personal ─► export (own process) ─► Offer ─► bridge: gate, upload, self-test, trial
                                                               │
    Confirm or Rollback ◄── agreement ◄── gateway's float ◄── Scores with their row and reference

`task.py` is the work for one `[[device]]`; it is imported from there, because what it uses imports
the settings.  README.md is for people.
"""

from agent.devices.report import DeviceReport
from agent.devices.settings import DeviceTable, problems, source_of

__all__ = ["DeviceReport", "DeviceTable", "problems", "source_of"]

"""The local sample store: a bounded ring on disk that survives power cuts and bad disks."""

from agent.samples.account import StoreCounters
from agent.samples.settings import StoreTable
from agent.samples.store import SampleStore

__all__ = ["SampleStore", "StoreCounters", "StoreTable"]

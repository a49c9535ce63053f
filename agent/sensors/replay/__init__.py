"""Replay of recorded samples: CSV, Parquet and npz files, in original or accelerated time."""

from agent.sensors.replay.settings import ReplayChannelSettings, ReplaySettings, problems
from agent.sensors.replay.source import replay_blocks

__all__ = ["ReplayChannelSettings", "ReplaySettings", "problems", "replay_blocks"]

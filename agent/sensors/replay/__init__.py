"""Replay of recorded samples: CSV, Parquet and npz files, in original or accelerated time."""

from agent.sensors.replay.settings import ReplayChannelSettings, ReplaySettings, problems
from agent.sensors.source import Blocks, SourceContext, SourceReport

__all__ = ["ReplayChannelSettings", "ReplaySettings", "problems", "replay_blocks"]


def replay_blocks(settings: ReplaySettings, context: SourceContext, report: SourceReport) -> Blocks:
    """Blocks of one source, see `source.replay_blocks`; the driver is loaded when first asked."""
    from agent.sensors.replay.source import replay_blocks as blocks  # noqa: PLC0415

    return blocks(settings, context, report)

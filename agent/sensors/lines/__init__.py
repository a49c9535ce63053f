"""Serial lines: instruments that speak in text lines or binary frames, by themselves or asked.

`LinesSettings` is the union of the four formats' tables; `PortSettings` is what all of them are.
"""

from agent.sensors.lines.problems import problems
from agent.sensors.lines.settings import LinesSettings, PortSettings
from agent.sensors.source import Blocks, SourceContext, SourceReport

__all__ = ["LinesSettings", "PortSettings", "lines_blocks", "problems"]


def lines_blocks(settings: LinesSettings, context: SourceContext, report: SourceReport) -> Blocks:
    """Blocks of one source, see `source.lines_blocks`; the driver is loaded when first asked."""
    from agent.sensors.lines.source import lines_blocks as blocks  # noqa: PLC0415

    return blocks(settings, context, report)

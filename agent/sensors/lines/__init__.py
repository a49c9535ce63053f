"""Serial lines: instruments that speak in text lines or binary frames, by themselves or asked.

`LinesSettings` is the union of the four formats' tables; `PortSettings` is what all of them are.
"""

from agent.sensors.lines.problems import problems
from agent.sensors.lines.settings import LinesSettings, PortSettings
from agent.sensors.lines.source import lines_blocks

__all__ = ["LinesSettings", "PortSettings", "lines_blocks", "problems"]

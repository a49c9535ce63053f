"""OPC UA: subscriptions that never go silent (see README.md)."""

from agent.sensors.opcua.settings import OpcUaChannel, OpcUaSettings, node_problem, problems
from agent.sensors.opcua.slim import slim_down
from agent.sensors.source import Blocks, SourceContext, SourceReport

__all__ = ["OpcUaChannel", "OpcUaSettings", "node_problem", "opcua_blocks", "problems"]

slim_down()  # before the first module of this package imports asyncua


def opcua_blocks(settings: OpcUaSettings, context: SourceContext, report: SourceReport) -> Blocks:
    """Blocks of one source, see `source.opcua_blocks`; the driver is loaded when first asked."""
    from agent.sensors.opcua.source import opcua_blocks as blocks  # noqa: PLC0415

    return blocks(settings, context, report)

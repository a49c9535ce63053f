"""OPC UA: subscriptions that never go silent (see README.md)."""

from agent.sensors.opcua.settings import OpcUaChannel, OpcUaSettings, node_problem, problems
from agent.sensors.opcua.source import opcua_blocks

__all__ = ["OpcUaChannel", "OpcUaSettings", "node_problem", "opcua_blocks", "problems"]

"""Scores out: over MQTT, as an OPC UA server, and written back to listed nodes (see README.md)."""

from agent.serve.outputs import Outputs
from agent.serve.score import Origin, Score
from agent.serve.settings import ScoresTable, problems

__all__ = ["Origin", "Outputs", "Score", "ScoresTable", "problems"]

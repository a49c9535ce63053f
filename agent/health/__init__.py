"""Whether the agent works: its tasks' progress, the watchdog, `/healthz`, `/metrics`."""

from agent.health.board import Board
from agent.health.progress import Beat, Progress, Stall
from agent.health.server import serve_health
from agent.health.settings import MetricsTable, problems
from agent.health.waiting import no_beat, rest, until
from agent.health.watch import keep_watch

__all__ = [
    "Beat",
    "Board",
    "MetricsTable",
    "Progress",
    "Stall",
    "keep_watch",
    "no_beat",
    "problems",
    "rest",
    "serve_health",
    "until",
]

"""Whether the agent works: its tasks' progress, the watchdog, `/healthz`, `/metrics`."""

from agent.egress import Egress
from agent.health.board import Board
from agent.health.settings import MetricsTable, problems
from wire.progress import Beat, Progress, Stall
from wire.waiting import no_beat, rest, until
from wire.watchdog import keep_watch

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


async def serve_health(board: Board, table: MetricsTable, egress: Egress) -> None:
    """Serve until cancelled, see `server.serve_health`; loaded only when somebody wants it."""
    if table.listen:
        from agent.health.server import serve_health as serve  # noqa: PLC0415

        await serve(board, table, egress)

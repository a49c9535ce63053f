"""Labels that come later than their rows: from people, files and events."""

from agent.egress import Egress
from agent.labels.settings import LabelChannel, LabelsTable, problems
from agent.labels.store import EVENT, FILE, OPERATOR, KeptLabel, Labels

__all__ = [
    "EVENT",
    "FILE",
    "OPERATOR",
    "KeptLabel",
    "LabelChannel",
    "Labels",
    "LabelsTable",
    "problems",
    "serve_labels",
]


async def serve_labels(labels: Labels, table: LabelsTable, title: str, egress: Egress) -> None:
    """Watch the files of labels, and serve the form if one is wanted, until cancelled.

    The form and its HTTP server are loaded only then.
    """
    if not table.listen:
        await labels.watch_files()
        return
    from agent.labels.form import serve_labels as serve  # noqa: PLC0415

    await serve(labels, table, title, egress)

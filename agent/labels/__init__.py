"""Labels that come later than their rows: from people, files and events."""

from agent.labels.form import serve_labels
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

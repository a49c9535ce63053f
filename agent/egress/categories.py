"""Everything that ever leaves a gateway, by category, in words for whoever has to agree to it.

The table is closed: what fits no line is counted as `unknown`, and a test that finds some fails.
"""

from dataclasses import dataclass
from typing import Final

BIRTH: Final = "birth and will"
HEADER: Final = "update: header"
CONTENT: Final = "update: content"
MASKED: Final = "update: masked content"
ENCRYPTED: Final = "update: encrypted content"
TOMBSTONE: Final = "update: tombstone"
REPORT: Final = "report: envelope"
EVALUATIONS: Final = "report: evaluations"
STATISTICS: Final = "report: statistics"
CHOICE: Final = "report: choice"
SEALED: Final = "report: masked sums"
READINESS: Final = "readiness"
HISTOGRAM: Final = "readiness: histogram"
RENEWAL: Final = "renewal"
ENROLMENT: Final = "enrolment request"
SCORES: Final = "scores: MQTT"
AVAILABILITY: Final = "scores: availability"
OPCUA: Final = "scores: OPC UA"
WRITTEN: Final = "scores: written back"
HEALTH: Final = "health and figures"
LABELS: Final = "label form"
PROTOCOL: Final = "protocol"
TLS: Final = "TLS"
UNFINISHED: Final = "cut short"
UNKNOWN: Final = "unknown"

_NO_ROW = "no measurement, row, score or label, and no channel's name"


@dataclass(frozen=True)
class Category:
    """One line of the table.

    Attributes:
      holds: what is in it.
      never: what is not.
    """

    name: str
    holds: str
    never: str


CATEGORIES: Final = {
    each.name: each
    for each in (
        Category(
            BIRTH,
            "names of this gateway and its site, its credential and version, how many updates it "
            "made, what became of the operator's last order: where that failed, the key that was "
            "ordered and what is wrong with it",
            "no measurement, row, score or label",
        ),
        Category(
            HEADER,
            "announcement of one update: how many rows it was learned from, its size, checksums, "
            "version it began with, and with privacy accounting what was spent",
            _NO_ROW,
        ),
        Category(
            CONTENT,
            "by how much the model's numbers should change, computed from all rows of a training "
            "together; not masked, so its reader can estimate something of these rows",
            "no row as such, no channel's name, no time",
        ),
        Category(
            MASKED,
            "the same with a random mask added: alone indistinguishable from random numbers; "
            "readable only as part of a sum over several sites",
            "nothing about this site alone, unless two helpers tell what they must not",
        ),
        Category(
            ENCRYPTED,
            "the same, encrypted: readable only, and only as meant as a sum, by the authorised "
            "recipient's key",
            "nothing for whoever has not that key",
        ),
        Category(TOMBSTONE, "announcement that one update was given up and will not come", _NO_ROW),
        Category(
            REPORT, "which published model a report is about, signature and field names", _NO_ROW
        ),
        Category(
            EVALUATIONS,
            "how well published models do here: counts of right and wrong decisions and sums of "
            "errors over the rows kept for that",
            "no single row, no channel's name, no time",
        ),
        Category(
            STATISTICS,
            "number of rows, and for each feature of the model the sum and the sum of squares",
            "no single row, no channel's name, no time",
        ),
        Category(
            CHOICE,
            "which model this site uses, why, and its evaluation",
            "no row, no channel's name",
        ),
        Category(
            SEALED,
            "evaluations and statistics with a random mask added: readable only as part of a sum "
            "over several sites",
            "nothing about this site alone, unless two helpers tell what they must not",
        ),
        Category(
            READINESS,
            "wish to train: how many rows there are, mean error to two digits, mains or battery, "
            "temperature of the processor, how long uploads take",
            _NO_ROW,
        ),
        Category(
            HISTOGRAM,
            "with noise: which shares of the rows are how unusual for the model",
            "no single row, no channel's name, no time",
        ),
        Category(
            RENEWAL,
            "question for a newer certificate: credential and public keys",
            "no private key",
        ),
        Category(
            ENROLMENT,
            "once: names of gateway and site, public keys, proof that it has the token",
            "no private key, no token",
        ),
        Category(
            SCORES,
            "to the plant's own broker that [scores.mqtt] names: each score, decision and alarm, "
            "its time, the model's name, what is wrong with the agent; and with alarms and "
            "predicted numbers up to `[scores] drivers` channels that drove them, by name and "
            "measured value (0: none)",
            "no other measurement",
        ),
        Category(
            AVAILABILITY,
            "to the same broker: whether the agent is well, or which source or disk is not",
            "no measurement",
        ),
        Category(
            OPCUA,
            "answers of this gateway's OPC UA server: scores, decisions, alarms and what drove "
            "them, what is wrong with the agent, and what the protocol needs",
            "no other measurement than those that drove a score",
        ),
        Category(
            WRITTEN,
            "scores written into nodes of the plant's own machines; the values alone, without the "
            "protocol around them",
            "no measurement",
        ),
        Category(
            HEALTH,
            "answers of /healthz, /readyz and /metrics, with HTTP's headers; with `[metrics] "
            "channels`, how many samples single channels gave, by their names",
            "no measured value, no row",
        ),
        Category(
            LABELS,
            "pages of the form for labels with the newest labels and notes, to whoever may open it",
            "no measurement",
        ),
        Category(
            PROTOCOL,
            "what MQTT and HTTP put around all that: names of topics, user name and password for "
            "the broker, acknowledgments, signs of life",
            _NO_ROW,
        ),
        Category(TLS, "handshakes and frames of TLS, as the kernel counts them", _NO_ROW),
        Category(
            UNFINISHED, "beginnings of messages named above whose connection was cut", "see there"
        ),
        Category(UNKNOWN, "must be nothing: report it as a fault of this program", ""),
    )
}
"""By name, in the order of the table."""

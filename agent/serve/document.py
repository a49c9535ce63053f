"""The JSON documents that go out over MQTT; `score.schema.json` is generated from these structs.

Numbers are JSON numbers or null, never NaN, which JSON does not have (RFC 8259, 6).  Times are
UTC, ISO 8601 (RFC 3339) with microseconds and `Z`.  Pure.
"""

import math
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from agent.serve.score import Driver, Score

VERSION = 1
Describe = msgspec.Meta

Unit = Annotated[str, Describe(description="Unit of `score`; empty for a probability.")]
Sha256 = Annotated[str, Describe(description="SHA-256 of the model bundle, hexadecimal.")]
Time = Annotated[str, Describe(description="UTC, ISO 8601.")]


class DriverDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A channel that drove a score."""

    channel: Annotated[str, Describe(description="The channel's name.")]
    share: Annotated[
        float,
        Describe(
            description="Of what all channels contributed, -1 to 1; negative where the channel "
            "makes a predicted number smaller."
        ),
    ]
    value: Annotated[
        float | None,
        Describe(description="The channel in the row scored, in `unit`; null for a waveform."),
    ]
    unit: Annotated[str, Describe(description="Unit of `value`.")]


class ScoreDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One score, as published under the topic of the scores."""

    format: Annotated[Literal[1], Describe(description="Version of this document's format.")] = 1
    site: Annotated[str, Describe(description="Where the agent is.")]
    agent: Annotated[str, Describe(description="The agent's id.")]
    time: Annotated[str, Describe(description="Source timestamp of the row scored: UTC, ISO 8601.")]
    score: Annotated[
        float | None, Describe(description="The model's score in `unit`; null when there is none.")
    ]
    unit: Unit
    decision: Annotated[
        str, Describe(description="`normal` or `alarm`, the name of a class, or the number.")
    ]
    code: Annotated[int, Describe(description="The decision as a number: 0 normal, 1 alarm.")]
    alarm: Annotated[bool, Describe(description="Whether the score reached the threshold.")]
    confidence: Annotated[
        float | None,
        Describe(description="0 undecided to 1 certain; null where the model gives none."),
    ]
    threshold: Annotated[float | None, Describe(description="From which score on it is an alarm.")]
    quality: Annotated[
        Literal["good", "uncertain", "bad"], Describe(description="Severity of `status`.")
    ]
    status: Annotated[int, Describe(description="OPC UA StatusCode, 32 bits.")]
    model: Annotated[str, Describe(description="Name of the model bundle.")]
    bundle: Sha256
    version: Annotated[int, Describe(description="Version of the served weights.")]
    serving: Annotated[
        str, Describe(description="Which model scores: `global`, or this site's own kind.")
    ]
    health: Annotated[str, Describe(description="`ok`, or what is wrong with the agent.")]
    drivers: Annotated[
        list[DriverDocument] | msgspec.UnsetType,
        Describe(
            description="The channels that drove the score, largest share first; absent where it "
            "was not explained."
        ),
    ] = msgspec.UNSET


class AvailabilityDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the agent is there, retained under the availability topic; offline is its will."""

    format: Literal[1] = 1
    site: str
    agent: str
    state: Literal["online", "offline"]
    health: str
    time: Annotated[
        str | None, Describe(description="When it was said: UTC, ISO 8601; null in the last will.")
    ]


def score_document(score: Score, *, site: str, agent: str, health: str) -> bytes:
    """The JSON document of a score."""
    origin = score.origin
    return msgspec.json.encode(
        ScoreDocument(
            site=site,
            agent=agent,
            time=iso(score.source_time),
            score=_number(score.value),
            unit=origin.unit,
            decision=score.decision,
            code=score.code,
            alarm=score.is_alarm,
            confidence=_number(score.confidence),
            threshold=_number(origin.threshold),
            quality=score.quality,  # type: ignore[arg-type]  # one of the three
            status=score.status,
            model=origin.model,
            bundle=origin.bundle,
            version=origin.version,
            serving=origin.serving,
            health=health,
            drivers=[_driver(driver) for driver in score.drivers] or msgspec.UNSET,
        )
    )


def availability_document(*, site: str, agent: str, health: str, now: datetime | None) -> bytes:
    """The JSON document that says online, or, without a time, the last will."""
    return msgspec.json.encode(
        AvailabilityDocument(
            site=site,
            agent=agent,
            state="offline" if now is None else "online",
            health=health,
            time=None if now is None else iso(now),
        )
    )


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of both documents."""
    (score, availability), parts = msgspec.json.schema_components(
        (ScoreDocument, AvailabilityDocument), ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What a Journeyman agent publishes over MQTT",
        "oneOf": [score, availability],
        "$defs": parts,
    }


def iso(time: datetime) -> str:
    """A UTC time as `2026-03-14T15:09:26.535897Z`."""
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"


def _driver(driver: Driver) -> DriverDocument:
    return DriverDocument(
        channel=driver.channel,
        share=round(driver.share, 4),
        value=_number(driver.value),
        unit=driver.unit,
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None

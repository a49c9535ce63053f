"""The nodes of the agent's OPC UA server: one object for each model, and how a score gets there.

    Objects/Journeyman             s=/
      Health                       s=/Health
      <model>                      s=<model>
        Score, Decision, ...       s=<model>/Score, ...

NodeIds are these texts in the namespace `urn:journeyman:agent:<agent>`, the same after each start;
a % or / in a model's name is written %25 or %2F there.  Values that come from a row carry its
source timestamp and status; so do the arrays of what drove a score, which stay until the next one
that is explained.
"""

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from asyncua import ua

from agent.serve.address_space import AddressSpace
from agent.serve.score import OK, STATUS_GOOD, STATUS_STALE, Origin, Score
from agent.serve.units import engineering_units
from agent.signals.block import BAD, SEVERITY_SHIFT

MAX_MODELS: Final = 32
ROOT: Final = "/"
_ROOT_NAME: Final = "Journeyman"
_BAD_NOT_SUPPORTED: Final = 0x803D0000
"""Of a confidence or threshold that this kind of model does not have."""
_LAST_UINT32: Final = 0xFFFFFFFF
_V = ua.VariantType

_VARIABLES: Final = {
    "Score": (_V.Double, "What the model says: probability, number or error"),
    "Decision": (_V.String, "normal or alarm, the name of a class, or the number"),
    "DecisionCode": (_V.Int32, "The decision: 0 normal, 1 alarm; the number of a class"),
    "Alarm": (_V.Boolean, "Whether the score reached the threshold"),
    "Confidence": (_V.Double, "0 undecided to 1 certain; Bad where there is none"),
    "LastScored": (_V.DateTime, "Source timestamp of the row scored last"),
    "Scored": (_V.UInt32, "Scores since the agent started: a heartbeat"),
    "Alarms": (_V.UInt32, "Alarms since the agent started"),
    "Threshold": (_V.Double, "From which score on it is an alarm; Bad where none is"),
    "Model": (_V.String, "Name of the model bundle"),
    "Bundle": (_V.String, "SHA-256 of the model bundle"),
    "ModelVersion": (_V.UInt32, "Version of the served weights"),
    "Serving": (_V.String, "Which model scores: global, or this site's own kind"),
    "Health": (_V.String, "ok, or what is wrong with the agent"),
}
"""Of every model: type, and what people are told about it."""

_DRIVERS: Final = {
    "Drivers": (_V.String, "Channels that drove the newest score that was explained"),
    "DriverShares": (_V.Double, "Of each: its share, negative where it lowers a number"),
    "DriverValues": (_V.Double, "Of each: its value in that row; NaN for a waveform"),
    "DriverUnits": (_V.String, "Of each: the unit of its value"),
}
"""Arrays of every model, of the same length; they wait until a score is explained."""


class ScoreNodes:
    """All models' nodes; their owner is the only one who writes them.

    Args:
      space: where they are.
    """

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._models: dict[str, ModelNodes] = {}
        self._health = OK
        space.add_object(ROOT, _ROOT_NAME, "What this agent's models say")
        kind, description = _VARIABLES["Health"]
        space.add_variable(ROOT, "Health", kind.name, description)

    async def show(self, scores: list[Score]) -> bool:
        """Show these scores, in order; false when one is of a model beyond `MAX_MODELS`."""
        is_shown = True
        for score in scores:
            model = self._models.get(score.origin.model)
            if model is None and len(self._models) >= MAX_MODELS:
                is_shown = False
                continue
            if model is None:
                model = self._models[score.origin.model] = ModelNodes(self._space, score.origin)
                await model.describe(score.origin)
                await model.show_health(self._health)
            await model.show(score)
        return is_shown

    async def show_health(self, text: str) -> None:
        """Show how the agent is."""
        self._health = text
        await self._space.write(f"{ROOT}Health", text, _V.String, datetime.now(UTC))
        for model in self._models.values():
            await model.show_health(text)

    async def mark_stale(self, before_s: float) -> None:
        """Mark the last values of models that have had none since, of `time.monotonic`."""
        for model in self._models.values():
            await model.mark_stale(before_s)


class ModelNodes:
    """The object of one model and its variables.

    Args:
      space: where they are.
      origin: of its first score; whether it has an EURange does not change later.
    """

    def __init__(self, space: AddressSpace, origin: Origin) -> None:
        self._space = space
        self._path = origin.model.replace("%", "%25").replace("/", "%2F")
        self._origin = origin
        self._last: Score | None = None
        self._shown_s = 0.0
        self._is_stale = False
        self._scored = self._alarms = 0
        space.add_object(self._path, origin.model, "A model and what it says last", ROOT)
        is_limited = _is_limited(origin)
        analog = "AnalogItemType" if is_limited else "AnalogUnitType"  # OPC 10000-8, 5.3.2
        for name, (kind, description) in _VARIABLES.items():
            definition = analog if name == "Score" else "BaseDataVariableType"
            space.add_variable(self._path, name, kind.name, description, definition)
        for name, (kind, description) in _DRIVERS.items():
            space.add_variable(self._path, name, kind.name, description, is_array=True)
        space.add_property(f"{self._path}/Score", "EngineeringUnits", "EUInformation")
        if is_limited:
            space.add_property(f"{self._path}/Score", "EURange", "Range")
        space.keep_history(f"{self._path}/Score")

    async def show(self, score: Score) -> None:
        """Show a score."""
        if score.origin != self._origin:
            await self.describe(score.origin)
        self._last, self._is_stale, self._shown_s = score, False, time.monotonic()
        self._scored = (self._scored + 1) & _LAST_UINT32
        self._alarms = (self._alarms + score.is_alarm) & _LAST_UINT32
        stamp = score.source_time
        for name, value, status in _row_values(score):
            await self._write(name, value, stamp, status)
        for name, value in (
            ("LastScored", stamp),
            ("Scored", self._scored),
            ("Alarms", self._alarms),
        ):
            await self._write(name, value, stamp)
        if score.drivers:
            await self._show_drivers(score)
        path = f"{self._path}/Score"
        self._space.add_to_history(path, score.source_timestamp_us, score.value, score.status)

    async def show_health(self, text: str) -> None:
        """Show how the agent is."""
        await self._write("Health", text, datetime.now(UTC))

    async def mark_stale(self, before_s: float) -> None:
        """Mark the last values if there were none since, of `time.monotonic`."""
        if self._is_stale or self._last is None or self._shown_s > before_s:
            return
        self._is_stale = True
        for name, value, status in _row_values(self._last):
            if status >> SEVERITY_SHIFT < BAD:
                await self._write(name, value, self._last.source_time, STATUS_STALE)

    async def describe(self, origin: Origin) -> None:
        """Write what is the same for all scores of one version."""
        self._origin, now = origin, datetime.now(UTC)
        has_threshold = math.isfinite(origin.threshold)
        status = STATUS_GOOD if has_threshold else _BAD_NOT_SUPPORTED
        await self._write("Threshold", origin.threshold, now, status)
        await self._write("Model", origin.model, now)
        await self._write("Bundle", origin.bundle, now)
        await self._write("ModelVersion", min(origin.version, _LAST_UINT32), now)
        await self._write("Serving", origin.serving, now)
        structures: dict[str, object] = {"EngineeringUnits": engineering_units(origin.unit)}
        if _is_limited(origin):
            structures["EURange"] = ua.Range(*map(ua.Double, origin.limits))
        for name, value in structures.items():
            path = f"{self._path}/Score/{name}"
            await self._space.write(path, value, _V.ExtensionObject, now)

    async def _show_drivers(self, score: Score) -> None:
        """Show what drove a score; it stays for those who look later, with that row's time."""
        columns: tuple[list[object], ...] = (
            [driver.channel for driver in score.drivers],
            [driver.share for driver in score.drivers],
            [driver.value for driver in score.drivers],
            [driver.unit for driver in score.drivers],
        )
        for (name, (kind, _)), values in zip(_DRIVERS.items(), columns, strict=True):
            path = f"{self._path}/{name}"
            await self._space.write(path, values, kind, score.source_time, score.status)

    async def _write(
        self, name: str, value: object, stamp: datetime, status: int = STATUS_GOOD
    ) -> None:
        path = f"{self._path}/{name}"
        await self._space.write(path, value, _VARIABLES[name][0], stamp, status)


def _is_limited(origin: Origin) -> bool:
    return math.isfinite(origin.limits[0]) and math.isfinite(origin.limits[1])


def _row_values(score: Score) -> Iterator[tuple[str, object, int]]:
    """Name, value and status of the variables that are about one row."""
    yield "Score", score.value, score.status
    yield "Decision", score.decision, score.status
    yield "DecisionCode", score.code, score.status
    yield "Alarm", score.is_alarm, score.status
    has_confidence = score.is_bad or math.isfinite(score.confidence)
    status = score.status if has_confidence else _BAD_NOT_SUPPORTED
    yield "Confidence", score.confidence, status

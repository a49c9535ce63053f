"""DataValues and NodeIds as asyncua wants them.  Pure."""

from datetime import datetime
from typing import cast

from asyncua import ua

from agent.signals.block import BAD, SEVERITY_SHIFT


class FixedDataValue(ua.DataValue):
    """A DataValue that nobody changes, so that asyncua need not copy it for each subscriber."""

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, object]) -> "FixedDataValue":
        return self


def data_value(
    value: object,
    kind: ua.VariantType,
    status: int = 0,
    source_time: datetime | None = None,
    server_time: datetime | None = None,
) -> FixedDataValue:
    """A value with its status and times; a Bad one has no value (OPC 10000-4, 7.11.3)."""
    is_bad = status >> SEVERITY_SHIFT >= BAD
    return FixedDataValue(
        ua.Variant(None, ua.VariantType.Null) if is_bad else ua.Variant(value, kind),
        ua.StatusCode(ua.UInt32(status)),
        cast("ua.DateTime | None", source_time),
        cast("ua.DateTime | None", server_time),
    )


def text_id(identifier: str, namespace: int) -> ua.NodeId:
    """The NodeId `ns=namespace;s=identifier`."""
    return ua.NodeId(ua.String(identifier), ua.Int16(namespace))

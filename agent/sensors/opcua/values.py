"""From decoded items to numbers and arrays of the channels' own kinds.

What does not fit a channel's settings is Bad (BadTypeMismatch), never left out.  Pure.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from agent.sensors.opcua.columns import ArrayValue
from agent.sensors.opcua.session import Items, OtherValue
from agent.sensors.opcua.settings import OpcUaChannel
from agent.sensors.opcua.structures import Structures
from agent.signals.block import BAD, SEVERITY_SHIFT, ArraySample

BAD_TYPE_MISMATCH: Final = 0x8074_0000

Numbers = tuple[NDArray[np.uint32], NDArray[np.float64], NDArray[np.uint32], NDArray[np.int64]]
"""Channel, value, status, source timestamp in microseconds."""


class Values:
    """Knows what each channel's values should be.

    Args:
      channels: of the source.
      structures: that the server described.

    Attributes:
      mismatches: what came instead, for people, by channel; the reader empties it.
    """

    def __init__(self, channels: tuple[OpcUaChannel, ...], structures: Structures) -> None:
        self._channels, self._structures = channels, structures
        self._is_plain = np.array([not (each.shape or each.field) for each in channels], np.bool_)
        self.mismatches: dict[int, str] = {}

    def typed(self, items: Items) -> tuple[Numbers, list[ArraySample]]:
        """Numbers and arrays of these items; handles that no channel has are left out."""
        columns = items.columns
        count = len(self._channels)
        numbers: Numbers = (
            columns.handle,
            columns.value,
            columns.status,
            columns.source_timestamp_us,
        )
        if len(columns) and int(columns.handle.max()) >= count:
            numbers = chosen_of(numbers, columns.handle < count)
        plain = self._is_plain[numbers[0]]
        if plain.all() and not items.arrays and not items.others:
            return numbers, []
        found = _Found(self._channels)
        for handle, _, status, at_us in zip(
            *(each[~plain].tolist() for each in numbers), strict=True
        ):
            item = OtherValue(handle, None, status, at_us)
            found.nothing(item, self._bad_status(item, "a single number"))
        for array in items.arrays:
            if array.handle < count:
                self._take_array(array, found)
        for other in items.others:
            if other.handle < count:
                self._take_other(other, found)
        return _with_rows(chosen_of(numbers, plain), found.rows), found.arrays

    def _take_array(self, item: ArrayValue, found: "_Found") -> None:
        shape = self._channels[item.handle].shape
        if shape and item.value.size == np.prod(shape):
            found.array(item, item.value.reshape(shape))
        else:
            what = f"an array of shape {item.value.shape}"
            found.nothing(item, self._bad_status(item, what))

    def _take_other(self, item: OtherValue, found: "_Found") -> None:
        configured = self._channels[item.handle]
        value = item.value
        if configured.field and not _is_bad(item):
            try:
                value = _field(value, configured.field, self._structures)
            except LookupError as error:
                found.nothing(item, self._bad_status(item, str(error.args[0])))
                return
        array = _array(value, configured.shape) if configured.shape else None
        number = None if configured.shape else _number(value, configured)
        if array is not None and not _is_bad(item):
            found.array(item, array)
        elif number is not None and not _is_bad(item):
            found.rows.append((item.handle, number, item.status, item.source_timestamp_us))
        else:
            what = f"{type(value).__name__} {str(value)[:60]!r}"
            found.nothing(item, self._bad_status(item, what))

    def _bad_status(self, item: ArrayValue | OtherValue, what: str) -> int:
        """The status of an item that has no value; remembers what came if it is not Bad itself."""
        if _is_bad(item):
            return item.status
        configured = self._channels[item.handle]
        wanted = f"an array of shape {configured.shape}" if configured.shape else "a number"
        if configured.states:
            wanted = f"one of the states {list(configured.states)[:10]}"
        self.mismatches[item.handle] = f"the server sends {what} instead of {wanted}"
        return BAD_TYPE_MISMATCH


class _Found:
    """Rows of numbers, and arrays, in the order of their message."""

    def __init__(self, channels: tuple[OpcUaChannel, ...]) -> None:
        self._channels = channels
        self.rows: list[tuple[int, float, int, int]] = []
        self.arrays: list[ArraySample] = []

    def array(self, item: ArrayValue | OtherValue, value: NDArray[np.float32]) -> None:
        self.arrays.append(ArraySample(item.handle, value, item.status, item.source_timestamp_us))

    def nothing(self, item: ArrayValue | OtherValue, status: int) -> None:
        """Add a sample without a value, of the channel's own kind."""
        shape = self._channels[item.handle].shape
        at_us = item.source_timestamp_us
        if shape:
            nothing = np.full(shape, np.nan, np.float32)
            self.arrays.append(ArraySample(item.handle, nothing, status, at_us))
        else:
            self.rows.append((item.handle, np.nan, status, at_us))


def chosen_of(numbers: Numbers, chosen: NDArray[np.bool_]) -> Numbers:
    """The chosen ones of numbers."""
    if chosen.all():
        return numbers
    channel, value, status, at_us = numbers
    return channel[chosen], value[chosen], status[chosen], at_us[chosen]


def _is_bad(item: ArrayValue | OtherValue) -> bool:
    return item.status >> SEVERITY_SHIFT >= BAD


def _with_rows(numbers: Numbers, rows: list[tuple[int, float, int, int]]) -> Numbers:
    """Numbers and rows in one, each channel in order of time."""
    if not rows:
        return numbers
    channel, value, status, at_us = zip(*rows, strict=True)
    joined = (
        np.concatenate([numbers[0], np.array(channel, np.uint32)]),
        np.concatenate([numbers[1], np.array(value, np.float64)]),
        np.concatenate([numbers[2], np.array(status, np.uint32)]),
        np.concatenate([numbers[3], np.array(at_us, np.int64)]),
    )
    order = np.argsort(joined[3], kind="stable")
    return joined[0][order], joined[1][order], joined[2][order], joined[3][order]


def _field(value: object, path: str, structures: Structures) -> object:
    """A field of a structure; a number in the path is a place in an array.

    Raises:
      LookupError: it is no structure, or has no such field.
    """
    for name in path.split("."):
        if isinstance(value, ua.Variant):
            value = value.Value
        if isinstance(value, list):
            if not name.isdecimal() or int(name) >= len(value):
                reason = f"an array of {len(value)} where field {path!r} says {name!r}"
                raise LookupError(reason)
            value = value[int(name)]
            continue
        fields = _fields(value, path, structures)
        if name not in fields:
            reason = f"a structure without the field {name!r}: it has {sorted(fields)[:20]}"
            raise LookupError(reason)
        value = fields[name]
    return value


def _fields(value: object, path: str, structures: Structures) -> Mapping[str, object]:
    """The fields of a structure that asyncua parsed, or that the server described."""
    if isinstance(value, ua.ExtensionObject):
        return structures.fields_of(value)
    if isinstance(value, Mapping):
        return value
    names = getattr(type(value), "__dataclass_fields__", None)
    if names is None:
        reason = f"{type(value).__name__} where field {path!r} needs a structure"
        raise LookupError(reason)
    return {name: getattr(value, name) for name in names}


def _number(value: object, configured: OpcUaChannel) -> float | None:
    """The number of a value or of a text that is a state; None when it is neither."""
    if isinstance(value, ua.Variant):
        value = value.Value
    if isinstance(value, ua.LocalizedText):
        value = value.Text
    if isinstance(value, bool | int | float):  # an enumeration is an int
        return float(value)
    if isinstance(value, str):
        return configured.states.get(value)
    return None


def _array(value: object, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """An array of numbers of this shape; None when it is something else."""
    if not isinstance(value, list) or not all(isinstance(e, bool | int | float) for e in value):
        return None
    found = np.array(value, np.float32)
    return found.reshape(shape) if found.size == np.prod(shape) else None

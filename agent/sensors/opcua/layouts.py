"""How a MonitoredItemNotification lies in memory, for every mask and every type of number.

It is a ClientHandle and a DataValue, whose first byte says which of its fields follow (OPC 10000-6,
5.2.2.17), and whose Variant says in its own first byte which type its value has (5.2.2.16).  These
two bytes are the key of a record: all records of one key have one length and one layout.

Pure.
"""

import struct
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

NUMBERS: Final = {
    1: "u1",
    2: "i1",
    3: "u1",
    4: "<i2",
    5: "<u2",
    6: "<i4",
    7: "<u4",
    8: "<i8",
    9: "<u8",
    10: "<f4",
    11: "<f8",
}
"""Built-in types that are numbers (OPC 10000-6, 5.1.2), as numpy reads them."""
BOOLEAN, _NULL = 1, 0
HAS_VALUE, _STATUS, _SOURCE, _SERVER, ALL_FIELDS = 0x01, 0x02, 0x04, 0x08, 0x3F
_FIELDS: Final = (
    (_STATUS, "status", "I"),
    (_SOURCE, "source", "q"),
    (0x10, "source_picoseconds", "H"),
    (_SERVER, "server", "q"),
    (0x20, "server_picoseconds", "H"),
)
"""What follows the value, in its order on the wire; this is not the order of the bits."""
_NUMPY_OF: Final = {"I": "<u4", "q": "<i8", "H": "<u2"}
IS_ARRAY, HAS_DIMENSIONS, TYPE = 0x80, 0x40, 0x3F


class ForeignError(Exception):
    """These bytes hold something that only asyncua's parser can read, or that nobody can."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How records of one key lie in memory.

    Attributes:
      record: structured dtype; `key` is the mask, and where there is a value also its type.
      width: bytes of a record.
      fields: names in `record`.
      is_boolean: any byte but 0 is true.
    """

    record: np.dtype[np.void]
    width: int
    fields: frozenset[str]
    is_boolean: bool


def _layout(mask: int, value_type: int) -> Layout:
    fields = [("handle", "<u4"), ("key", "<u2" if mask & HAS_VALUE else "u1")]
    if mask & HAS_VALUE and value_type != _NULL:
        fields.append(("value", NUMBERS[value_type]))
    fields += [(name, _NUMPY_OF[code]) for bit, name, code in _FIELDS if mask & bit]
    record = np.dtype(fields)
    names = frozenset(name for name, _ in fields)
    return Layout(record, record.itemsize, names, value_type == BOOLEAN)


def _layouts() -> dict[int, Layout]:
    """All layouts of records of one length, by key: the mask + 256 x the type of the value."""
    made = {}
    for mask in range(ALL_FIELDS + 1):
        for value_type in (_NULL, *NUMBERS) if mask & HAS_VALUE else (_NULL,):
            made[mask | value_type << 8] = _layout(mask, value_type)
    return made


LAYOUTS: Final = _layouts()
WIDTHS: Final = {key: layout.width for key, layout in LAYOUTS.items()}
LEAST_WIDTH: Final = min(WIDTHS.values())


def key_at(body: bytes, at: int) -> int:
    """The key of the record at `at`; one that `LAYOUTS` has not is no number."""
    mask = body[at + 4]
    return mask | body[at + 5] << 8 if mask & HAS_VALUE else mask


@cache
def tail_of(mask: int) -> tuple[struct.Struct, tuple[str, ...]]:
    """What follows the value in a DataValue with this mask."""
    found = [(name, code) for bit, name, code in _FIELDS if mask & bit]
    return struct.Struct("<" + "".join(code for _, code in found)), tuple(name for name, _ in found)

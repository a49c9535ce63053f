"""Reading `.tflite` files: what the conversion to model images needs of them.

Responsible for bytes: every offset, length and index is checked before it is followed, so that
any bytes give a model or `TfliteFileError`. Refuses files of more than one graph, input or
output, and data outside the file's buffers. Knows nothing of what the operators compute.

Sources: tensorflow/lite/schema/schema.fbs, schema version 3; https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LARGEST_FILE_BYTES = 4 << 20
"""More than any microcontroller's flash."""

_MOST_FIELDS = 64  # of a table; the schema's largest options have fewer
_MOST_TABLES = 4096  # in a vector: tensors, buffers, operators

_TYPES = {0: "float32", 2: "int32", 9: "int8"}
_OPERATORS: Mapping[int, str] = {
    0: "ADD",
    1: "AVERAGE_POOL_2D",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    17: "MAX_POOL_2D",
    18: "MUL",
    19: "RELU",
    22: "RESHAPE",
    25: "SOFTMAX",
    28: "TANH",
    34: "PAD",
    39: "TRANSPOSE",
    40: "MEAN",
    45: "STRIDED_SLICE",
    67: "TRANSPOSE_CONV",
    97: "RESIZE_NEAREST_NEIGHBOR",
    98: "LEAKY_RELU",
    114: "QUANTIZE",
}
"""Names of the operators that this project's exports have, so that a refusal can say them."""


class TfliteFileError(ValueError):
    """The bytes are not a `.tflite` file that can be read here."""


class Table:
    """A FlatBuffers table; reads of absent fields give their defaults."""

    def __init__(self, data: bytes, at: int) -> None:
        """Take the table that starts at byte `at`."""
        self._data = data
        self._at = at
        vtable = at - int(_unpack(data, "<i", at))
        size = int(_unpack(data, "<H", vtable))
        if size < 4 or size % 2 or size // 2 - 2 > _MOST_FIELDS or vtable + size > len(data):
            raise TfliteFileError(f"the table at byte {at} has no valid list of fields")
        self._fields = struct.unpack_from(f"<{size // 2 - 2}H", data, vtable + 4)

    def number(self, slot: int, letter: str, default: int = 0) -> int:
        """Return an integer field of one of struct's formats."""
        at = self._position(slot)
        return default if at is None else int(_unpack(self._data, f"<{letter}", at))

    def table(self, slot: int) -> Table | None:
        """Return the table that a field points at."""
        at = self._target(slot)
        return None if at is None else Table(self._data, at)

    def numbers(self, slot: int, letter: str) -> tuple[float, ...]:
        """Return a vector of numbers; an absent one is empty."""
        raw = self.raw(slot, struct.calcsize(f"<{letter}"))
        return tuple(item[0] for item in struct.iter_unpack(f"<{letter}", raw))

    def raw(self, slot: int, item_bytes: int = 1) -> bytes:
        """Return the bytes of a vector of numbers."""
        at = self._target(slot)
        if at is None:
            return b""
        count = int(_unpack(self._data, "<I", at))
        end = at + 4 + count * item_bytes
        if end > len(self._data):
            raise TfliteFileError(f"the vector at byte {at} ends {end - len(self._data)} too late")
        return self._data[at + 4 : end]

    def tables(self, slot: int) -> list[Table]:
        """Return a vector of tables."""
        at = self._target(slot)
        if at is None:
            return []
        count = len(self.raw(slot, 4)) // 4
        if count > _MOST_TABLES:
            raise TfliteFileError(f"has a list of {count} items, at most {_MOST_TABLES}")
        places = [at + 4 + 4 * k for k in range(count)]
        return [Table(self._data, place + _offset(self._data, place)) for place in places]

    def _position(self, slot: int) -> int | None:
        inside = self._fields[slot] if slot < len(self._fields) else 0
        return self._at + inside if inside else None

    def _target(self, slot: int) -> int | None:
        at = self._position(slot)
        return None if at is None else at + _offset(self._data, at)


@dataclass(frozen=True)
class FileTensor:
    """A tensor as the file stores it.

    Attributes:
      name: as written; constants may have none.
      shape: sizes, the batch first.
      dtype: "float32", "int8", "int32", or the schema's number for others.
      scales: of the quantization; several are one per slice of `axis`.
      zero_points: as `scales`.
      axis: see `scales`.
      data: of a constant, None when computed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int
    data: bytes | None


@dataclass(frozen=True)
class FileOp:
    """An operator: its name in the schema, its tensors by index, its options."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table | None


@dataclass(frozen=True)
class TfliteFile:
    """A file's only graph; `input` and `output` are indices into `tensors`."""

    tensors: tuple[FileTensor, ...]
    ops: tuple[FileOp, ...]
    input: int
    output: int


def read_tflite(data: bytes) -> TfliteFile:
    """Read a file.

    Args:
      data: its bytes.

    Raises:
      TfliteFileError: they are not a `.tflite` file, or have not one graph, input and output.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise TfliteFileError(f"has {len(data)} bytes, at most {LARGEST_FILE_BYTES} are allowed")
    if data[4:8] != b"TFL3":
        raise TfliteFileError("is no .tflite file: the identifier TFL3 is missing")
    model = Table(data, _offset(data, 0))
    graphs = model.tables(2)
    if len(graphs) != 1:
        raise TfliteFileError(f"has {len(graphs)} graphs, not 1")
    buffers = [buffer.raw(0) for buffer in model.tables(4)]
    tensors = tuple(_tensor(table, buffers) for table in graphs[0].tables(0))
    codes = [_code(table) for table in model.tables(1)]
    ops = tuple(_operator(table, codes, len(tensors)) for table in graphs[0].tables(3))
    ends = [graphs[0].numbers(slot, "i") for slot in (1, 2)]
    if [len(end) for end in ends] != [1, 1]:
        raise TfliteFileError(f"has {len(ends[0])} inputs and {len(ends[1])} outputs, not 1 and 1")
    places = _indices((*ends[0], *ends[1]), len(tensors))
    return TfliteFile(tensors, ops, *places)


def _tensor(table: Table, buffers: Sequence[bytes]) -> FileTensor:
    number = table.number(2, "I")
    if number >= len(buffers):
        raise TfliteFileError(f"a tensor wants buffer {number} of {len(buffers)}")
    kind = table.number(1, "b")
    quantization = table.table(4)
    scales: tuple[float, ...] = ()
    zeros: tuple[float, ...] = ()
    axis = 0
    if quantization is not None:
        scales, zeros = quantization.numbers(2, "f"), quantization.numbers(3, "q")
        axis = quantization.number(6, "i")
    return FileTensor(
        table.raw(3).decode(errors="replace"),
        tuple(int(size) for size in table.numbers(0, "i")),
        _TYPES.get(kind, str(kind)),
        scales,
        tuple(int(zero) for zero in zeros),
        axis,
        buffers[number] if number else None,
    )


def _code(table: Table) -> str:
    number = max(table.number(3, "i"), table.number(0, "b"))
    return _OPERATORS.get(number, f"operator {number} of the schema")


def _operator(table: Table, codes: Sequence[str], tensors: int) -> FileOp:
    number = table.number(0, "I")
    if number >= len(codes):
        raise TfliteFileError(f"an operator has code {number} of {len(codes)}")
    inputs, outputs = (_indices(table.numbers(slot, "i"), tensors) for slot in (1, 2))
    return FileOp(codes[number], inputs, outputs, table.table(4))


def _indices(values: Sequence[float], count: int) -> tuple[int, ...]:
    for value in values:
        if not 0 <= value < count:
            raise TfliteFileError(f"tensor {value} is named, but there are {count}")
    return tuple(int(value) for value in values)


def _offset(data: bytes, at: int) -> int:
    return int(_unpack(data, "<I", at))


def _unpack(data: bytes, form: str, at: int) -> float:
    if not 0 <= at <= len(data) - struct.calcsize(form):
        raise TfliteFileError(f"an offset points at byte {at} of {len(data)}")
    value: float = struct.unpack_from(form, data, at)[0]
    return value

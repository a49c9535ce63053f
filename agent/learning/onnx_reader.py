"""Reading the messages inside an ONNX GraphProto: tensors, attributes, nodes, value infos.

Responsible for meaning and caps of each field. Every field number is either read, known and
ignored (documentation, metadata), or refused; nothing unknown passes. Nesting is bounded by
construction: only messages named here are entered, none of them recursively, since subgraphs
are refused.

Source: onnx.proto of ONNX 1.23 (field numbers), docs/IR.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import (
    DTYPE_CODES,
    DTYPES,
    Array,
    Attribute,
    AttributeType,
    Dimension,
    GraphError,
    Limits,
    Node,
    ValueInfo,
)
from agent.learning.protobuf import (
    DELIMITED,
    FIXED32,
    VARINT,
    ProtobufError,
    read_fields,
    read_packed_varints,
    signed,
)

Field = tuple[int, int | memoryview]
"""A field's wire type and value."""

_DTYPE_NAMES = {code: name for name, code in DTYPE_CODES.items()}
_DEFAULT_DOMAINS = ("", "ai.onnx")
_TYPED_INTEGERS = 65_536  # larger integer tensors come as raw bytes from every exporter

_STRAY_TENSOR_FIELDS = {
    3: "segments",
    6: "string data",
    10: "double data",
    11: "uint64 data",
    13: "external data",
}
_STRAY_ATTRIBUTE_FIELDS = {
    6: "a subgraph",
    9: "a list of strings",
    10: "a list of tensors",
    11: "subgraphs",
    14: "a type",
    15: "types",
    21: "a reference to a function's attribute",
    22: "a sparse tensor",
    23: "sparse tensors",
}


def collect(
    data: memoryview,
    where: str,
    read: Mapping[int, int],
    ignored: Iterable[int] = (),
    refused: Mapping[int, str] | None = None,
) -> dict[int, list[Field]]:
    """Sort a message's fields by number.

    Args:
      data: the message.
      where: words that name the message in errors.
      read: field number -> the most occurrences accepted.
      ignored: field numbers that carry nothing of meaning here.
      refused: field number -> what it would bring in.

    Raises:
      GraphError: a broken message, a refused, unknown or too often repeated field.
    """
    found: dict[int, list[Field]] = {number: [] for number in read}
    skipped = frozenset(ignored)
    try:
        for number, wire_type, value in read_fields(data):
            if number in skipped:
                continue
            if number not in found:
                what = (refused or {}).get(number, f"unknown field {number}")
                raise GraphError(where, f"holds {what}, which is not accepted")
            if len(found[number]) >= read[number]:
                raise GraphError(where, f"field {number} occurs more than {read[number]} times")
            found[number].append((wire_type, value))
    except ProtobufError as error:
        raise GraphError(where, f"is not a protobuf message ({error})") from error
    return found


def integer(fields: list[Field], where: str, default: int = 0) -> int:
    """Return a singular integer field's value as int64."""
    for wire_type, value in fields:
        if wire_type != VARINT or not isinstance(value, int):
            raise GraphError(where, "has another type where an integer belongs")
        return signed(value)
    return default


def view(field: Field, where: str) -> memoryview:
    """Return a length-delimited field's bytes."""
    wire_type, value = field
    if wire_type != DELIMITED or isinstance(value, int):
        raise GraphError(where, "has another type where bytes belong")
    return value


def text(fields: list[Field], where: str, limits: Limits) -> str:
    """Return a singular string field's value, empty when the field is absent."""
    for field in fields:
        data = view(field, where)
        if len(data) > 4 * limits.name_length:
            raise GraphError(where, f"a name has {len(data)} bytes")
        try:
            value = bytes(data).decode()
        except UnicodeDecodeError as error:
            raise GraphError(where, "a name is not UTF-8") from error
        if len(value) > limits.name_length or not value.isprintable():
            raise GraphError(where, f"name {value[:32]!r} is too long or not printable")
        return value
    return ""


def integers(fields: list[Field], where: str, most: int) -> tuple[int, ...]:
    """Return a repeated int64 field's values, packed or not."""
    values: list[int] = []
    for wire_type, value in fields:
        if wire_type == VARINT and isinstance(value, int):
            values.append(signed(value))
        else:
            try:
                values.extend(read_packed_varints(view((wire_type, value), where), most))
            except ProtobufError as error:
                raise GraphError(where, str(error)) from error
        if len(values) > most:
            raise GraphError(where, f"holds more than {most} integers")
    return tuple(values)


def _floats(fields: list[Field], where: str, most: int) -> NDArray[np.float32]:
    parts = []
    for wire_type, value in fields:
        data = memoryview(b"?") if isinstance(value, int) else value
        if wire_type not in (FIXED32, DELIMITED) or len(data) % 4:
            raise GraphError(where, "has another type where float32 values belong")
        parts.append(np.frombuffer(data, "<f4"))
        if sum(part.size for part in parts) > most:
            raise GraphError(where, f"holds more than {most} floats")
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def read_tensor(data: memoryview, where: str, limits: Limits) -> tuple[str, Array]:
    """Read a TensorProto: its name and values.

    Raises:
      GraphError: external data, an element type not in `DTYPES`, too large, or values that do
        not fill the shape.
    """
    fields = collect(
        data,
        where,
        {1: limits.rank, 2: 1, 4: limits.list_length, 5: limits.list_length}
        | {7: limits.list_length, 8: 1, 9: 1, 14: 1},
        ignored=(12, 16),
        refused=_STRAY_TENSOR_FIELDS,
    )
    name = text(fields[8], where, limits)
    where = f"{where} {name!r}" if name else where
    if integer(fields[14], where):
        raise GraphError(where, "holds external data, which is not accepted")
    shape = integers(fields[1], where, limits.rank)
    code = integer(fields[2], where)
    if code not in _DTYPE_NAMES:
        raise GraphError(where, f"element type {code} is not supported")
    dtype = DTYPES[_DTYPE_NAMES[code]]
    if min(shape, default=0) < 0 or math.prod(max(d, 1) for d in shape) > limits.tensor_elements:
        most = limits.tensor_elements
        raise GraphError(where, f"shape {shape} is out of range, at most {most} elements allowed")
    count = math.prod(shape)
    values = _tensor_values(fields, where, dtype, count)
    if values.size != count:
        raise GraphError(where, f"has {values.size} values for shape {shape}")
    return name, values.reshape(shape)


def _tensor_values(
    fields: dict[int, list[Field]], where: str, dtype: np.dtype[Any], count: int
) -> Array:
    typed = {"float32": 4, "int32": 5, "bool": 5, "int64": 7}[dtype.name]
    present = [number for number in (4, 5, 7, 9) if fields[number]]
    if any(number not in (typed, 9) for number in present) or len(present) > 1:
        raise GraphError(where, f"stores {dtype.name} values in the wrong fields")
    if fields[9]:
        raw = view(fields[9][0], where)
        if len(raw) != count * dtype.itemsize:
            raise GraphError(where, f"has {len(raw)} bytes of values for {count} elements")
        if dtype == np.bool_:
            flags: Array = np.frombuffer(raw, np.uint8) != 0
            return flags
        return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype)
    if typed == 4:
        return _floats(fields[4], where, count)
    wide = np.array(integers(fields[typed], where, min(count, _TYPED_INTEGERS)), dtype=np.int64)
    if dtype == np.int32 and wide.size and np.abs(wide).max() > np.iinfo(np.int32).max:
        raise GraphError(where, "an int32 value is out of range")
    return wide.astype(dtype)


def read_attribute(data: memoryview, where: str, limits: Limits) -> tuple[str, Attribute]:
    """Read an AttributeProto: its name and value; subgraphs and references are refused."""
    most = limits.list_length
    fields = collect(
        data,
        where,
        {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 7: most, 8: most, 20: 1},
        ignored=(13,),
        refused=_STRAY_ATTRIBUTE_FIELDS,
    )
    name = text(fields[1], where, limits)
    where = f"{where} attribute {name!r}"
    kind = integer(fields[20], where)
    readers: dict[int, tuple[int, Callable[[list[Field]], Attribute]]] = {
        AttributeType.FLOAT: (2, lambda field: _one_float(field, where)),
        AttributeType.INT: (3, lambda field: integer(field, where)),
        AttributeType.STRING: (4, lambda field: text(field, where, limits)),
        AttributeType.TENSOR: (
            5,
            lambda field: read_tensor(view(field[0], where), where, limits)[1],
        ),
        AttributeType.FLOATS: (
            7,
            lambda field: tuple(float(v) for v in _floats(field, where, most)),
        ),
        AttributeType.INTS: (8, lambda field: integers(field, where, most)),
    }
    if not name or kind not in readers:
        raise GraphError(where, f"attribute type {kind} is not supported")
    number, read = readers[kind]
    if any(fields[other] for other in (2, 3, 4, 5, 7, 8) if other != number):
        raise GraphError(where, "holds a value of another type than it declares")
    if kind == AttributeType.TENSOR and not fields[5]:
        raise GraphError(where, "declares a tensor and holds none")
    value = read(fields[number])
    if not _is_finite(value):
        raise GraphError(where, "holds values that are not finite")
    return name, value


def _one_float(fields: list[Field], where: str) -> float:
    values = _floats(fields, where, 1)
    return float(values[0]) if values.size else 0.0


def _is_finite(value: Attribute) -> bool:
    if isinstance(value, str | int):
        return True
    return bool(np.isfinite(np.asarray(value)).all())


def read_node(data: memoryview, index: int, limits: Limits) -> Node:
    """Read a NodeProto; only the default domain is accepted."""
    where = f"node {index}"
    most = limits.list_length
    fields = collect(
        data,
        where,
        {1: most, 2: most, 3: 1, 4: 1, 5: most, 7: 1},
        ignored=(6, 9),
        refused={8: "an overload", 10: "a device configuration"},
    )
    op = text(fields[4], where, limits)
    name = text(fields[3], where, limits)
    where = f"node {name or index!r} ({op})"
    domain = text(fields[7], where, limits)
    if domain not in _DEFAULT_DOMAINS:
        raise GraphError(where, f"domain {domain!r} is not accepted")
    attributes: dict[str, Attribute] = {}
    for field in fields[5]:
        key, value = read_attribute(view(field, where), where, limits)
        if key in attributes:
            raise GraphError(where, f"attribute {key!r} is given twice")
        attributes[key] = value
    inputs = tuple(text([field], where, limits) for field in fields[1])
    outputs = tuple(text([field], where, limits) for field in fields[2])
    return Node(op, inputs, outputs, attributes, name)


def read_value_info(data: memoryview, limits: Limits) -> ValueInfo:
    """Read a ValueInfoProto of a tensor whose rank is known."""
    where = "graph input or output"
    fields = collect(data, where, {1: 1, 2: 1}, ignored=(3, 4))
    name = text(fields[1], where, limits)
    where = f"{where} {name!r}"
    if not fields[2]:
        raise GraphError(where, "has no type")
    kinds = {4: "a sequence", 5: "a map", 7: "an opaque type", 8: "a sparse tensor", 9: "optional"}
    outer = collect(view(fields[2][0], where), where, {1: 1}, (6,), kinds)
    if not outer[1]:
        raise GraphError(where, "is not a tensor")
    tensor = collect(view(outer[1][0], where), where, {1: 1, 2: 1})
    code = integer(tensor[1], where)
    if code not in _DTYPE_NAMES:
        raise GraphError(where, f"element type {code} is not supported")
    if not tensor[2]:
        raise GraphError(where, "has no shape")
    dims = collect(view(tensor[2][0], where), where, {1: limits.rank})[1]
    shape = tuple(_read_dimension(view(dim, where), where, limits) for dim in dims)
    return ValueInfo(name, _DTYPE_NAMES[code], shape)


def _read_dimension(data: memoryview, where: str, limits: Limits) -> Dimension:
    fields = collect(data, where, {1: 1, 2: 1}, ignored=(3,))
    if fields[1]:
        size = integer(fields[1], where)
        if not 0 <= size <= limits.tensor_elements:
            raise GraphError(where, f"dimension {size} is out of range")
        return size
    return text(fields[2], where, limits) or None

"""Structures that only this server knows, such as a PLC's own types: read by their description.

A structure arrives as bytes with the NodeId of its encoding.  The server describes it in the
attribute DataTypeDefinition of its data type (OPC 10000-3, 8.48); with that, the bytes decode as
OPC 10000-6, 5.2.6 to 5.2.8 says.  asyncua would make a Python class from the description, by
executing text with names that the server chose, so that is not used.

Refuses structures with subtyped values and types nested deeper than `_MOST_NESTED`.
Invariant: any bytes give the fields or a `LookupError`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from asyncua import ua
from asyncua.client.ua_session import UaSession
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import Primitives, unpack_uatype

from agent.sensors.opcua.link import FAILURES, MALFORMED
from agent.sensors.opcua.resolving import Limits, read_values

_MOST_NESTED: Final = 10
_MOST_FIELDS: Final = 1000
_BUILT_IN_END: Final = 26  # NodeIds i=1 to i=25 are the built-in types, OPC 10000-6, 5.1.2
_ABSTRACT: Final = frozenset({26, 27, 28})  # Number, Integer, UInteger: written as a Variant
_INT32: Final = 6


@dataclass(frozen=True)
class StructureField:
    """One field.

    Attributes:
      name: as the server calls it.
      kind: the built-in type's number, or the structure in its place.
      dimensions: 0 for a single value, 1 for an array, more for a matrix.
      is_optional: it may be absent.
    """

    name: str
    kind: "int | Structure"
    dimensions: int
    is_optional: bool


@dataclass(frozen=True)
class Structure:
    """A structure's fields in their order; of a union, only one is there."""

    fields: tuple[StructureField, ...]
    is_union: bool = False


class Structures:
    """Structures by the NodeIds of their binary encodings."""

    def __init__(self) -> None:
        self._by_encoding: dict[ua.NodeId, Structure] = {}

    async def describe(
        self, session: UaSession, nodes: Mapping[int, ua.NodeId], limits: Limits
    ) -> dict[int, str]:
        """Ask for the structures of these channels' variables; return what can not be read."""
        problems: dict[int, str] = {}
        types = await read_values(
            session, list(nodes.values()), limits.reads, ua.AttributeIds.DataType
        )
        for channel, found in zip(nodes, types, strict=True):
            data_type = None if found.Value is None else found.Value.Value
            if not isinstance(data_type, ua.NodeId):
                problems[channel] = "the server does not say of which type the structure is"
                continue
            if data_type.NamespaceIndex == 0:
                continue  # asyncua knows it
            definition = await _definition(session, data_type)
            if not isinstance(definition, ua.StructureDefinition):
                problems[channel] = "the server does not describe the structure"
                continue
            try:
                structure = await _structure(session, definition, 0)
            except LookupError as error:
                problems[channel] = str(error.args[0])
            else:
                self._by_encoding[definition.DefaultEncodingId] = structure
        return problems

    def fields_of(self, value: ua.ExtensionObject) -> dict[str, object]:
        """The fields of a structure that asyncua does not know.

        Raises:
          LookupError: the server did not describe it, or these bytes are something else.
        """
        structure = self._by_encoding.get(value.TypeId)
        if structure is None:
            reason = f"a structure that the server does not describe ({value.TypeId.to_string()})"
            raise LookupError(reason)
        return decode_structure(structure, value.Body or b"")


def decode_structure(structure: Structure, body: bytes) -> dict[str, object]:
    """Decode the bytes of a structure.

    Raises:
      LookupError: they are something else.
    """
    try:
        return _decoded(structure, Buffer(body))
    except (*FAILURES, *MALFORMED) as error:
        reason = f"a structure whose bytes do not fit its description ({error})"
        raise LookupError(reason) from None


def _decoded(structure: Structure, body: Buffer) -> dict[str, object]:
    if structure.is_union:
        chosen = Primitives.UInt32.unpack(body)
        if not chosen:
            return {}
        field = structure.fields[chosen - 1]
        return {field.name: _field(field, body)}
    present = 0
    if any(field.is_optional for field in structure.fields):
        present = Primitives.UInt32.unpack(body)
    values: dict[str, object] = {}
    optional = 0
    for field in structure.fields:
        if field.is_optional:
            bit, optional = 1 << optional, optional + 1
            if not present & bit:
                continue
        values[field.name] = _field(field, body)
    return values


def _field(field: StructureField, body: Buffer) -> object:
    if not field.dimensions:
        return _single(field.kind, body)
    count = Primitives.Int32.unpack(body)
    if field.dimensions > 1:
        _check_length(count, body)
        count = math.prod(Primitives.Int32.unpack(body) for _ in range(count))
    _check_length(count, body)
    return [_single(field.kind, body) for _ in range(count)]


def _check_length(count: int, body: Buffer) -> None:
    if count > len(body):
        reason = f"an array of {count} in {len(body)} bytes"
        raise ValueError(reason)


def _single(kind: int | Structure, body: Buffer) -> object:
    if isinstance(kind, Structure):
        return _decoded(kind, body)
    return unpack_uatype(ua.VariantType(kind), body)


async def _structure(
    session: UaSession, definition: ua.StructureDefinition, depth: int
) -> Structure:
    form = definition.StructureType
    kinds = ua.StructureType
    if form not in (kinds.Structure, kinds.StructureWithOptionalFields, kinds.Union):
        reason = f"a structure of the form {form.name}, which the agent can not read"
        raise LookupError(reason)
    if depth > _MOST_NESTED or len(definition.Fields) > _MOST_FIELDS:
        reason = "a structure with too many fields, or nested too deep"
        raise LookupError(reason)
    fields = [
        StructureField(
            str(each.Name),
            await _kind(session, each.DataType, depth),
            max(0, int(each.ValueRank)),
            bool(each.IsOptional) and form == kinds.StructureWithOptionalFields,
        )
        for each in definition.Fields
    ]
    return Structure(tuple(fields), form == kinds.Union)


async def _kind(session: UaSession, data_type: ua.NodeId, depth: int) -> int | Structure:
    """The built-in type or the structure that a data type is written as."""
    for _ in range(_MOST_NESTED):
        number = data_type.Identifier if data_type.NamespaceIndex == 0 else None
        if isinstance(number, int) and number in _ABSTRACT:
            return int(ua.VariantType.Variant.value)
        if isinstance(number, int) and number < _BUILT_IN_END:
            return number
        definition = await _definition(session, data_type)
        if isinstance(definition, ua.StructureDefinition):
            return await _structure(session, definition, depth + 1)
        if isinstance(definition, ua.EnumDefinition) or number == ua.ObjectIds.Enumeration:
            return _INT32
        data_type = await _supertype(session, data_type)
    reason = "a field of a type without an end to its supertypes"
    raise LookupError(reason)


async def _definition(session: UaSession, data_type: ua.NodeId) -> object:
    attribute = ua.AttributeIds.DataTypeDefinition
    (answer,) = await read_values(session, [data_type], 1, attribute)
    return None if answer.Value is None else answer.Value.Value


async def _supertype(session: UaSession, data_type: ua.NodeId) -> ua.NodeId:
    wanted = ua.BrowseDescription(
        NodeId=data_type,
        BrowseDirection=ua.BrowseDirection.Inverse,
        ReferenceTypeId=ua.NodeId(ua.Int32(ua.ObjectIds.HasSubtype)),
        IncludeSubtypes=True,
        NodeClassMask=ua.UInt32(0),
        ResultMask=ua.UInt32(0),
    )
    (result,) = await session.browse(
        ua.BrowseParameters(RequestedMaxReferencesPerNode=ua.UInt32(1), NodesToBrowse=[wanted])
    )
    for reference in result.References or ():
        found = reference.NodeId
        return ua.NodeId(found.Identifier, found.NamespaceIndex, found.NodeIdType)
    reason = f"a field of the type {data_type.to_string()}, which the server does not describe"
    raise LookupError(reason)

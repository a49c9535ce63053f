"""What variables are: type, unit, value, access.  Reads only."""

from collections.abc import Callable, Iterator, Mapping

from asyncua import ua
from asyncua.client.ua_session import UaSession

from agent.browse.found import Facts, Walk
from agent.sensors.opcua.resolving import Limits, batches, read_limits, read_values
from agent.sensors.opcua.structures import Structures

_MOST_TYPES = 200
_MOST_FIELDS = 200
_MOST_NESTED = 5
_OF_EACH = (
    ua.AttributeIds.Value,
    ua.AttributeIds.DataType,
    ua.AttributeIds.UserAccessLevel,
    ua.AttributeIds.Historizing,
)


async def read_facts(
    session: UaSession,
    walk: Walk,
    units: Mapping[int, ua.NodeId],
    is_over: Callable[[], bool],
) -> None:
    """Fill in the facts of all variables of a walk.

    Args:
      session: activated.
      walk: what was found.
      units: EngineeringUnits by the place of their variable.
      is_over: asked between calls; then the rest stays empty.
    """
    limits = await read_limits(session)
    structures = Structures()
    names: dict[ua.NodeId, str] = {}
    variables = [(at, node) for at, node in enumerate(walk.nodes) if node.facts is not None]
    for some in batches(variables, limits.reads):
        if is_over():
            return
        node_ids = [node.node_id for _, node in some]
        answers = [await read_values(session, node_ids, limits.reads, each) for each in _OF_EACH]
        for (_, node), value, data_type, access, historizing in zip(some, *answers, strict=True):
            facts = node.facts = await _facts(session, value, plain(data_type), names)
            facts.access = number(access)
            facts.is_historizing = plain(historizing) is True
            if facts.kind == "structure" and not is_over():
                facts.fields = await _fields(session, structures, node.node_id, facts, limits)
    for some_units in batches(list(units.items()), limits.reads):
        if is_over():
            return
        found = await read_values(session, [each for _, each in some_units], limits.reads)
        for (at, _), answer in zip(some_units, found, strict=True):
            facts_of = walk.nodes[at].facts
            if facts_of is not None:
                facts_of.unit = unit_text(plain(answer))


async def _facts(
    session: UaSession, answer: ua.DataValue, data_type: object, names: dict[ua.NodeId, str]
) -> Facts:
    variant = answer.Value
    facts = Facts(status=0 if answer.StatusCode is None else int(answer.StatusCode.value))
    if variant is not None and variant.VariantType is not None:
        facts.value, facts.built_in = variant.Value, int(variant.VariantType.value)
        if variant.Dimensions and len(variant.Dimensions) > 1:
            facts.shape = tuple(int(each) for each in variant.Dimensions)
        elif isinstance(variant.Value, list):
            facts.shape = (len(variant.Value),)
    if isinstance(data_type, ua.NodeId):
        facts.data_type = await _type_name(session, data_type, names)
        is_built_in = data_type.NamespaceIndex == 0 and isinstance(data_type.Identifier, int)
        if not facts.built_in and is_built_in:
            facts.built_in = min(int(data_type.Identifier), ua.VariantType.Variant.value)
    return facts


async def _type_name(session: UaSession, data_type: ua.NodeId, names: dict[ua.NodeId, str]) -> str:
    if data_type not in names:
        if len(names) >= _MOST_TYPES:
            return str(data_type.to_string())
        attribute = ua.AttributeIds.BrowseName
        (answer,) = await read_values(session, [data_type], 1, attribute)
        name = plain(answer)
        shown = name.Name if isinstance(name, ua.QualifiedName) else data_type.to_string()
        names[data_type] = str(shown)
    return names[data_type]


async def _fields(
    session: UaSession,
    structures: Structures,
    node_id: ua.NodeId,
    facts: Facts,
    limits: Limits,
) -> tuple[str, ...]:
    """Paths of the numbers in a structure, as far as the server describes it."""
    value = facts.value
    if isinstance(value, ua.ExtensionObject):
        if await structures.describe(session, {0: node_id}, limits):
            return ()
        try:
            value = structures.fields_of(value)
        except LookupError:
            return ()
    found: list[str] = []
    for path in number_paths(value):
        found.append(path)
        if len(found) == _MOST_FIELDS:
            break
    return tuple(found)


def number_paths(value: object, path: str = "", depth: int = 0) -> Iterator[str]:
    """Dotted paths of all numbers in a structure that was parsed."""
    if isinstance(value, ua.Variant):
        value = value.Value
    if isinstance(value, bool | int | float):
        yield path
        return
    if depth > _MOST_NESTED:
        return
    parts: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        parts = [(str(name), each) for name, each in value.items()]
    elif isinstance(value, list) and path:
        parts = [(str(at), each) for at, each in enumerate(value)]
    else:
        names = getattr(type(value), "__dataclass_fields__", ())
        parts = [(name, getattr(value, name)) for name in names if name[:1].isupper()]
    for name, each in parts:
        yield from number_paths(each, f"{path}.{name}" if path else name, depth + 1)


def unit_text(value: object) -> str:
    """The DisplayName of an EUInformation (OPC 10000-8, 5.6.4.3); empty when it is none."""
    name = getattr(value, "DisplayName", None)
    text = getattr(name, "Text", None)
    return text.strip() if isinstance(text, str) else ""


def plain(answer: ua.DataValue) -> object:
    """The value of an answer; None where it has none."""
    return answer.Value.Value if answer.Value is not None else None


def number(answer: ua.DataValue) -> int:
    """An integer of an answer; 0 where it has none."""
    value = plain(answer)
    return int(value) if isinstance(value, int) else 0

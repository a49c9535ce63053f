"""What a walk over a server found: nodes, and what is known of variables.  Pure."""

from dataclasses import dataclass, field
from typing import Final, Literal

from asyncua import ua

READ: Final = 0x01
WRITE: Final = 0x02
HISTORY: Final = 0x04
"""Bits of an AccessLevel (OPC 10000-3, 8.57)."""
_LAST_NUMBER: Final = 11
"""Boolean to Double are the built-in types 1 to 11 (OPC 10000-6, 5.1.2)."""

Kind = Literal["number", "text", "structure", "other"]


@dataclass(frozen=True)
class Bounds:
    """How far a walk goes.

    Attributes:
      depth: levels below the node that it begins at.
      nodes: objects and variables.
      seconds: of all.
    """

    depth: int = 10
    nodes: int = 2000
    seconds: float = 60.0


@dataclass
class Facts:
    """What is known of a variable.

    Attributes:
      data_type: browse name of its data type.
      built_in: number of the built-in type of its value; 0 when it has none.
      value: now, as asyncua parsed it.
      status: StatusCode of it.
      shape: of an array; () for a single value.
      unit: DisplayName of its EngineeringUnits.
      access: UserAccessLevel.
      is_historizing: the server records it.
      fields: of a structure, paths of its numbers.
    """

    data_type: str = ""
    built_in: int = 0
    value: object = None
    status: int = 0
    shape: tuple[int, ...] = ()
    unit: str = ""
    access: int = 0
    is_historizing: bool = False
    fields: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What a channel could take of it."""
        if 1 <= self.built_in <= _LAST_NUMBER:
            return "number"
        if self.built_in in (ua.VariantType.String.value, ua.VariantType.LocalizedText.value):
            return "text"
        if self.built_in == ua.VariantType.ExtensionObject.value:
            return "structure"
        return "other"


@dataclass
class Node:
    """An object or a variable.

    Attributes:
      node_id: of it.
      name: its BrowseName without namespace.
      depth: below the node where the walk began, which has 0.
      parent: its place among the nodes; -1 for the first.
      facts: of a variable.
      note: what a person should know, such as `see above`.
      children: their places.
    """

    node_id: ua.NodeId
    name: str
    depth: int
    parent: int
    facts: Facts | None = None
    note: str = ""
    children: list[int] = field(default_factory=list)


@dataclass
class Walk:
    """The result.

    Attributes:
      namespaces: of the server, by index.
      nodes: each before its children.
      cut: why there may be more; empty when this is all.
    """

    namespaces: list[str]
    nodes: list[Node] = field(default_factory=list)
    cut: str = ""

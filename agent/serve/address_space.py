"""Objects and variables of the agent's own namespace: added to the address space, and written.

Values are put there directly: 7 us each, where asyncua's `Node.write_value` takes 27.  Nobody else
writes them (`guarded.py`).
"""

from datetime import UTC, datetime
from typing import Final

from asyncua import ua

from agent.serve.guarded import GuardedServer
from agent.serve.score import STATUS_GOOD, STATUS_WAITING
from agent.serve.standard_nodes import node_id
from agent.serve.values import data_value, text_id

_READ: Final = 1
_READ_HISTORY: Final = 4
"""Bits of AccessLevel (OPC 10000-3, 8.57)."""
_ONE_DIMENSION: Final = 1
"""A ValueRank (OPC 10000-3, 5.6.2); -1 is a scalar."""


class AddressSpace:
    """The nodes of one namespace, by the text of their NodeIds.

    Args:
      server: whose nodes they are.
      namespace: index of the namespace.
    """

    def __init__(self, server: GuardedServer, namespace: int) -> None:
        self._server, self._namespace = server, namespace

    def id(self, identifier: str) -> ua.NodeId:
        """The NodeId of this text."""
        return text_id(identifier, self._namespace)

    def add_object(self, identifier: str, name: str, description: str, parent: str = "") -> None:
        """Add an object below another one, or without one below Objects."""
        item = ua.AddNodesItem()
        item.NodeClass, item.NodeAttributes = ua.NodeClass.Object, ua.ObjectAttributes()
        item.TypeDefinition = node_id("BaseObjectType")
        item.RequestedNewNodeId = self.id(identifier)
        item.ParentNodeId = self.id(parent) if parent else node_id("ObjectsFolder")
        item.ReferenceTypeId = node_id("HasComponent" if parent else "Organizes")
        self._add(item, ua.QualifiedName(name, self._namespace), description)

    def add_variable(
        self,
        parent: str,
        name: str,
        data_type: str,
        description: str,
        definition: str = "BaseDataVariableType",
        *,
        is_array: bool = False,
    ) -> None:
        """Add a component with a single value or an array, at first waiting for it."""
        item = self._variable(parent, name, data_type, definition)
        if is_array:
            item.NodeAttributes.ValueRank = _ONE_DIMENSION
        item.ReferenceTypeId = node_id("HasComponent")
        self._add(item, ua.QualifiedName(name, self._namespace), description)

    def add_property(self, parent: str, name: str, data_type: str) -> None:
        """Add one of the properties that the standard names."""
        item = self._variable(parent, name, data_type, "PropertyType")
        item.ReferenceTypeId = node_id("HasProperty")
        self._add(item, ua.QualifiedName(name), "")

    def keep_history(self, identifier: str) -> None:
        """Let a variable have a history that clients read, if there is one at all."""
        if not self._server.history.size:
            return
        node = self.id(identifier)
        self._server.history.keep(node)
        attributes = self._server.aspace[node].attributes
        attributes[ua.AttributeIds.Historizing].value = data_value(True, ua.VariantType.Boolean)
        for level in (ua.AttributeIds.AccessLevel, ua.AttributeIds.UserAccessLevel):
            attributes[level].value = data_value(_READ | _READ_HISTORY, ua.VariantType.Byte)

    def add_to_history(self, identifier: str, time_us: int, value: float, status: int) -> None:
        """Add a value to the history of a variable."""
        self._server.history.add(self.id(identifier), time_us, value, status)

    async def write(
        self,
        identifier: str,
        value: object,
        kind: ua.VariantType,
        source_time: datetime,
        status: int = STATUS_GOOD,
    ) -> None:
        """Give a variable a value; its server timestamp is now."""
        shown = data_value(value, kind, status, source_time, datetime.now(UTC))
        await self._server.write_attribute_value(self.id(identifier), shown)

    def _variable(self, parent: str, name: str, data_type: str, definition: str) -> ua.AddNodesItem:
        item = ua.AddNodesItem()
        item.NodeClass = ua.NodeClass.Variable
        item.RequestedNewNodeId = self.id(f"{parent.removesuffix('/')}/{name}")
        item.ParentNodeId, item.TypeDefinition = self.id(parent), node_id(definition)
        attributes = item.NodeAttributes = ua.VariableAttributes()
        attributes.DataType, attributes.ValueRank = node_id(data_type), -1
        attributes.AccessLevel = attributes.UserAccessLevel = _READ
        attributes.Value = ua.Variant(None, ua.VariantType.Null)
        return item

    def _add(self, item: ua.AddNodesItem, name: ua.QualifiedName, description: str) -> None:
        item.BrowseName = name
        item.NodeAttributes.DisplayName = ua.LocalizedText(name.Name)
        item.NodeAttributes.Description = ua.LocalizedText(description)
        for result in self._server.node_mgt_service.add_nodes([item]):
            result.StatusCode.check()
        if item.NodeClass == ua.NodeClass.Variable:
            value = self._server.aspace[item.RequestedNewNodeId].attributes[ua.AttributeIds.Value]
            value.value = data_value(None, ua.VariantType.Null, STATUS_WAITING)

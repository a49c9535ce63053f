"""The part of OPC UA's own address space that a small server needs.

asyncua fills in all 6,174 nodes of the standard, which takes 2 s of a fast processor and 56 MiB, as
much memory as all the rest of an agent.  These are the nodes that clients read to find their way:
the root and its folders, the types that are used and those above them, and the Server object with
its status and limits.  OPC 10000-7 leaves the rest to servers of larger profiles.

Pure but for the address space that it is given.  Source: OPC 10000-3, 10000-5, 10000-8 and their
node set; a test compares every node with asyncua's full one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from asyncua import ua
from asyncua.server.address_space import NodeManagementService
from asyncua.ua import ObjectIds

Tree = Mapping[str, tuple[str, ...]]

_FOLDERS: Final[Tree] = {
    "RootFolder": ("ObjectsFolder", "TypesFolder", "ViewsFolder"),
    "TypesFolder": (
        "ObjectTypesFolder",
        "VariableTypesFolder",
        "DataTypesFolder",
        "ReferenceTypesFolder",
    ),
}
_REFERENCE_TYPES: Final[Tree] = {
    "ReferenceTypesFolder": ("References",),
    "References": ("NonHierarchicalReferences", "HierarchicalReferences"),
    "HierarchicalReferences": ("HasChild", "Organizes"),
    "HasChild": ("Aggregates", "HasSubtype"),
    "Aggregates": ("HasProperty", "HasComponent"),
    "NonHierarchicalReferences": ("HasTypeDefinition", "HasModellingRule", "HasEncoding"),
}
_INVERSE_NAMES: Final = {
    "HasChild": "ChildOf",
    "Organizes": "OrganizedBy",
    "Aggregates": "AggregatedBy",
    "HasSubtype": "SubtypeOf",
    "HasProperty": "PropertyOf",
    "HasComponent": "ComponentOf",
    "HierarchicalReferences": "InverseHierarchicalReferences",
    "HasTypeDefinition": "TypeDefinitionOf",
    "HasModellingRule": "ModellingRuleOf",
    "HasEncoding": "EncodingOf",
}
_OBJECT_TYPES: Final[Tree] = {
    "ObjectTypesFolder": ("BaseObjectType",),
    "BaseObjectType": (
        "FolderType",
        "ServerType",
        "ServerCapabilitiesType",
        "HistoryServerCapabilitiesType",
        "ServerDiagnosticsType",
        "VendorServerInfoType",
        "ServerRedundancyType",
    ),
    "FolderType": ("OperationLimitsType",),
}
_VARIABLE_TYPES: Final[Tree] = {
    "VariableTypesFolder": ("BaseVariableType",),
    "BaseVariableType": ("BaseDataVariableType", "PropertyType"),
    "BaseDataVariableType": ("DataItemType", "ServerStatusType", "BuildInfoType"),
    "DataItemType": ("BaseAnalogType",),
    "BaseAnalogType": ("AnalogItemType", "AnalogUnitType"),
}
_DATA_TYPES: Final[Tree] = {
    "DataTypesFolder": ("BaseDataType",),
    "BaseDataType": (
        *("Boolean", "String", "DateTime", "Guid", "ByteString", "NodeId", "ExpandedNodeId"),
        *("StatusCode", "QualifiedName", "LocalizedText", "DataValue", "DiagnosticInfo"),
        *("Number", "Enumeration", "Structure"),
    ),
    "Number": ("Integer", "UInteger", "Float", "Double"),
    "Integer": ("SByte", "Int16", "Int32", "Int64"),
    "UInteger": ("Byte", "UInt16", "UInt32", "UInt64"),
    "Double": ("Duration",),
    "DateTime": ("UtcTime",),
    "String": ("LocaleId",),
    "Enumeration": ("ServerState", "RedundancySupport"),
    "Structure": (
        *("Range", "EUInformation", "ServerStatusDataType", "BuildInfo"),
        "SignedSoftwareCertificate",
    ),
}
_ABSTRACT: Final = {
    *("References", "HierarchicalReferences", "NonHierarchicalReferences", "HasChild"),
    *("Aggregates", "BaseVariableType", "BaseDataType", "Number", "Integer", "UInteger"),
    *("Enumeration", "Structure"),
}

_OBJECTS: Final = (
    ("Server", "ServerType"),
    ("Server_ServerCapabilities", "ServerCapabilitiesType"),
    ("Server_ServerCapabilities_OperationLimits", "OperationLimitsType"),
    ("HistoryServerCapabilities", "HistoryServerCapabilitiesType"),
    ("Server_ServerDiagnostics", "ServerDiagnosticsType"),
    ("Server_VendorServerInfo", "VendorServerInfoType"),
    ("Server_ServerRedundancy", "ServerRedundancyType"),
)
_PARENTS: Final = {
    "Server": "ObjectsFolder",
    "HistoryServerCapabilities": "Server_ServerCapabilities",
}
"""Of objects whose name does not begin with their parent's."""

_STATUS, _BUILD = "Server_ServerStatus", "Server_ServerStatus_BuildInfo"
_CAPABILITIES, _HISTORY = "Server_ServerCapabilities", "HistoryServerCapabilities"
_LIMITS: Final = f"{_CAPABILITIES}_OperationLimits"
_COMPONENTS: Final = (
    (_STATUS, "ServerStatusDataType", "ServerStatusType"),
    (f"{_STATUS}_StartTime", "UtcTime", "BaseDataVariableType"),
    (f"{_STATUS}_CurrentTime", "UtcTime", "BaseDataVariableType"),
    (f"{_STATUS}_State", "ServerState", "BaseDataVariableType"),
    (_BUILD, "BuildInfo", "BuildInfoType"),
    (f"{_BUILD}_ProductUri", "String", "BaseDataVariableType"),
    (f"{_BUILD}_ManufacturerName", "String", "BaseDataVariableType"),
    (f"{_BUILD}_ProductName", "String", "BaseDataVariableType"),
    (f"{_BUILD}_SoftwareVersion", "String", "BaseDataVariableType"),
    (f"{_BUILD}_BuildNumber", "String", "BaseDataVariableType"),
    (f"{_BUILD}_BuildDate", "UtcTime", "BaseDataVariableType"),
    (f"{_STATUS}_SecondsTillShutdown", "UInt32", "BaseDataVariableType"),
    (f"{_STATUS}_ShutdownReason", "LocalizedText", "BaseDataVariableType"),
)


@dataclass(frozen=True)
class Limits:
    """What the server says about itself under Server.ServerCapabilities.

    Attributes:
      operations: most nodes or items in one request.
      sessions, subscriptions, monitored_items: at a time.
      history_values: in one answer of HistoryRead.
      sample_interval_ms: shortest publishing interval.
    """

    operations: int
    sessions: int
    subscriptions: int
    history_values: int
    sample_interval_ms: float


def fill(service: NodeManagementService, limits: Limits) -> None:
    """Add the nodes to an empty address space.

    Raises:
      ua.UaError: the address space refused one.
    """
    # Without asyncua's check, which would refuse the root because it has no parent.
    for refused in service.try_add_nodes(list(_items(limits)), check=False):
        raise ua.UaError(f"the address space refused {refused.BrowseName.Name}")


def _items(limits: Limits) -> Iterator[ua.AddNodesItem]:
    # A type definition must be there before its instances; they point at each other only upwards.
    yield _item("RootFolder", "", "", ua.NodeClass.Object, _object())
    for parent, name in _pairs(_FOLDERS):
        yield _item(name, parent, "Organizes", ua.NodeClass.Object, _object())
    for tree, node_class in (
        (_REFERENCE_TYPES, ua.NodeClass.ReferenceType),
        (_OBJECT_TYPES, ua.NodeClass.ObjectType),
        (_VARIABLE_TYPES, ua.NodeClass.VariableType),
        (_DATA_TYPES, ua.NodeClass.DataType),
    ):
        for parent, name in _pairs(tree):
            reference = "Organizes" if parent.endswith("Folder") else "HasSubtype"
            yield _item(name, parent, reference, node_class, _type(name, node_class))
    for name, definition in _OBJECTS:
        reference = "Organizes" if name == "Server" else "HasComponent"
        parent = _PARENTS.get(name, name.rpartition("_")[0])
        attributes = _object(1 if name == "Server" else 0)  # events could be subscribed to
        yield _item(name, parent, reference, ua.NodeClass.Object, attributes, definition)
    for name, data_type, definition in _COMPONENTS:
        variable, parent = _variable(data_type, None), name.rpartition("_")[0]
        yield _item(name, parent, "HasComponent", ua.NodeClass.Variable, variable, definition)
    for name, data_type, value in _properties(limits):
        variable, parent = _variable(data_type, value), name.rpartition("_")[0]
        yield _item(name, parent, "HasProperty", ua.NodeClass.Variable, variable, "PropertyType")


def _properties(limits: Limits) -> Iterator[tuple[str, str, object]]:
    """Name, data type and value of every property."""
    yield "Server_ServerArray", "String", []
    yield "Server_NamespaceArray", "String", []
    yield "Server_ServiceLevel", "Byte", 255
    yield "Server_Auditing", "Boolean", False
    yield "Server_ServerDiagnostics_EnabledFlag", "Boolean", False
    yield "Server_ServerRedundancy_RedundancySupport", "RedundancySupport", 0
    yield f"{_CAPABILITIES}_ServerProfileArray", "String", []
    yield f"{_CAPABILITIES}_LocaleIdArray", "LocaleId", ["en"]
    yield f"{_CAPABILITIES}_MinSupportedSampleRate", "Duration", limits.sample_interval_ms
    yield f"{_CAPABILITIES}_MaxBrowseContinuationPoints", "UInt16", 0
    yield f"{_CAPABILITIES}_MaxQueryContinuationPoints", "UInt16", 0
    yield f"{_CAPABILITIES}_MaxHistoryContinuationPoints", "UInt16", 0xFFFF
    yield f"{_CAPABILITIES}_SoftwareCertificates", "SignedSoftwareCertificate", []
    yield f"{_CAPABILITIES}_MaxSessions", "UInt32", limits.sessions
    yield f"{_CAPABILITIES}_MaxSubscriptions", "UInt32", limits.subscriptions
    for operation in (
        *("Read", "HistoryReadData", "HistoryReadEvents", "Write", "HistoryUpdateData"),
        *("HistoryUpdateEvents", "MethodCall", "Browse", "RegisterNodes"),
        *("TranslateBrowsePathsToNodeIds", "NodeManagement"),
    ):
        yield f"{_LIMITS}_MaxNodesPer{operation}", "UInt32", limits.operations
    yield f"{_LIMITS}_MaxMonitoredItemsPerCall", "UInt32", limits.operations
    yield f"{_HISTORY}_AccessHistoryDataCapability", "Boolean", True
    yield f"{_HISTORY}_MaxReturnDataValues", "UInt32", limits.history_values
    yield f"{_HISTORY}_ServerTimestampSupported", "Boolean", False
    for never in (
        *("AccessHistoryEvents", "InsertData", "ReplaceData", "UpdateData", "DeleteRaw"),
        *("DeleteAtTime", "InsertEvent", "ReplaceEvent", "UpdateEvent", "DeleteEvent"),
        "InsertAnnotation",
    ):
        yield f"{_HISTORY}_{never}Capability", "Boolean", False


def _pairs(tree: Tree) -> Iterator[tuple[str, str]]:
    return ((parent, name) for parent, names in tree.items() for name in names)


def node_id(name: str) -> ua.NodeId:
    """The NodeId of a node of the standard, by its name; null for no name."""
    return ua.NodeId(getattr(ObjectIds, name)) if name else ua.NodeId()


def _item(
    name: str,
    parent: str,
    reference: str,
    node_class: ua.NodeClass,
    attributes: object,
    definition: str = "",
) -> ua.AddNodesItem:
    browse_name = name.removesuffix("Folder") if node_class == ua.NodeClass.Object else name
    browse_name = browse_name.rpartition("_")[2]
    item = ua.AddNodesItem()
    item.RequestedNewNodeId = node_id(name)
    item.ParentNodeId = node_id(parent)
    item.ReferenceTypeId = node_id(reference)
    item.BrowseName = ua.QualifiedName(browse_name)
    item.NodeClass = node_class
    item.NodeAttributes = attributes
    item.NodeAttributes.DisplayName = ua.LocalizedText(browse_name)
    item.TypeDefinition = node_id(definition)
    return item


def _object(event_notifier: int = 0) -> ua.ObjectAttributes:
    attributes = ua.ObjectAttributes()
    attributes.EventNotifier = event_notifier
    return attributes


def _type(name: str, node_class: ua.NodeClass) -> object:
    """Attributes of a type; data types of variable types are not given."""
    is_abstract = name in _ABSTRACT
    if node_class == ua.NodeClass.ReferenceType:
        reference = ua.ReferenceTypeAttributes(IsAbstract=is_abstract)
        reference.Symmetric = name in ("References", "NonHierarchicalReferences")
        reference.InverseName = ua.LocalizedText(_INVERSE_NAMES.get(name))
        return reference
    if node_class == ua.NodeClass.VariableType:
        return ua.VariableTypeAttributes(IsAbstract=is_abstract)
    if node_class == ua.NodeClass.DataType:
        return ua.DataTypeAttributes(IsAbstract=is_abstract)
    return ua.ObjectTypeAttributes(IsAbstract=is_abstract)


_VARIANTS: Final = {
    "LocaleId": ua.VariantType.String,
    "Duration": ua.VariantType.Double,
    "UtcTime": ua.VariantType.DateTime,
    "RedundancySupport": ua.VariantType.Int32,
    "ServerState": ua.VariantType.Int32,
    "SignedSoftwareCertificate": ua.VariantType.ExtensionObject,
}
"""How values of types that are none of the built-in ones are encoded."""


def _variable(data_type: str, value: object) -> ua.VariableAttributes:
    attributes = ua.VariableAttributes()
    attributes.DataType = node_id(data_type)
    attributes.ValueRank = 1 if isinstance(value, list) else -1
    attributes.AccessLevel = attributes.UserAccessLevel = 1  # CurrentRead
    if value is None:
        attributes.Value = ua.Variant(None, ua.VariantType.Null)
    else:
        variant = _VARIANTS.get(data_type) or ua.VariantType[data_type]
        attributes.Value = ua.Variant(value, variant)
    return attributes

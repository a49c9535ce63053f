"""A walk over a server's address space, within bounds.

Breadth first, so that what a bound cuts off is what lies deepest; each node is entered once,
however many ways lead to it (OPC UA's hierarchies are graphs, with cycles).  Reads and browses
only.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final

from asyncua import ua
from asyncua.client.ua_session import UaSession

from agent.browse.facts import read_facts
from agent.browse.found import Bounds, Facts, Node, Walk
from agent.sensors.opcua.resolving import batches, check_count, read_values
from agent.sensors.opcua.settings import UA_NAMESPACE, path_segments

ANY_NAMESPACE: Final = "*"
_REFERENCES: Final = 500
"""Asked for in one answer; the rest comes with continuation points."""
_BROWSE_BATCH: Final = 50
_PROPERTY: Final = ua.NodeId(ua.Int32(ua.ObjectIds.HasProperty))
_SERVER: Final = ua.NodeId(ua.Int32(ua.ObjectIds.Server))
_CLASSES: Final = ua.NodeClass.Object | ua.NodeClass.Variable
_ALL: Final = 63
_DEEPER: Final = "not entered: --depth"


class PathError(Exception):
    """Nothing has the path that a person gave, or it is none."""


class _Walker:
    """One walk: its session, its bounds and what it has found."""

    def __init__(self, session: UaSession, bounds: Bounds, walk: Walk) -> None:
        self._session, self._bounds, self.walk = session, bounds, walk
        self._end_s = time.monotonic() + bounds.seconds
        self._entered: set[ua.NodeId] = set()
        self.units: dict[int, ua.NodeId] = {}
        """EngineeringUnits properties by the place of their variable."""

    def is_over(self) -> bool:
        """Whether the time is up; says so in the walk."""
        if time.monotonic() < self._end_s:
            return False
        self.walk.cut = f"stopped after {self._bounds.seconds:g} s: --seconds, or begin at a --path"
        return True

    async def run(self, root: Node) -> None:
        """Find everything below a node."""
        self.walk.nodes.append(root)
        self._entered.add(root.node_id)
        level = [0]
        while level and not self.is_over():
            below: list[int] = []
            for some in batches(level, _BROWSE_BATCH):
                if self.is_over():
                    break
                await self._enter(some, below)
                if len(self.walk.nodes) >= self._bounds.nodes:
                    reason = f"stopped after {self._bounds.nodes} nodes: --nodes, or begin at a "
                    self.walk.cut = f"{reason}--path"
                    return
            level = below

    async def _enter(self, places: Sequence[int], below: list[int]) -> None:
        nodes = self.walk.nodes
        answers = await references_of(
            self._session, [nodes[at].node_id for at in places], self._bounds.nodes
        )
        for at, references in zip(places, answers, strict=True):
            for reference in references:
                self._take(at, reference, below)

    def _take(self, parent: int, reference: ua.ReferenceDescription, below: list[int]) -> None:
        node_id = local_id(reference.NodeId, self.walk.namespaces)
        if node_id is None:
            return
        name = str(reference.BrowseName.Name or "")
        if reference.ReferenceTypeId == _PROPERTY:
            if name == "EngineeringUnits":
                self.units[parent] = node_id
            return
        nodes, bounds = self.walk.nodes, self._bounds
        if nodes[parent].depth >= bounds.depth:  # entered for its properties alone
            nodes[parent].note = _DEEPER
            return
        if len(nodes) >= bounds.nodes:
            return
        is_variable = reference.NodeClass == ua.NodeClass.Variable
        node = Node(node_id, name, nodes[parent].depth + 1, parent)
        place = len(nodes)
        nodes.append(node)
        nodes[parent].children.append(place)
        if node_id in self._entered:
            node.note = "see above"
            return
        self._entered.add(node_id)
        node.facts = Facts() if is_variable else None
        if node_id == _SERVER:
            node.note = "the server about itself: --path /Objects/Server"
        elif node.depth >= bounds.depth:
            # A variable's properties are looked at all the same: its unit is one of them.
            node.note = "" if is_variable else _DEEPER
            below.extend([place] if is_variable else [])
        else:
            below.append(place)


async def walk(session: UaSession, path: str, bounds: Bounds) -> Walk:
    """Find objects and variables below a browse path, and what variables are.

    Args:
      session: activated.
      path: from the root, such as `/Objects/Line1`; names are of any namespace unless they say one:
        `/Objects/{urn:vendor}Line1`.
      bounds: how far.

    Raises:
      PathError: nothing has this path, or it is none.
      ua.UaError, OSError: what the server or the network did.
    """
    found = Walk(await namespaces_of(session))
    root = await _begin(session, path, found.namespaces)
    walker = _Walker(session, bounds, found)
    await walker.run(root)
    await read_facts(session, found, walker.units, walker.is_over)
    return found


async def namespaces_of(session: UaSession) -> list[str]:
    """The server's NamespaceArray."""
    node_id = ua.NodeId(ua.Int32(ua.ObjectIds.Server_NamespaceArray))
    (answer,) = await read_values(session, [node_id], 1)
    value = answer.Value.Value if answer.Value is not None else None
    return [str(each) for each in value] if isinstance(value, list) else [UA_NAMESPACE]


async def _begin(session: UaSession, path: str, namespaces: list[str]) -> Node:
    node = Node(ua.NodeId(ua.Int32(ua.ObjectIds.RootFolder)), "Root", 0, -1)
    try:
        segments = path_segments(path, ANY_NAMESPACE)
    except ValueError as error:
        raise PathError(str(error)) from None
    for uri, name in segments:
        (references,) = await references_of(session, [node.node_id], 100_000)
        for reference in references:
            node_id = local_id(reference.NodeId, namespaces)
            browse_name = reference.BrowseName
            index = int(browse_name.NamespaceIndex)
            is_of = uri == ANY_NAMESPACE or namespaces[index : index + 1] == [uri]
            if node_id is not None and is_of and browse_name.Name == name:
                facts = Facts() if reference.NodeClass == ua.NodeClass.Variable else None
                node = Node(node_id, name, 0, -1, facts)
                break
        else:
            names = sorted({str(each.BrowseName.Name) for each in references})
            raise PathError(f"{path!r}: {node.name} has no {name!r}; it has {names[:30]}")
    return node


async def references_of(
    session: UaSession, node_ids: Sequence[ua.NodeId], most: int
) -> list[list[ua.ReferenceDescription]]:
    """What each node refers to downwards: objects and variables, `most` of each."""
    try:
        results = await session.browse(_question(node_ids))
        check_count(results, node_ids)
    except ua.UaStatusCodeError as error:
        if error.code != ua.StatusCodes.BadTooManyOperations or len(node_ids) == 1:
            raise
        return [(await references_of(session, [each], most))[0] for each in node_ids]
    found: list[list[ua.ReferenceDescription]] = []
    for result in results:
        references = list(result.References or ())
        point = result.ContinuationPoint
        while point:
            is_enough = len(references) >= most
            parameters = ua.BrowseNextParameters()
            parameters.ContinuationPoints = [point]
            parameters.ReleaseContinuationPoints = is_enough
            answers = await session.browse_next(parameters)
            if is_enough or not answers:
                break
            references += answers[0].References or ()
            point = answers[0].ContinuationPoint
        found.append(references)
    return found


def _question(node_ids: Iterable[ua.NodeId]) -> ua.BrowseParameters:
    return ua.BrowseParameters(
        RequestedMaxReferencesPerNode=ua.UInt32(_REFERENCES),
        NodesToBrowse=[
            ua.BrowseDescription(
                NodeId=each,
                BrowseDirection=ua.BrowseDirection.Forward,
                ReferenceTypeId=ua.NodeId(ua.Int32(ua.ObjectIds.HierarchicalReferences)),
                IncludeSubtypes=True,
                NodeClassMask=ua.UInt32(int(_CLASSES)),
                ResultMask=ua.UInt32(_ALL),
            )
            for each in node_ids
        ],
    )


def local_id(node_id: ua.ExpandedNodeId, namespaces: Sequence[str]) -> ua.NodeId | None:
    """A node of this server; None for one of another."""
    if getattr(node_id, "ServerIndex", 0):
        return None
    index = int(node_id.NamespaceIndex)
    uri = getattr(node_id, "NamespaceUri", None)
    if uri:
        if uri not in namespaces:
            return None
        index = list(namespaces).index(uri)
    return ua.NodeId(node_id.Identifier, ua.Int16(index), node_id.NodeIdType)

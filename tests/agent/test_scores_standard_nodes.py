"""The few nodes of OPC UA's own address space are what the standard's node set says they are."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from asyncua import ua
from asyncua.server.internal_server import InternalServer

from agent.serve.guarded import LIMITS
from agent.serve.standard_nodes import fill

NODE_SET = "tests/node_opcua/node_modules/node-opcua-nodesets/nodesets/Opc.Ua.NodeSet2.xml"
XMLNS = "{http://opcfoundation.org/UA/2011/03/UANodeSet.xsd}"
Shown = dict[str, object]
Reference = tuple[str, str, str]
"""Source, reference type and target, in the direction of the type."""


class NodeSet:
    """The node set that the OPC Foundation publishes, as node-opcua brings it."""

    def __init__(self, path: Path) -> None:
        root = ET.parse(path).getroot()
        self._alias = {
            each.get("Alias", ""): each.text or "" for each in root.iter(f"{XMLNS}Alias")
        }
        self.nodes = {each.get("NodeId", ""): each for each in root if each.get("NodeId")}
        self.references = {
            reference
            for name, node in self.nodes.items()
            for reference in self._references(name, node)
        }

    def _references(self, name: str, node: ET.Element) -> set[Reference]:
        found = set()
        for each in node.iter(f"{XMLNS}Reference"):
            kind = self._named(each.get("ReferenceType", ""))
            ends = (name, self._named(each.text or ""))
            source, target = ends if each.get("IsForward") != "false" else reversed(ends)
            found.add((source, kind, target))
        return found

    def _named(self, text: str) -> str:
        return self._alias.get(text, text)

    def shown(self, name: str) -> Shown:
        node = self.nodes[name]
        kind = node.tag.removeprefix(f"{XMLNS}UA")
        found: Shown = {
            "NodeClass": kind,
            "BrowseName": node.get("BrowseName"),
            "DisplayName": node.findtext(f"{XMLNS}DisplayName"),
        }
        if kind == "Variable":
            found["DataType"] = self._named(node.get("DataType", "i=24"))
            found["ValueRank"] = int(node.get("ValueRank", "-1"))
        if kind.endswith("Type"):
            found["IsAbstract"] = node.get("IsAbstract") == "true"
        if kind == "ReferenceType":
            found["Symmetric"] = node.get("Symmetric") == "true"
            found["InverseName"] = node.findtext(f"{XMLNS}InverseName")
        if kind == "Object":
            found["EventNotifier"] = int(node.get("EventNotifier", "0"))
        return found


@pytest.fixture(scope="module")
def standard(repository: Path) -> NodeSet:
    path = repository / NODE_SET
    if not path.is_file():
        pytest.skip("node-opcua is not installed: run tests/install.sh .venv/bin/python")
    return NodeSet(path)


@pytest.fixture(scope="module")
def small() -> InternalServer:
    server = InternalServer()
    fill(server.node_mgt_service, LIMITS)
    return server


def _names(server: InternalServer) -> list[str]:
    return [node.to_string() for node in server.aspace.keys()]  # noqa: SIM118  it is no mapping


def _shown(server: InternalServer, name: str, keys: list[str]) -> Shown:
    found: Shown = {}
    for key in keys:
        attribute = ua.AttributeIds[key]
        shown = server.read_attribute_value(ua.NodeId.from_string(name), attribute).Value
        value = shown.Value if shown is not None else None
        if key == "NodeClass":
            value = ua.NodeClass(value or 0).name
        elif isinstance(value, ua.LocalizedText):
            value = value.Text
        elif isinstance(value, ua.QualifiedName):
            value = value.Name
        elif isinstance(value, ua.NodeId):
            value = value.to_string()
        found[key] = value
    return found


def _references(server: InternalServer) -> set[Reference]:
    found = set()
    for node in server.aspace.keys():  # noqa: SIM118
        for each in server.aspace[node].references:
            ends = (node.to_string(), each.NodeId.to_string())
            source, target = ends if each.IsForward else reversed(ends)
            found.add((source, each.ReferenceTypeId.to_string(), target))
    return found


def test_every_node_has_the_attributes_that_the_standard_gives_it(
    standard: NodeSet, small: InternalServer
) -> None:
    names = _names(small)
    assert len(names) > 100
    expected = {name: standard.shown(name) for name in names}
    assert {name: _shown(small, name, list(expected[name])) for name in names} == expected


def test_every_reference_is_one_of_the_standard(standard: NodeSet, small: InternalServer) -> None:
    assert _references(small) - standard.references == set()


def test_every_type_that_is_used_is_there(small: InternalServer) -> None:
    names = set(_names(small))
    assert {end for reference in _references(small) for end in reference} <= names
    used = {_shown(small, name, ["DataType"])["DataType"] for name in names}
    assert used - {None, "i=0"} <= names

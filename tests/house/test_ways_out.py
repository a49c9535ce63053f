"""Nothing leaves a gateway uncounted: every way to a socket is in this table, and says who counts.

Whoever adds one adds a line here, and counts what goes out by it in `agent/egress`, or says why it
does not leave the site.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from asyncua.server import binary_server_asyncio, uaprocessor
from paho.mqtt import client as paho_client

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = frozenset(
    "socket ssl http.client http.server socketserver urllib.request ftplib smtplib poplib imaplib "
    "xmlrpc telnetlib requests httpx aiohttp websockets urllib3 uvicorn starlette paho asyncua "
    "pymodbus serial subprocess multiprocessing ctypes _socket dbus cffi".split()
)
CALLS = frozenset(
    "open_connection open_unix_connection create_connection create_unix_connection start_server "
    "start_unix_server create_server create_unix_server create_datagram_endpoint sock_connect "
    "sock_sendall sock_sendto create_subprocess_exec create_subprocess_shell system popen "
    "fork forkpty posix_spawn __import__ import_module".split()
)
COUNTED, IN_THE_SITE, STAYS = "counted", "to machines of the site", "stays on the gateway"
WAYS = {
    "wire/mqtt.py": ("paho socket ssl", COUNTED),
    "wire/handed_over.py": ("socket", "only asks the kernel"),
    "wire/notify.py": ("socket", f"{STAYS}: systemd"),
    "wire/logs.py": ("socket", f"{STAYS}: the journal"),
    "wire/serial_ports.py": ("serial", IN_THE_SITE),
    "agent/small_server.py": ("socket http.server socketserver", COUNTED),
    "agent/health/": ("http.server", "answers by agent/small_server.py"),
    "agent/labels/": ("http.server", "answers by agent/small_server.py"),
    "agent/egress/enrolment.py": ("http.client", COUNTED),
    "agent/enrol_online.py": ("http.client", "errors and the connection above"),
    "agent/serve/": ("asyncua", COUNTED),
    "agent/sensors/opcua/own_certificate.py": ("socket", "only the machine's name"),
    "agent/sensors/opcua/": ("asyncua", IN_THE_SITE),
    "agent/sensors/modbus/": ("pymodbus serial open_connection", IN_THE_SITE),
    "agent/sensors/lines/port.py": ("serial", IN_THE_SITE),
    "agent/sensors/firmware/client.py": ("open_unix_connection", IN_THE_SITE),
    "agent/browse": ("asyncua", f"{IN_THE_SITE}, by a person"),
    "agent/live/words.py": ("asyncua", "names of status codes"),
    "agent/doctor/reach.py": ("socket open_connection", "by a person: connects, sends nothing"),
    "agent/doctor/clock.py": ("subprocess", f"{STAYS}: asks for the clock"),
    "agent/learning/": ("ctypes create_subprocess_exec", f"{STAYS}: the training process"),
}
"""Begin of a path: libraries and calls, and what becomes of what they send."""
MODULES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("agent", "wire")
    for path in (ROOT / folder).rglob("*.py")
)


def tree_of(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def ways_of(tree: ast.Module) -> Iterator[str]:
    """Libraries that a module imports, and calls that it makes, that may open a way out."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in CALLS:
                yield name
        for name in names:
            yield from (
                known for known in LIBRARIES if name == known or name.startswith(f"{known}.")
            )


def allowed(name: str) -> set[str]:
    return {
        way for begin, (ways, _) in WAYS.items() if name.startswith(begin) for way in ways.split()
    }


def test_every_way_out_of_agent_and_wire_is_in_the_table() -> None:
    extra = {name: more for name in MODULES if (more := {*ways_of(tree_of(name))} - allowed(name))}
    assert not extra


@pytest.mark.parametrize("begin", WAYS)
def test_no_line_of_the_table_is_stale(begin: str) -> None:
    found = {way for name in MODULES if name.startswith(begin) for way in ways_of(tree_of(name))}
    assert {*WAYS[begin][0].split()} <= found


def calls_of(name: str, function: str) -> list[ast.Call]:
    """Calls of a function by its bare name."""
    return [
        node
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function
    ]


def imports(name: str, module: str, what: str) -> bool:
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == module
        and what in [each.name for each in node.names]
        for node in ast.walk(tree_of(name))
    )


def test_every_connection_of_the_agent_to_a_broker_has_a_meter() -> None:
    """But that of `doctor`, which a person starts: it says hello and goodbye."""
    users = [name for name in MODULES if imports(name, "wire.mqtt", "connect")]
    assert users == ["agent/connection.py", "agent/doctor/reach.py", "agent/serve/mqtt.py"]
    for name in ("agent/connection.py", "agent/serve/mqtt.py"):
        (call,) = calls_of(name, "connect")
        assert len(call.args) == 4
    assert not [name for name in MODULES if "import wire.mqtt" in (ROOT / name).read_text()]


def test_every_server_of_the_agent_counts() -> None:
    users = [name for name in MODULES if imports(name, "agent.small_server", "SmallServer")]
    assert users == ["agent/health/server.py", "agent/labels/form.py"]
    for name in users:
        (call,) = calls_of(name, "SmallServer")
        assert len(call.args) == 3
    assert "ThreadingHTTPServer" not in "".join(
        (ROOT / name).read_text() for name in MODULES if name != "agent/small_server.py"
    )
    source = (ROOT / "agent/serve/opcua_server.py").read_text()
    assert source.count("GuardedServer(") == source.count("CountedTransports(") == 1


def test_only_the_metered_client_of_mqtt_is_made() -> None:
    made = [
        node
        for name in MODULES
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func) in ("paho.Client", "mqtt.Client", "client.Client")
    ]
    assert not made
    assert len(calls_of("wire/mqtt.py", "_MeteredClient")) == 1


def test_the_libraries_hand_bytes_to_a_socket_where_they_are_counted_and_nowhere_else() -> None:
    """Another version of paho or asyncua may do that elsewhere: look before changing this."""
    sends = r"\.(send|sendall|sendto|sendmsg|write|writelines)\("
    client = inspect.getsource(paho_client.Client)
    found = re.findall(rf"\S*sock\w*{sends}", client)
    assert len(found) == 1
    assert re.search(rf"_sock{sends}", inspect.getsource(paho_client.Client._sock_send))
    server = inspect.getsource(uaprocessor) + inspect.getsource(binary_server_asyncio)
    assert {*re.findall(rf"(\S+){sends}", server)} == {("self._transport", "write")}
    assert "asyncio_transports.append(transport)" in server

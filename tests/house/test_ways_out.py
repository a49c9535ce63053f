"""Nothing leaves a gateway uncounted: every way to a socket is in this table, and says who counts.

Whoever adds one adds a line here, and counts what goes out by it in `agent/egress`, or says why it
does not leave the site.
"""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest
from asyncua.server import binary_server_asyncio, uaprocessor
from paho.mqtt import client as paho_client

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = re.compile(
    r"(socket|_socket|ssl|http\.client|http\.server|socketserver|urllib\.request|ftplib|smtplib"
    r"|poplib|imaplib|xmlrpc|telnetlib|requests|httpx|aiohttp|websockets|urllib3|uvicorn|starlette"
    r"|paho|asyncua|pymodbus|serial|subprocess|multiprocessing|ctypes|cffi|dbus)(\.|$)"
)
CALL = re.compile(
    r"open_(unix_)?connection|create_(unix_)?(connection|server)|start_(unix_)?server"
    r"|create_datagram_endpoint|sock_(connect|sendall|sendto)|create_subprocess_(exec|shell)"
    r"|system|popen|fork|forkpty|posix_spawn|__import__|import_module"
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
    "agent/doctor/machine.py": ("import_module", f"{STAYS}: this program's own backends"),
    "agent/devices/exporting.py": ("create_subprocess_exec", f"{STAYS}: converts a model"),
    "agent/sensors/images/decode.py": ("import_module", f"{STAYS}: reads files"),
    "agent/sensors/opcua/slim.py": ("import_module", f"{STAYS}: asyncua, in parts"),
    "agent/sensors/replay/parquet_rows.py": ("import_module", f"{STAYS}: reads files"),
    "wire/bfv_keys.py": ("import_module", f"{STAYS}: computes"),
    "agent/doctor/clock.py": ("subprocess", f"{STAYS}: asks for the clock"),
    "agent/learning/": (
        "ctypes create_subprocess_exec import_module",
        f"{STAYS}: the training process",
    ),
}
"""Begin of a path: libraries and calls, and what becomes of what they send."""
MODULES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("agent", "wire")
    for path in (ROOT / folder).rglob("*.py")
)


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


@cache
def ways_of(name: str) -> frozenset[str]:
    """Libraries that a module imports, and calls that it makes, that may open a way out."""
    found: set[str] = set()
    for node in ast.walk(tree_of(name)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Call):
            called = node.func
            call = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            found |= {call} if CALL.fullmatch(call) else set()
        found |= {match[1] for each in names if (match := LIBRARY.match(each))}
    return frozenset(found)


def allowed(name: str) -> set[str]:
    return {
        way for begin, (ways, _) in WAYS.items() if name.startswith(begin) for way in ways.split()
    }


def test_every_way_out_of_agent_and_wire_is_in_the_table() -> None:
    extra = {name: more for name in MODULES if (more := ways_of(name) - allowed(name))}
    assert not extra


@pytest.mark.parametrize("begin", WAYS)
def test_no_line_of_the_table_is_stale(begin: str) -> None:
    found = {way for name in MODULES if name.startswith(begin) for way in ways_of(name)}
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
    sends = r"\.(?:send|sendall|sendto|sendmsg|write|writelines)\("
    client = inspect.getsource(paho_client.Client)
    # `_sockpairW` wakes paho's own thread, which is not used.
    assert {*re.findall(rf"self\.(\w*sock\w*){sends}", client)} == {"_sock", "_sockpairW"}
    assert len(re.findall(rf"self\._sock{sends}", client)) == 1
    metered = client.partition("def _sock_send(")[2].partition("    def ")[0]
    assert "self._sock.send(buf)" in metered
    server = inspect.getsource(uaprocessor) + inspect.getsource(binary_server_asyncio)
    assert {*re.findall(rf"(\S+){sends}", server)} == {
        "self._transport",
        "self.session",
    }  # of which only the first writes bytes
    assert "asyncio_transports.append(transport)" in server

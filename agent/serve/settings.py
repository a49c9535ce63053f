"""The `[scores]` table: where what the model says can be read.

`agent/serve/README.md` explains every key, `agent/serve/sample.toml` shows them.  Without a table
nothing is published, served or written.  Pure.
"""

import ipaddress
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from agent.sensors.opcua.settings import OpcUaSettings, node_problem
from wire.mqtt import BrokerSettings
from wire.settings import Settings

Text = Annotated[str, msgspec.Meta(max_length=1000)]
Topic = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
PolicyName = Literal["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"]
FieldName = Literal["score", "decision", "alarm", "count"]
DEFAULT_PORT: Final = 4840
_SITE, _AGENT = "{site}", "{agent}"


class MqttSettings(BrokerSettings, frozen=True, kw_only=True):
    """`[scores.mqtt]`: a broker of the plant, by default not the federation's.

    Attributes:
      topic: of the scores; {site} and {agent} are replaced.
      availability_topic: of the agent's own state, retained, with a last will.
      client_id: must be unique at the broker; empty means `journeyman-{agent}`.
      retain: whether the broker keeps the last score for those who subscribe later.
    """

    topic: Topic = "journeyman/{site}/{agent}/score"
    availability_topic: Topic = "journeyman/{site}/{agent}/availability"
    client_id: Annotated[str, msgspec.Meta(max_length=200)] = ""
    retain: bool = False


class OpcUaServerSettings(Settings, frozen=True, kw_only=True):
    """`[scores.opcua]`: the agent as an OPC UA server.

    Attributes:
      listen: `opc.tcp://address:port`; anything but a loopback address asks for certificates.
      history: scores of each model that HistoryRead can give, in memory.
      policies: what is offered with certificates; mode is SignAndEncrypt.
      allow_insecure: offers SecurityPolicy None, to everybody who can connect, on any address.
    """

    listen: Text = "opc.tcp://127.0.0.1:4841"
    history: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 36_000
    policies: Annotated[tuple[PolicyName, ...], msgspec.Meta(min_length=1, max_length=3)] = (
        "Basic256Sha256",
        "Aes128Sha256RsaOaep",
        "Aes256Sha256RsaPss",
    )
    allow_insecure: bool = False

    @property
    def url(self) -> SplitResult:
        """The parts of `listen`."""
        return urlsplit(self.listen)

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return is_loopback(self.url.hostname or "")


class WriteBackSettings(Settings, frozen=True, kw_only=True):
    """One `[[scores.write_back]]`: one node of a machine's server that the agent writes.

    Attributes:
      enabled: nothing is written without it.
      endpoint: of an OPC UA source of this configuration; its security counts here too.
      namespace_uri: namespace of the node.
      node: identifier, `s=Score` or `i=1234`, without `ns=`.
      field: `score`; `decision` (its code; its words where the node is a String); `alarm`; `count`
        of scores since the agent started, for a watchdog.
      scale: the score is multiplied by it before it is written.
      model: only this model's scores; empty means any.
      retry_s: after a failure the newest value is tried again this late at the earliest.
    """

    enabled: bool = False
    endpoint: Text
    namespace_uri: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    node: Text
    field: FieldName = "score"
    scale: Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)] = 1.0
    model: Annotated[str, msgspec.Meta(max_length=200)] = ""
    retry_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 10.0


class ScoresTable(Settings, frozen=True, kw_only=True):
    """`[scores]`.

    Attributes:
      stale_after_s: without a new score for so long, the last one is marked as stale; 0: never.
      queue: scores that wait for an output that is slow or away; then the oldest are dropped.
      drivers: channels to name with an alarm, those that drove it the most, with their present
        values; predicted numbers have them too; 0: none.
      drivers_every_s: at most one score in so many seconds is explained, the newest.
      write_back: nodes of machines' servers that the agent writes.
    """

    stale_after_s: Annotated[float, msgspec.Meta(ge=0, le=864_000)] = 60.0
    queue: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    drivers: Annotated[int, msgspec.Meta(ge=0, le=20)] = 3
    drivers_every_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 1.0
    mqtt: MqttSettings | None = None
    opcua: OpcUaServerSettings | None = None
    write_back: Annotated[tuple[WriteBackSettings, ...], msgspec.Meta(max_length=100)] = ()


def problems(
    settings: ScoresTable, sources: Sequence[OpcUaSettings] = ()
) -> Iterator[tuple[str, str]]:
    """Yield (key, reason) for everything wrong with settings whose types are right.

    Args:
      settings: the table.
      sources: the configured OPC UA sources, whose servers are the only ones to write to.
    """
    endpoints = {source.endpoint for source in sources}
    if settings.mqtt is not None:
        for key, reason in _mqtt_problems(settings.mqtt):
            yield f"mqtt.{key}", reason
    if settings.opcua is not None:
        problem = _listen_problem(settings.opcua)
        if problem:
            yield "opcua.listen", problem
    seen: set[tuple[str, str, str]] = set()
    for at, target in enumerate(settings.write_back):
        for key, reason in _write_back_problems(target, endpoints):
            yield f"write_back[{at}].{key}", reason
        named = (target.endpoint, target.namespace_uri, target.node)
        if named in seen:
            yield f"write_back[{at}].node", "this node is listed twice"
        seen.add(named)


def filled(template: str, *, site: str, agent: str) -> str:
    """A topic with the names put in."""
    return template.replace(_SITE, site).replace(_AGENT, agent)


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone; names other than localhost are not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _mqtt_problems(settings: MqttSettings) -> Iterator[tuple[str, str]]:
    for key in ("topic", "availability_topic"):
        topic: str = getattr(settings, key)
        # MQTT 3.1.1, 4.7: wildcards are for subscribers; a leading $ belongs to the broker.
        if any(letter in topic for letter in "+#\0") or topic.startswith(("$", "/")):
            yield key, f"{topic!r} must not hold + or #, nor begin with $ or /"
    if settings.topic == settings.availability_topic:
        yield "availability_topic", "the same topic as that of the scores"
    if settings.key_file and not settings.cert_file:
        yield "key_file", "needs cert_file beside it"
    if settings.cert_file and not settings.ca_file:
        yield "cert_file", "needs ca_file beside it: without it there is no TLS"
    if settings.password_file and not settings.username:
        yield "password_file", "needs username beside it"


def _listen_problem(settings: OpcUaServerSettings) -> str:
    try:
        host, port = settings.url.hostname, settings.url.port
    except ValueError as error:
        return f"{settings.listen!r}: {error}"
    if settings.url.scheme != "opc.tcp" or not host or not port:
        return f"{settings.listen!r} is not an address such as 'opc.tcp://127.0.0.1:4841'"
    return ""


def _write_back_problems(
    target: WriteBackSettings, endpoints: Collection[str]
) -> Iterator[tuple[str, str]]:
    if target.endpoint not in endpoints:
        reason = f"{target.endpoint!r} is not the endpoint of a configured OPC UA source; those "
        yield "endpoint", reason + "are: " + (", ".join(sorted(endpoints)) or "none")
    problem = node_problem(target.node)
    if problem:
        yield "node", problem
    if target.scale == 0:
        yield "scale", "0 would write 0 whatever the score is"
    if target.scale != 1 and target.field != "score":
        yield "scale", f"has no effect on field = {target.field!r}"

"""asyncua's server, closed: it is read, and by nobody who is not allowed to.

What asyncua 2.1 does by itself, and what is done here instead:

  - It takes sessions on a channel without security even where only secured endpoints are offered,
    and judges the certificate that CreateSession shows, or none, instead of that of the channel.
    Here the certificate of the channel is judged when the session is activated.
  - Authentication tokens of sessions are successive numbers, and who names one takes the session
    over.  Here they are 32 random bytes.
  - A user named `admin` may change the address space, and anybody can register servers.  Here
    nobody writes, calls, adds or deletes.
  - A publishing interval of a microsecond is granted, as is history without limit.

Invariant: no request of a client changes a node.
"""

import secrets
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession

from agent.serve.history import ScoreHistory
from agent.serve.standard_nodes import Limits, fill

LIMITS: Final = Limits(
    operations=1000,
    sessions=20,
    subscriptions=50,
    history_values=10_000,
    sample_interval_ms=10.0,
)
_LONGEST_INTERVAL_MS: Final = 3_600_000.0
_KEPT_MESSAGES: Final = 100
_QUEUE_SIZE: Final = 1000
_PENDING_REQUESTS: Final = 100

Judge = Callable[[bytes | None], str]
"""Says why the certificate of a channel (DER; None without security) is refused; empty: it is
not."""


class GuardedServer(InternalServer):
    """The services of the server; built-in nodes are the few of `standard_nodes`.

    Args:
      judge: of the certificates of clients.
      history: what HistoryRead reads.
    """

    def __init__(self, judge: Judge, history: ScoreHistory) -> None:
        super().__init__()
        self.judge, self.history = judge, history
        self.allow_remote_admin = False
        self.disabled_clock = True  # the owner writes the time: asyncua's clock ends only by waking
        self.max_connections = LIMITS.sessions
        self.max_subscriptions = LIMITS.subscriptions
        self.max_unacked_messages_per_subscription = _KEPT_MESSAGES
        self.max_monitored_item_queue_size = _QUEUE_SIZE
        self.max_pending_messages_per_connection = _PENDING_REQUESTS

    async def load_standard_address_space(self, shelf_file: object = None) -> None:
        """Fill in what clients need of the standard's nodes."""
        del shelf_file
        fill(self.node_mgt_service, LIMITS)

    def create_session(
        self,
        name: str,
        user: User | None = None,
        external: bool = False,  # noqa: FBT001, FBT002
    ) -> "GuardedSession":
        """Make the session of a client."""
        del user, external  # the processor of a connection gives neither a user nor False
        return GuardedSession(self, name)

    def register_server(self, server: object, conf: object = None) -> NoReturn:
        """Refuse: this is no discovery server."""
        del server, conf
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)


class GuardedSession(InternalSession):
    """A session of a client, which reads."""

    iserver: GuardedServer

    def __init__(self, server: GuardedServer, name: str) -> None:
        super().__init__(server, server.aspace, server.subscription_service, name, external=True)
        server.unregister_external_session(self)
        self.auth_token = ua.NodeId(ua.ByteString(secrets.token_bytes(32)))
        server.register_external_session(self)

    def activate_session(
        self, params: ua.ActivateSessionParameters, peer_certificate: bytes | None
    ) -> ua.ActivateSessionResult:
        """Activate it for a client that is allowed to connect, whoever its user is.

        Raises:
          ServiceError: the channel's certificate is refused.
        """
        if self.iserver.judge(peer_certificate):
            raise ServiceError(ua.StatusCodes.BadSecurityChecksFailed)
        result = super().activate_session(params, peer_certificate)
        self.user = User(UserRole.User)
        return result

    async def create_subscription(
        self,
        params: ua.CreateSubscriptionParameters,
        callback: Callable[..., Any],
        request_callback: Callable[..., Any] | None = None,
    ) -> ua.CreateSubscriptionResult:
        """Create a subscription that publishes neither without pause nor never."""
        wanted = params.RequestedPublishingInterval
        if not wanted >= LIMITS.sample_interval_ms:  # NaN too
            wanted = LIMITS.sample_interval_ms
        params.RequestedPublishingInterval = min(wanted, _LONGEST_INTERVAL_MS)
        return await super().create_subscription(params, callback, request_callback)

    async def create_monitored_items(
        self, params: ua.CreateMonitoredItemsParameters
    ) -> list[ua.MonitoredItemCreateResult]:
        """Create items, not too many in one request."""
        if len(params.ItemsToCreate) > LIMITS.operations:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        return await super().create_monitored_items(params)

    async def history_read(self, params: ua.HistoryReadParameters) -> list[ua.HistoryReadResult]:
        """Read the history of scores."""
        if len(params.NodesToRead) > LIMITS.operations:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        return [
            self.iserver.history.read(node, params.HistoryReadDetails, LIMITS.history_values)
            for node in params.NodesToRead
        ]

    async def write(self, params: ua.WriteParameters) -> list[ua.StatusCode]:
        """Refuse every value."""
        return _refused(params.NodesToWrite, ua.StatusCodes.BadNotWritable)

    async def add_nodes(self, params: list[ua.AddNodesItem]) -> list[ua.AddNodesResult]:
        """Refuse."""
        refused = _refused(params, ua.StatusCodes.BadUserAccessDenied)
        return [ua.AddNodesResult(StatusCode=status) for status in refused]

    async def delete_nodes(self, params: ua.DeleteNodesParameters) -> list[ua.StatusCode]:
        """Refuse."""
        return _refused(params.NodesToDelete, ua.StatusCodes.BadUserAccessDenied)

    async def add_references(self, params: list[ua.AddReferencesItem]) -> list[ua.StatusCode]:
        """Refuse."""
        return _refused(params, ua.StatusCodes.BadUserAccessDenied)

    async def delete_references(self, params: list[ua.DeleteReferencesItem]) -> list[ua.StatusCode]:
        """Refuse."""
        return _refused(params, ua.StatusCodes.BadUserAccessDenied)

    async def call(self, params: list[ua.CallMethodRequest]) -> list[ua.CallMethodResult]:
        """Refuse: there are no methods."""
        refused = _refused(params, ua.StatusCodes.BadMethodInvalid)
        return [ua.CallMethodResult(StatusCode=status) for status in refused]


def _refused(items: Iterable[object], code: int) -> list[ua.StatusCode]:
    return [ua.StatusCode(ua.UInt32(code)) for _ in items]

"""Runs the page's server until SIGTERM: the edge of `journeyman-coordinator web`."""

import logging
import signal
from pathlib import Path

import uvicorn

from coordinator.config import CoordinatorSettings
from coordinator.reader import Reader, read_about
from coordinator.web.actions import Actions
from coordinator.web.app import create_app
from coordinator.web.settings import WebSettings, is_loopback, read_token, split_address
from coordinator.web.stream import EVERY_S
from wire.settings import resolve

logger = logging.getLogger(__name__)

_MAX_CONNECTIONS = 256
_MAX_HEADER_BYTES = 16 << 10
_GRACE_S = 3


def serve(
    config: Path, settings: CoordinatorSettings, web: WebSettings, database: Path, actions: Actions
) -> None:
    """Serve the page of one coordinator until SIGTERM or SIGINT.

    Args:
      config: the configuration file, which relative paths are relative to.
      settings: what it says.
      web: its `[web]` table.
      database: `coordinator.db`; need not be there yet.
      actions: what a caller with the token may do.

    Raises:
      SettingsError: charter, bundle or token file can not be used.
    """
    about = read_about(config, settings)
    token = read_token(resolve(config, web.token_file)) if web.token_file else ""
    host, _ = split_address(web.listen)
    reader = Reader(database, about, settings.gate)
    server = make_server(reader, actions, web, token)
    if not is_loopback(host):
        logger.warning(
            "the page listens on %s, so who can reach it can read it; it speaks plain HTTP: put a "
            "proxy with TLS and a login in front, or listen on 127.0.0.1",
            web.listen,
        )
    can = "shows, and acts for who has the token" if token else "only shows"
    logger.info("the page %s: http://%s/", can, web.listen)
    # uvicorn ends in peace on SIGTERM and then raises it again for whoever handled it before: the
    # default would kill the process, and a stop that went well would look like a crash.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run()
    finally:
        reader.close()


def make_server(
    reader: Reader, actions: Actions, web: WebSettings, token: str, every_s: float = EVERY_S
) -> uvicorn.Server:
    """The server, not yet running; port 0 takes a free one."""
    host, port = split_address(web.listen)
    servers: list[uvicorn.Server] = []
    app = create_app(
        reader,
        actions,
        token=token,
        hosts=(host, *web.hosts),
        is_stopping=lambda: servers[0].should_exit,
        every_s=every_s,
    )
    servers.append(
        uvicorn.Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                lifespan="off",
                ws="none",
                http="h11",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MAX_CONNECTIONS,
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
    )
    return servers[0]

"""The page's addresses, as an ASGI application.

    /             the page            /events    what changes, as server-sent events
    /view.json    a view, whole       /metrics   for Prometheus
    /healthz      200, or 503 when the database can not be read
    /act/...      `coordinator/web/actions.py`

All but the last only show, and take GET and HEAD.
"""

from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from coordinator.reader import Reader, ViewError
from coordinator.web.actions import Actions, Desk
from coordinator.web.guard import Guard
from coordinator.web.metrics import CONTENT_TYPE, metrics_text
from coordinator.web.page import html_of
from coordinator.web.stream import EVERY_S, MAX_STREAMS, Watch, events

_RETRY_S = "10"


def create_app(
    reader: Reader,
    actions: Actions,
    *,
    token: str = "",
    hosts: tuple[str, ...] = (),
    is_stopping: Callable[[], bool] = lambda: False,
    every_s: float = EVERY_S,
) -> Starlette:
    """The application.

    Args:
      reader: owner of the open database.
      actions: what a caller with the token may do.
      token: empty: nobody may act.
      hosts: names by which a browser may ask for the page.
      is_stopping: whether the server is about to end, so that streams end too.
      every_s: shortest time between two looks at the database.
    """
    shown = _Shown(Watch(reader, bool(token), every_s), is_stopping)
    static = Path(str(files("coordinator.web").joinpath("static")))
    return Starlette(
        routes=[
            Route("/", shown.page),
            Route("/events", shown.events),
            Route("/view.json", shown.view),
            Route("/metrics", shown.metrics),
            Route("/healthz", shown.health),
            *Desk(actions, token).routes(),
            Mount("/static", StaticFiles(directory=static)),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={ViewError: _unreadable},
    )


def _unreadable(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 503, {"retry-after": _RETRY_S})


class _Shown:
    """The handlers that only show."""

    def __init__(self, watch: Watch, is_stopping: Callable[[], bool]) -> None:
        self._watch, self._is_stopping = watch, is_stopping

    async def page(self, _: Request) -> Response:
        return Response(html_of(await self._watch.page()), media_type="text/html")

    async def view(self, _: Request) -> Response:
        data = msgspec.json.encode(await self._watch.latest())
        return Response(data, media_type="application/json")

    async def metrics(self, _: Request) -> Response:
        text = metrics_text(await self._watch.latest())
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def health(self, _: Request) -> Response:
        view = await self._watch.latest()
        return PlainTextResponse(f"ok, version {view.version}\n")

    async def events(self, _: Request) -> Response:
        if self._watch.streams >= MAX_STREAMS:
            text = f"{MAX_STREAMS} pages are open already\n"
            return PlainTextResponse(text, 503, {"retry-after": _RETRY_S})
        # A proxy that gathers an answer before it passes it on would stop the news.
        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(self._stream(), media_type="text/event-stream", headers=headers)

    async def _stream(self) -> AsyncIterator[bytes]:
        self._watch.streams += 1
        try:
            async for event in events(self._watch, self._is_stopping):
                yield event
        finally:
            self._watch.streams -= 1

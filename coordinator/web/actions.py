"""What the page may do, and who may do it: whoever has the operator's token, and nobody else.

    POST /act/training  {"training": "open" | "closed"}
    POST /act/agent     {"agent": "...", "order": "pause" | "resume"}
    POST /act/rollback  {"version": 25}

The token comes in the `Authorization` header, which no other site's page can set, so a forged
request fails (OWASP CSRF Prevention, "custom request headers").  It is compared in constant time.
Without a configured token every action is refused.  Actions do what the command line does, by the
same functions.
"""

import hmac
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wire.database import DamagedError, DiskError
from wire.errors import SettingsError, one_line
from wire.messages import Name

logger = logging.getLogger(__name__)

_MAX_BODY_BYTES: Final = 4096
_SCHEME: Final = "bearer "


@dataclass(frozen=True)
class Actions:
    """The command line's functions, for one configuration file.

    Attributes:
      set_training: opens or closes training.
      order: tells one agent to pause or resume.
      roll_back: asks for an earlier served version.
    """

    set_training: Callable[[str], None]
    order: Callable[[str, Literal["pause", "resume"]], object]
    roll_back: Callable[[int], None]


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `/act/training`."""

    training: Literal["open", "closed"]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `/act/agent`."""

    agent: Name
    order: Literal["pause", "resume"]


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `/act/rollback`."""

    version: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


Body = TypeVar("Body", Training, Order, Rollback)


@dataclass(frozen=True)
class Desk:
    """Takes orders.

    Attributes:
      token: what the caller has to know; empty: nobody may act.
    """

    actions: Actions
    token: str

    def routes(self) -> list[Route]:
        """Where orders are taken; POST only."""
        return [
            Route("/act/training", self._training, methods=["POST"]),
            Route("/act/agent", self._agent, methods=["POST"]),
            Route("/act/rollback", self._rollback, methods=["POST"]),
        ]

    async def _training(self, request: Request) -> Response:
        body = await self._body(request, Training)
        if isinstance(body, Response):
            return body
        what = f"training is {body.training}"
        return await _done(request, what, lambda: self.actions.set_training(body.training))

    async def _agent(self, request: Request) -> Response:
        body = await self._body(request, Order)
        if isinstance(body, Response):
            return body
        what = f"{body.agent} is told to {body.order}"
        return await _done(request, what, lambda: self.actions.order(body.agent, body.order))

    async def _rollback(self, request: Request) -> Response:
        body = await self._body(request, Rollback)
        if isinstance(body, Response):
            return body
        what = f"version {body.version} is asked for again"
        return await _done(request, what, lambda: self.actions.roll_back(body.version))

    async def _body(self, request: Request, kind: type[Body]) -> Body | Response:
        """What was asked for, or why not; nothing is read for who may not ask."""
        refusal = self._refusal(request)
        if refusal:
            logger.warning("refused %s to %s: %s", request.url.path, _peer(request), refusal)
            return _say(refusal, 403)
        data = b""
        try:
            async for part in request.stream():
                data += part
                if len(data) > _MAX_BODY_BYTES:
                    return _say(f"more than {_MAX_BODY_BYTES} bytes", 413)
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _say(one_line(str(error)), 400)
        except ClientDisconnect:
            return _say("hung up", 400)

    def _refusal(self, request: Request) -> str:
        if not self.token:
            return "this page only shows: no [web] token_file is configured"
        given = request.headers.get("authorization", "")
        if given[: len(_SCHEME)].lower() != _SCHEME:
            return "an action needs the operator's token"
        secret = given[len(_SCHEME) :].strip().encode()
        if not hmac.compare_digest(secret, self.token.encode()):
            return "this is not the operator's token"
        return ""


async def _done(request: Request, what: str, action: Callable[[], object]) -> Response:
    try:
        await run_in_threadpool(action)
    except SettingsError as error:
        return _say(one_line(str(error)), 409)
    except (DiskError, DamagedError, sqlite3.Error) as error:
        return _say(one_line(str(error)), 503)
    logger.warning("by the page, from %s: %s", _peer(request), what)
    return _say(what, 200)


def _say(text: str, status: int) -> Response:
    return JSONResponse({"said": text}, status)


def _peer(request: Request) -> str:
    return request.client.host if request.client else "somebody"

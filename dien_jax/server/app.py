"""The web application: routes, limits, the token, and how mistakes are told."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dien_jax.errors import UserError
from dien_jax.inference.requests import RankRequest
from dien_jax.server.batching import Batcher, QueueFullError
from dien_jax.server.current_model import Models, NotRememberedError
from dien_jax.server.messages import Failure, Limits, Status, as_ids, failure
from dien_jax.server.openapi import document, page
from dien_jax.server.prometheus import Figures

LOG = logging.getLogger("dien_jax.serve")
BODY_SECONDS = 10.0
"""What a client may take to send a body."""
_CLOSED = 499
"""How a request is counted whose client had gone; as other servers have it."""


class Application:
    """What the routes share.

    Args:
      models: the current model.
      batcher: that ranks with it.
      limits: of requests.
      figures: where it is counted.
      token: that requests must bear, if any.
      log_requests: whether each is a line of the log.

    Attributes:
      app: for an ASGI server.
      cut_off: requests that were ended before they had an answer.
    """

    def __init__(
        self,
        models: Models,
        batcher: Batcher,
        limits: Limits,
        figures: Figures,
        *,
        token: str | None = None,
        log_requests: bool = False,
    ) -> None:
        self._models, self._batcher, self._limits = models, batcher, limits
        self._figures, self._token, self._log_requests = figures, token, log_requests
        self.cut_off = 0
        handlers: dict[str, tuple[str, Any]] = {
            "/v1/rank": ("POST", self._rank),
            "/v1/remember": ("POST", self._remember),
            "/v1/observe": ("POST", self._observe),
            "/healthz": ("GET", self._health),
            "/readyz": ("GET", self._ready),
            "/metrics": ("GET", self._metrics),
            "/openapi.json": ("GET", self._openapi),
            "/docs": ("GET", self._page),
        }
        self._paths = frozenset(handlers)
        self._guarded = frozenset(path for path in handlers if path.startswith("/v1/"))
        self._guarded |= {"/metrics"}
        routes = [Route(path, call, methods=[verb]) for path, (verb, call) in handlers.items()]
        told: dict[Any, Any] = {HTTPException: _told, Exception: _broken}
        self.app: ASGIApp = self._watched(Starlette(routes=routes, exception_handlers=told))

    def _watched(self, app: ASGIApp) -> ASGIApp:
        """Checks the token, counts, logs, and answers for what went wrong."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return
            start, status = time.perf_counter(), 0

            async def sending(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            path = scope["path"] if scope["path"] in self._paths else "other"
            try:
                answer = app if self._allowed(scope) else _unauthorised()
                await answer(scope, receive, sending)
            except asyncio.CancelledError:
                self.cut_off += 1
                raise
            except Exception:
                LOG.exception("%s %s failed", scope["method"], path)
            finally:
                seconds = time.perf_counter() - start
                self._figures.requests.labels(path, str(status)).inc()
                self._figures.request_seconds.labels(path).observe(seconds)
                if self._log_requests:
                    line = {"method": scope["method"], "path": scope["path"], "status": status}
                    LOG.info(json.dumps(line | {"ms": round(1e3 * seconds, 2)}))

        return watched

    def _allowed(self, scope: Scope) -> bool:
        if self._token is None or scope["path"] not in self._guarded:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        same = hmac.compare_digest(token.strip(), self._token.encode())
        return same and kind.lower() == b"bearer"

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(415, f"expected application/json, found {kind[:60] or 'no type'}")
        found = bytearray()
        too_large = HTTPException(413, f"the body has more than {self._limits.body:,} bytes")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._limits.body:
            raise too_large
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    found += chunk
                    if len(found) > self._limits.body:
                        raise too_large
        except TimeoutError:
            raise HTTPException(408, f"no whole body after {BODY_SECONDS:.0f} s") from None
        return bytes(found)

    async def _answered(
        self, request: Request, kind: str, ask: Callable[[Any], Future]
    ) -> Response:
        """Reads a request, asks the batcher and waits for its answer, or tells what is wrong."""
        if not self._models.warm:
            return _failed(503, "not ready", headers={"Retry-After": "1"})
        try:
            body = await self._body(request)
            wanted = getattr(self._models.current.messages, kind).decode(body)
            return _json(await asyncio.wrap_future(ask(wanted)))
        except ClientDisconnect:
            return Response(status_code=_CLOSED)
        except msgspec.ValidationError as error:
            return _json(failure(error), 422)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _failed(400, f"the body is not JSON: {error}")
        except QueueFullError as error:
            return _failed(429, str(error), headers={"Retry-After": str(error.retry_after)})
        except NotRememberedError as error:
            return _failed(404, str(error), "user")
        except UserError as error:
            return _failed(422, str(error))

    async def _rank(self, request: Request) -> Response:
        def ask(wanted: Any) -> Future:
            context = msgspec.to_builtins(wanted.context) if wanted.context else {}
            history = None if wanted.history is None else as_ids(wanted.history)
            user = None if wanted.user is None else as_ids([wanted.user])[0]
            parts = RankRequest(history, as_ids(wanted.candidates), user, context)
            return self._batcher.rank(parts)

        return await self._answered(request, "rank", ask)

    async def _remember(self, request: Request) -> Response:
        def ask(wanted: Any) -> Future:
            (user,), history = as_ids([wanted.user]), as_ids(wanted.history)
            return self._batcher.call(lambda: self._models.remember(user, history))

        return await self._answered(request, "remember", ask)

    async def _observe(self, request: Request) -> Response:
        def ask(wanted: Any) -> Future:
            user, event = as_ids([wanted.user, wanted.event])
            return self._batcher.call(lambda: self._models.observe(user, event))

        return await self._answered(request, "observe", ask)

    def _status(self, good: bool, status: str) -> Response:
        step = self._models.current.ranker.step
        headers = None if good else {"Retry-After": "1"}
        return _json(Status(status, step), 200 if good else 503, headers)

    async def _health(self, request: Request) -> Response:
        alive = self._batcher.alive
        return self._status(alive, "ok" if alive else "the ranking thread has ended")

    async def _ready(self, request: Request) -> Response:
        return self._status(self._models.ready, "ready" if self._models.ready else "not ready")

    async def _metrics(self, request: Request) -> Response:
        return Response(self._figures.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self._document())

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(page(self._document()))

    def _document(self) -> dict[str, Any]:
        messages = self._models.current.messages
        return document(messages, self._limits, token=self._token is not None)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = msgspec.json.encode(value)
    return Response(content, status, headers, media_type="application/json")


def _failed(
    status: int, error: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    return _json(Failure(error, field), status, headers)


def _unauthorised() -> Response:
    return _failed(401, "a bearer token is needed", headers={"WWW-Authenticate": "Bearer"})


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _failed(error.status_code, error.detail, headers=error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    return _failed(500, "the server is at fault")

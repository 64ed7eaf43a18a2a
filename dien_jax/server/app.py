"""The web application: routes, limits, authentication and error responses."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from dien_jax.errors import UserError, encodable
from dien_jax.inference.bucketed_programs import RankRequest
from dien_jax.inference.ranker import NotRememberedError
from dien_jax.server.current_model import Batcher, CurrentModel, Metrics
from dien_jax.server.messages import (
    Failure,
    Status,
    arguments,
    document,
    page,
    utc_text,
    validation_failure,
)
from dien_jax.server.run import ServerOptions
from dien_jax.utils.console import say

LOG = logging.getLogger(__name__)
BODY_SECONDS = 10.0
"""Maximum time for a client to send a body."""


class Application:
    """The ASGI application of a server; ``cut_off`` counts requests that got no answer."""

    def __init__(
        self,
        options: ServerOptions,
        current: CurrentModel,
        batcher: Batcher,
        metrics: Metrics,
        token: str | None = None,
    ) -> None:
        self._options, self._current, self._batcher = options, current, batcher
        self._metrics, self._token, self.cut_off = metrics, token, 0
        post = partial(Route, methods=["POST"])
        routes = [
            post("/v1/rank", partial(self._post, "rank", None)),
            post("/v1/recommend", partial(self._post, "recommend", current.recommend)),
            *(
                post(f"/v1/{name}", partial(self._post, name, partial(current.change_user, name)))
                for name in ("remember", "observe")
            ),
            Route("/", lambda _: RedirectResponse("/docs")),
            Route("/healthz", self._status),
            Route("/readyz", self._status),
            Route("/metrics", lambda _: Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)),
            Route("/openapi.json", self._describe),
            Route("/docs", self._describe),
        ]
        self._paths = frozenset(route.path for route in routes)
        handlers: dict[Any, Any] = dict.fromkeys((HTTPException, Exception), _answer_error)
        self._routes = Starlette(routes=routes, exception_handlers=handlers)
        # A redirect from /metrics/ would go to the host in the client's headers.
        self._routes.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the token, route the request, record and log it."""
        if scope["type"] != "http":
            return
        start, status, error = time.perf_counter(), 0, ""

        async def send_and_record(message: Message) -> None:
            nonlocal status, error
            if message["type"] == "http.response.start":
                status = message["status"]
            elif status >= 400 and self._options.log_requests and message.get("body"):
                content = json.loads(message["body"])
                error = content.get("error") or content["status"]
            await send(message)

        path = scope["path"] if scope["path"] in self._paths else "other"
        try:
            response = self._routes if self._authorized(scope, path) else _UNAUTHORIZED
            if {name for name, _ in scope["headers"]} >= _LENGTHS:
                response = _TWO_LENGTHS
            # The path that was checked: a route's pattern would also match a newline after it.
            await response({**scope, "path": path}, receive, send_and_record)
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        except Exception:
            LOG.exception("%s %s failed", scope["method"], path)
        finally:
            seconds = time.perf_counter() - start
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.request_seconds.labels(path).observe(seconds)
            if self._options.log_requests:
                line = {"time": utc_text(time.time()), "method": scope["method"]}
                line |= {"path": scope["path"], "status": status, "ms": round(1e3 * seconds, 2)}
                say(json.dumps(line | ({"error": error} if error else {})))

    def _authorized(self, scope: Scope, path: str) -> bool:
        if self._token is None or not (path.startswith("/v1/") or path == "/metrics"):
            return True
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        same = hmac.compare_digest(token.strip(), self._token.encode())
        return same and scheme.lower() == b"bearer"

    async def _post(self, name: str, call: Callable | None, request: Request) -> Response:
        """Decode a request; the batcher's thread ranks it, or passes it to ``call``."""
        if not self._current.warm:
            raise HTTPException(503, f"not ready: {self._current.state}", {"Retry-After": "1"})
        try:
            body = await self._body(request)
            message = self._current.served.decoders[name].decode(body)
            fields = arguments(message)
            work = partial(call, fields) if call else RankRequest(**fields)
            return _json(await asyncio.wrap_future(self._batcher.submit(work)))
        except ClientDisconnect:
            return Response(status_code=499)  # the status that nginx uses
        except msgspec.ValidationError as error:
            return _json(validation_failure(error), 422)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _error(400, f"the body is not JSON: {error if body else 'it is empty'}")
        except NotRememberedError as error:
            return _error(404, str(error), "user")
        except UserError as error:
            return _error(422, str(error))

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(415, f"expected application/json, got {kind[:60] or 'no type'}")
        too_large = HTTPException(413, f"the body exceeds {self._options.max_body:,} bytes")
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise HTTPException(415, "compressed bodies are not accepted")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._options.max_body:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._options.max_body:
                        raise too_large
        except TimeoutError:
            raise HTTPException(408, f"no complete body after {BODY_SECONDS:.0f} s") from None
        return bytes(body)

    async def _status(self, request: Request) -> Response:
        ranker, version, _ = self._current.served
        if request.scope["path"] == "/healthz":
            good, error = self._batcher.alive, None
            word = "ok" if good else "the ranking thread has stopped"
        else:
            word, error = self._current.state, self._current.reload_error
            good = word == "ready"
        content = Status(word, version.model, utc_text(version.written), ranker.step, error)
        return _json(content) if good else _json(content, 503, {"Retry-After": "1"})

    async def _describe(self, request: Request) -> Response:
        served, token = self._current.served, self._token is not None
        # The description needs no token, so show real items only if nothing does.
        items = [] if token else [encodable(item) for item in served.ranker.vocabularies.items[1:5]]
        content = document(served.decoders, self._options, token=token, items=items)
        if request.scope["path"] == "/openapi.json":
            return _json(content)
        return HTMLResponse(page(content, request.scope["server"][1] or self._options.port))


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def _error(
    status: int, error: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    return _json(Failure(error, field), status, headers)


_LENGTHS = {b"content-length", b"transfer-encoding"}
_TWO_LENGTHS = _error(
    400, "expected Content-Length or Transfer-Encoding, found both", headers={"Connection": "close"}
)
"""A proxy could read another body than this server, and the rest be a request (smuggling)."""
_UNAUTHORIZED = _error(
    401, "the bearer token is missing or wrong", headers={"WWW-Authenticate": "Bearer"}
)


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _error(error.status_code, error.detail, headers=error.headers)
    return _error(500, "internal server error")

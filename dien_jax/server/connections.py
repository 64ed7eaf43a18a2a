"""Limits on connections: their number, and the time that a connection waits for its client.

A client that sends half a request, stays connected without a request, or does not read its answer
must not occupy a file descriptor for ever, and many such clients must not keep others out.
"""

import asyncio
import os
import resource
import time
from dataclasses import dataclass, field
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dien_jax.errors import UserError

HEADER_SECONDS = 10.0
"""Maximum time from a connection, or from an answer, to the complete headers of a request."""
IDLE_SECONDS = 5
"""Maximum time from an answer to the first byte of the next request."""
ANSWER_SECONDS = 30.0
"""Maximum time for a client to read an answer that does not fit into the buffers."""
LAST_REQUEST_SECONDS = 1.0
"""Time for a last request on a connection that is still open when the server stops."""
MAX_CONNECTIONS = 1000
RESERVED_FILES = 128
"""Open files reserved for other uses: reading a checkpoint, and connections that are accepted but
not yet counted, a few times ``_ACCEPTED_AT_ONCE``."""
MIN_CONNECTIONS = 16
_ACCEPTED_AT_ONCE = 16
_POLL_SECONDS = 0.05
_BACKLOG = 1024
"""Connections that the system queues until they are accepted."""


def connection_limit() -> int:
    """Return the number of connections that the limit of open files allows; refuse a low limit."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    used = len(os.listdir("/dev/fd")) + RESERVED_FILES  # noqa: PTH208 - not a folder of paths
    if files - used < MIN_CONNECTIONS:
        raise UserError(
            f"the limit of open files (ulimit -n) is {files}; serving needs at least "
            f"{used + MIN_CONNECTIONS}"
        )
    return min(files - used, MAX_CONNECTIONS)


@dataclass
class Connections:
    """The connections of a server, at most ``limit``.

    When a further one arrives, the connection that has waited longest for its client is closed, but
    never one whose request is being answered. If there is no other, the new one is closed.
    """

    limit: int
    header_seconds: float = HEADER_SECONDS
    answer_seconds: float = ANSWER_SECONDS
    open: int = 0
    waiting: dict["Connection", None] = field(default_factory=dict)  # longest wait first


class Connection(H11Protocol):
    """A connection that is closed when it has waited too long for its client."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._connections = connections
        self._state: tuple[str, Any] = ("new", None)
        self._deadline: asyncio.TimerHandle | None = None

    def abort(self) -> None:
        """Close the connection without sending pending data."""
        self._wait("closed", None)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connections.open += 1
        self._follow()
        if self._connections.open > self._connections.limit:
            next(iter(self._connections.waiting)).abort()  # this connection is waiting too

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.open -= 1
        self._wait("closed", None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._follow()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._follow()

    def _follow(self) -> None:
        """Note whether the connection waits for its client, and since when."""
        if self._state[0] == "closed":
            return
        cycle = self.cycle
        if self.flow.write_paused:
            self._wait("reads the answer", self._connections.answer_seconds)
        elif cycle is None or cycle.response_complete:
            self._wait("sends headers", self._connections.header_seconds)
        elif cycle.more_body:
            self._wait("sends a body", None)  # the application limits the time
        else:
            self._wait("", None)

    def _wait(self, client: str, seconds: float | None) -> None:
        state = (client, self.cycle)
        if state == self._state:
            return
        self._state = state
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.abort)
        self._connections.waiting.pop(self, None)
        if client not in ("", "closed"):
            self._connections.waiting[self] = None


class Server(uvicorn.Server):
    """A server that accepts few connections at once, and closes them gracefully at shutdown.

    Connections are counted after they are accepted, and many at once would use up the process's
    file descriptors. Closing a connection between two requests can lose the second one. So at
    shutdown, each answer tells the client that the connection ends (RFC 9112, 9.6), and connections
    without a request for ``LAST_REQUEST_SECONDS`` are closed.
    """

    def __init__(
        self, config: uvicorn.Config, last_request_seconds: float = LAST_REQUEST_SECONDS
    ) -> None:
        config.backlog, self._last_request_seconds = _ACCEPTED_AT_ONCE, last_request_seconds
        super().__init__(config)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start accepting connections."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop accepting connections, answer pending requests, and close the connections."""
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        headers = [*self.server_state.default_headers, (b"connection", b"close")]
        self.server_state.default_headers = headers
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_started:
                cycle.default_headers = headers
        until = time.monotonic() + self._last_request_seconds
        while self.server_state.connections and not self.force_exit and time.monotonic() < until:
            await asyncio.sleep(_POLL_SECONDS)
        await super().shutdown(sockets)

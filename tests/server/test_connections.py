"""Connections that wait for their clients too long, or in too great a number, are closed."""

import asyncio
import contextlib
import functools
import os
import resource
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from dien_jax.errors import UserError
from dien_jax.server import connections as module
from dien_jax.server.connections import Connection, Connections, Server, connection_limit
from dien_jax.server.run import bind

GET, SLOW, LARGE = (
    f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in ("", "slow", "large")
)
HALF = b"GET / HTTP/1.1\r\nHost"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
LARGE_ANSWER = bytes(30_000_000)  # more than the buffers of both ends hold
SOON = 0.1  # seconds
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Site:
    """A server and its clients; ``/slow`` is answered once ``go`` is set."""

    def __init__(self, connections: Connections, address: Any) -> None:
        self.connections, self._address, self.go = connections, address, asyncio.Event()
        self.clients: list[Client] = []
        self.server: Server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":  # refused before its body is read
            await _send(send, 503, b"")
            return
        if scope["path"] == "/slow":
            await self.go.wait()
        body = LARGE_ANSWER if scope["path"] == "/large" else b"done"
        await _send(send, 200, body)

    async def stop(self) -> None:
        """Let the server stop, and wait until it accepts no connection."""
        self.server.should_exit = True
        while any(listener.is_serving() for listener in self.server.servers):
            await asyncio.sleep(0.001)

    async def connect(self, request: bytes = b"") -> Client:
        """Connect, send a request, and wait until the server has seen both."""
        before = self.connections.open
        client = await asyncio.open_connection(*self._address)
        self.clients.append(client)
        client[1].write(request)
        async with asyncio.timeout(60):
            while self.connections.open == before < self.connections.limit:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)  # for the request
        return client


def at_a_site(
    limit: int, scene: Callable[[Site], Awaitable[None]], *, last: float = 1.0, **seconds: float
) -> None:
    """Run a scene with a server that takes so many connections."""

    async def run() -> None:
        connections = Connections(limit, **seconds)
        with bind("127.0.0.1", 0) as listener:
            site = Site(connections, listener.getsockname())
            config = uvicorn.Config(
                site, http=functools.partial(Connection, connections), ws="none", lifespan="off",
                log_config=None, access_log=False,
            )  # fmt: skip
            server = Server(config, last)
            server.capture_signals = contextlib.nullcontext
            site.server = server
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            async with asyncio.timeout(60):
                while not server.started:
                    await asyncio.sleep(0.001)
                await scene(site)
            site.go.set()
            for _, writer in site.clients:
                writer.transport.abort()
            server.should_exit = True
            await serving
        assert connections.open == 0
        assert not connections.waiting

    asyncio.run(run())


async def _send(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer(client: Client) -> bytes:
    """Return the body of an answer, or nothing if the connection is closed."""
    try:
        return (await client[0].readuntil(b"\r\n\r\ndone"))[-4:]
    except (ConnectionError, asyncio.IncompleteReadError):
        return b""


def test_a_server_that_stops_says_with_each_answer_that_the_connection_ends() -> None:
    async def scene(site: Site) -> None:
        asks, is_answered = [await site.connect(request) for request in (GET, SLOW)]
        assert b"connection: close" not in await asks[0].readuntil(b"done")
        await site.stop()
        asks[1].write(GET)
        site.go.set()
        for client in (asks, is_answered):
            assert b"connection: close" in await client[0].readuntil(b"done")
            assert await client[0].read() == b""

    at_a_site(9, scene, last=60.0)


def test_a_server_that_stops_closes_connections_without_a_request() -> None:
    async def scene(site: Site) -> None:
        client = await site.connect(GET)
        assert await answer(client) == b"done"
        await site.stop()
        assert await client[0].read() == b""

    at_a_site(9, scene, last=SOON)


@pytest.mark.parametrize("sent", [b"", HALF, GET, POST], ids=["none", "half", "all", "no body"])
def test_a_connection_without_a_complete_request_is_closed(sent) -> None:
    async def scene(site: Site) -> None:
        client = await site.connect(sent)
        assert await answer(client) == (b"done" if sent == GET else b"")
        assert await answer(client) == b""

    at_a_site(9, scene, header_seconds=SOON)


def test_headers_that_arrive_byte_by_byte_get_no_more_time() -> None:
    async def scene(site: Site) -> None:
        client = await site.connect()

        async def trickle() -> None:
            while True:
                client[1].write(b"a")
                await asyncio.sleep(0.01)

        sending = asyncio.create_task(trickle())
        assert await answer(client) == b""
        sending.cancel()

    at_a_site(9, scene, header_seconds=SOON)


def test_a_client_that_does_not_read_is_closed() -> None:
    async def scene(site: Site) -> None:
        client = await site.connect(LARGE)
        client[1].transport.pause_reading()
        while site.connections.open:
            await asyncio.sleep(0.01)

    at_a_site(9, scene, answer_seconds=SOON, header_seconds=1000.0)


def test_a_client_that_reads_late_gets_all_and_may_ask_again() -> None:
    async def scene(site: Site) -> None:
        client = await site.connect(LARGE)  # its stream reads no further than a small buffer
        await client[0].readuntil(b"\r\n\r\n")
        assert len(await client[0].readexactly(len(LARGE_ANSWER))) == len(LARGE_ANSWER)
        client[1].write(GET)
        assert await asyncio.wait_for(answer(client), 10) == b"done"

    at_a_site(9, scene)


def test_a_request_that_is_being_answered_is_not_closed() -> None:
    async def scene(site: Site) -> None:
        client = await site.connect(SLOW)
        await asyncio.sleep(3 * SOON)
        site.go.set()
        assert await answer(client) == b"done"

    at_a_site(9, scene, header_seconds=SOON, answer_seconds=SOON)


def test_a_further_connection_takes_the_place_of_the_one_that_has_waited_longest() -> None:
    async def scene(site: Site) -> None:
        working, idle, half = [await site.connect(sent) for sent in (SLOW, b"", HALF)]
        fourth = await site.connect(GET)
        assert (await answer(idle), await answer(fourth)) == (b"", b"done")
        fifth = await site.connect(GET)
        assert (await answer(half), await answer(fifth)) == (b"", b"done")
        fourth[1].write(GET)
        assert await answer(fourth) == b"done"
        site.go.set()
        assert await answer(working) == b"done"

    at_a_site(3, scene)


def test_a_further_connection_is_closed_when_all_others_are_being_answered() -> None:
    async def scene(site: Site) -> None:
        working = [await site.connect(SLOW) for _ in range(3)]
        assert await answer(await site.connect(GET)) == b""
        site.go.set()
        assert [await answer(client) for client in working] == [b"done"] * 3
        assert await answer(await site.connect(GET)) == b"done"

    at_a_site(3, scene)


def test_the_limit_of_open_files_limits_connections(monkeypatch) -> None:
    for files, least, most in ((resource.RLIM_INFINITY, 1000, 1000), (600, 16, 471)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert least <= connection_limit() <= most
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    # Other tests of this process may have files open.
    used = len(os.listdir("/dev/fd")) + module.RESERVED_FILES  # noqa: PTH208
    least = used + module.MIN_CONNECTIONS
    with pytest.raises(UserError, match=rf"\(ulimit -n\) is 64; serving needs at least {least}"):
        connection_limit()

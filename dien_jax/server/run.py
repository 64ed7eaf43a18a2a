"""The server process: socket, signals and shutdown."""

import asyncio
import contextlib
import logging
import os
import signal
import socket

from dien_jax.errors import UserError
from dien_jax.server.options import ServerOptions
from dien_jax.utils.console import say
from dien_jax.utils.extras import require

LOG = logging.getLogger(__name__)
TOKEN_VARIABLE = "DIEN_JAX_TOKEN"
"""Environment variable that holds the bearer token."""
MIN_TOKEN_LENGTH = 16
_JOIN_SECONDS = 5.0
"""Time for the model's thread to stop; one that still loads or compiles is then abandoned."""


def serve(options: ServerOptions) -> int:
    """Serve over HTTP until a signal stops the process; return its exit status.

    Call it in the main thread: it handles SIGTERM, SIGINT and SIGHUP. The bearer token, if any, is
    read from the environment variable ``DIEN_JAX_TOKEN``.

    Returns:
      0 after SIGTERM, 130 after Ctrl-C, 1 if requests were cut off or the server failed.

    Raises:
      UserError: if an option, the token, the address or the run cannot be used.

    >>> from pathlib import Path
    >>> from dien_jax.server import ServerOptions, serve
    >>> serve(ServerOptions(Path("nowhere"), port=0))
    Traceback (most recent call last):
    dien_jax.errors.UserError: run folder nowhere does not exist
    """
    options.check()
    token = read_token()
    require("serve", "serving")
    import uvicorn
    from prometheus_client import disable_created_metrics

    from dien_jax.server.app import Application
    from dien_jax.server.batching import Batcher, Metrics
    from dien_jax.server.connections import IDLE_SECONDS, Connections, Server, connection_limit
    from dien_jax.server.current_model import CurrentModel

    metrics = Metrics()
    disable_created_metrics()  # else each counter also exports the time it was created
    signals: list[int] = []
    failures: list[BaseException] = []
    with bind(options.host, options.port) as listener:
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        current = CurrentModel(options, metrics)
        batcher = Batcher(current.rank, metrics, options)
        application = Application(options, current, batcher, metrics, token)
        connections = Connections(connection_limit())
        config = uvicorn.Config(
            application,
            http=connections.protocol,  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=options.drain_seconds,
        )
        server = Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
        if token is None and host not in ("127.0.0.1", "::1"):
            say(f"warning: {url} accepts requests from anyone; set {TOKEN_VARIABLE}")

        def stop(number: int) -> None:
            server.force_exit = bool(signals) and number == signal.SIGINT
            signals.append(number)
            current.stop()
            server.should_exit = True

        async def run() -> None:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop, number)
            loop.add_signal_handler(signal.SIGHUP, current.request_reload)

            def failed(error: BaseException) -> None:
                failures.append(error)
                loop.call_soon_threadsafe(stop, 0)

            def ready() -> None:
                say(f"checkpoint {current.served.ranker.step} of {options.run} at {url}")

            thread = current.start(batcher, ready, failed)
            await server.serve(sockets=[listener])
            thread.join(_JOIN_SECONDS)

        try:
            asyncio.run(run())
        except OSError as error:
            raise UserError(f"cannot listen on {url}: {error.strerror or error}") from error
        batcher.close()
    if failures:
        LOG.error("warm-up failed", exc_info=failures[0])
        return 1
    if application.cut_off:
        say(f"{application.cut_off} requests were cut off after {options.drain_seconds} s")
        return 1
    say("all requests were answered")
    return 128 + signal.SIGINT if signal.SIGINT in signals else 0


def read_token() -> str | None:
    """Return the bearer token from the environment, or None if the variable is not set."""
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return None
    valid = token.isascii() and token.isprintable() and " " not in token
    if len(token) < MIN_TOKEN_LENGTH or not valid:
        raise UserError(
            f"{TOKEN_VARIABLE} must be at least {MIN_TOKEN_LENGTH} printable ASCII characters "
            f"without spaces, got {len(token)} characters (unset it to serve without a token)"
        )
    return token


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; connections wait until they are accepted.

    Only a socket that listens keeps a second server from the address.
    """
    try:
        kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
        family, *_, address = socket.getaddrinfo(host, port, type=kind, flags=flags)[0]
        # asyncio disables Nagle's algorithm, a delay of 40 ms, only if the protocol is named.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on --host {host} --port {port}: {reason}") from error
    return listener

"""The server process: options, socket, signals and shutdown."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from dien_jax.errors import UserError, require
from dien_jax.utils.console import say
from dien_jax.utils.json_values import convert_fields

EARLY_RELOADS: list[int] = []
"""SIGHUPs that the command received before there was a model to reload."""
MODEL_THREAD = "current model"
"""Name of the thread that compiles and reloads models."""
MAX_ID_LENGTH = 1024
"""Maximum number of characters of an id in a request."""


@dataclass(frozen=True)
class ServerOptions:
    """Options of :func:`serve`; each is a flag of ``python -m dien_jax.serve``.

    A value out of its range is a :class:`UserError`.

    >>> from pathlib import Path
    >>> from dien_jax.server import ServerOptions
    >>> ServerOptions(Path("runs/first"), port=0).max_batch
    16
    """

    run: Path
    """Run folder written by dien_jax.train, or file written by dien_jax.export. The server trusts
    such a file like code."""
    data: Path | None = None
    """Dataset folder. Default: the run's own."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all addresses of this machine."""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    """Port to listen on; 0 for any free port."""
    queue: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Maximum number of waiting requests; further ones are answered with status 429."""
    max_batch: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Maximum number of requests ranked in one batch."""
    max_candidates: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Maximum number of candidates in a request."""
    max_history: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Maximum number of events in a request's history; the model uses the latest ones."""
    max_body: Annotated[int, Meta(ge=1, le=2**30)] = 2**20
    """Maximum size of a request body in bytes."""
    max_users: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """Maximum number of remembered users; the least recently used are evicted first."""
    separator: str = "|"
    """Separator of the values of a multi-valued feature sent as one string."""
    poll_seconds: Annotated[float, Meta(ge=0, le=604_800)] = 30.0
    """Seconds between checks for a newer checkpoint; 0 to check only on SIGHUP."""
    accept_other_features: bool = False
    """Also reload models with other features of requests or events, or without an item feature that
    at_most of requests may name; requests of the old form are then answered with status 422."""
    drain_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 30
    """Maximum time in seconds to finish running requests after SIGTERM."""
    log_requests: bool = False
    """Log each request to standard error as one line of JSON."""

    def __post_init__(self) -> None:
        convert_fields(self)
        if not self.host:
            raise UserError("--host must not be empty; 0.0.0.0 is all addresses of this machine")
        if not self.separator:
            raise UserError("--separator must not be empty")


LOG = logging.getLogger(__name__)
TOKEN_VARIABLE = "DIEN_JAX_TOKEN"
"""Environment variable of the bearer token."""
MIN_TOKEN_LENGTH = 16


def serve(options: ServerOptions) -> int:
    """Serve over HTTP until a signal stops the process; return its exit status.

    Call it in the main thread: it handles SIGTERM, SIGINT and SIGHUP. The bearer token, if any, is
    read from the environment variable ``DIEN_JAX_TOKEN``.

    Returns:
      0 after SIGTERM, 130 after Ctrl-C, 1 if requests were cut off or the server failed.

    Raises:
      UserError: if the token, the address or the run cannot be used.

    >>> from pathlib import Path
    >>> from dien_jax.server import ServerOptions, serve
    >>> serve(ServerOptions(Path("nowhere"), port=0))
    Traceback (most recent call last):
    dien_jax.errors.UserError: run folder nowhere does not exist
    """
    token = read_token()
    extras, what = ("serve,export", " an exported file") if options.run.is_file() else ("serve", "")
    require(extras, f"serving{what}")
    import uvicorn
    from dien_kernels import load_native_in_background
    from prometheus_client import disable_created_metrics

    from dien_jax.runs.folder import Run
    from dien_jax.server import connections as waiting
    from dien_jax.server.app import Application
    from dien_jax.server.current_model import Batcher, CurrentModel, Metrics

    metrics = Metrics()
    disable_created_metrics()  # else each counter also exports the time it was created
    signals, failures = list[int](), list[BaseException]()
    with bind(options.host, options.port) as listener:
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if not options.run.is_file() and Run.load(options.run).config.model.may_be_native:
            load_native_in_background()  # while the model is read
        current = CurrentModel(options, metrics)
        batcher = Batcher(current.rank, metrics, options)
        application = Application(options, current, batcher, metrics, token)
        connections = waiting.Connections(waiting.connection_limit())
        config = uvicorn.Config(
            application,
            http=functools.partial(waiting.Connection, connections),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=waiting.IDLE_SECONDS,
            timeout_graceful_shutdown=options.drain_seconds,
        )
        server = waiting.Server(config)
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
            if EARLY_RELOADS:
                current.request_reload()

            def failed(error: BaseException) -> None:
                failures.append(error)
                loop.call_soon_threadsafe(stop, 0)

            def ready() -> None:
                say(f"ready: {current.served}, at {url}")

            say(f"compiling first, half a minute without a cache; then {url} is ready: see /readyz")
            thread = current.start(batcher, ready, failed)
            await server.serve(sockets=[listener])
            thread.join(5.0)  # if it still loads or compiles, abandon it

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
    """Return a listening socket; without listening, a second server could take the address."""
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

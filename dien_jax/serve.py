"""The command line ``python -m dien_jax.serve RUN|FILE``.

Everything it says goes to standard error. Exit status: 0 after SIGTERM, when all requests have had
their answers, 1 when some had not or the server failed, 2 for a mistake in flags or files, 130
after Ctrl-C.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from dien_jax.errors import UserError
from dien_jax.server.run import bound
from dien_jax.utils.command import run_command
from dien_jax.utils.console import say

TOKEN = "DIEN_JAX_TOKEN"
"""Environment variable of the bearer token."""
LEAST_TOKEN = 16
"""Characters of a token, at least."""
_JOIN_SECONDS = 5.0
"""For a model that is being loaded or compiled; then it is left behind."""


@dataclass(frozen=True)
class Arguments:
    """Rank over HTTP with the best checkpoint of a run, or with an exported model.

    POST /v1/rank, /v1/remember and /v1/observe; GET /healthz, /readyz, /metrics, /openapi.json and
    /docs. With the environment variable DIEN_JAX_TOKEN set, /v1/... and /metrics want it as a
    bearer token. SIGTERM ends the server once all requests have their answers; SIGHUP has the
    model loaded anew.
    """

    run: tyro.conf.Positional[Path]
    """Run folder that dien_jax.train made, or file that dien_jax.export wrote."""
    data: Path | None = None
    """Dataset folder; the run's own when not given."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all of this machine's."""
    port: int = 8000
    """Port to listen at; 0 for one that is free."""
    queue: int = 256
    """Requests that may wait; more are answered 429."""
    max_batch: int = 16
    """Requests that are ranked together."""
    max_candidates: int = 1000
    """Candidates of a request."""
    max_history: int = 1000
    """Events of a request's history, of which the model keeps the latest."""
    max_body: int = 2**20
    """Bytes of a request."""
    max_users: int = 1000
    """Users remembered; of more, those least recently used are forgotten."""
    separator: str = "|"
    """What stands between the values of a multi-valued context feature that comes as one text."""
    poll_seconds: float = 30.0
    """Between two looks for a newer checkpoint; 0 waits for SIGHUP."""
    drain_seconds: int = 30
    """What requests may still take after SIGTERM."""
    log_requests: bool = False
    """Log each request as a line of JSON."""


def checked(arguments: Arguments) -> str | None:
    """The token.

    Raises:
      UserError: for a flag, or the token, that cannot be.
    """
    for name in ("queue", "max_batch", "max_candidates", "max_history", "max_body", "max_users",
                 "drain_seconds"):  # fmt: skip
        if getattr(arguments, name) < 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} must be at least 1, got {getattr(arguments, name)}")
    if not 0 <= arguments.poll_seconds < threading.TIMEOUT_MAX:
        raise UserError(f"--poll-seconds must be 0 or more, got {arguments.poll_seconds}")
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port must be 0 to 65535, got {arguments.port}")
    if not arguments.separator:
        raise UserError("--separator must not be empty")
    token = os.environ.get(TOKEN)
    if token is None:
        return None
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{TOKEN} must be at least {LEAST_TOKEN} printable ASCII characters without spaces, "
            f"got {len(token)} characters (unset it to serve without a token)"
        )
    return token


def serve(arguments: Arguments) -> int:
    """Serves until a signal ends it; returns the exit status.

    Raises:
      UserError: when a flag, the token, the address or the run is at fault.
    """
    token = checked(arguments)
    try:
        import uvicorn
        from prometheus_client import disable_created_metrics

        from dien_jax.server.app import Application
        from dien_jax.server.prometheus import Figures
    except ImportError as error:
        raise UserError(f"serving needs pip install '.[serve]' ({error})") from error
    from dien_jax.server.batching import Batcher
    from dien_jax.server.current_model import Models, Source
    from dien_jax.server.messages import Limits

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are handled below

    disable_created_metrics()  # a time beside each counter, which nobody reads
    limits = Limits(arguments.max_body, arguments.max_candidates, arguments.max_history)
    source = Source(arguments.run, arguments.data, arguments.max_users, arguments.separator)
    figures, most = Figures(), arguments.max_batch
    with bound(arguments.host, arguments.port) as listener:
        models = Models(source, limits, most, arguments.poll_seconds, figures)
        batcher = Batcher(models.rank, capacity=arguments.queue, most=most, figures=figures)
        application = Application(
            models, batcher, limits, figures, token=token, log_requests=arguments.log_requests
        )
        server = Server(
            uvicorn.Config(
                application.app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=arguments.drain_seconds,
            )
        )
        signals: list[int] = []
        problems: list[BaseException] = []
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if token is None and host not in ("127.0.0.1", "::1"):
            say(f"warning: anyone who reaches {url} may rank; set {TOKEN} to have them show it")

        def stop(number: int) -> None:
            server.force_exit = bool(signals) and number == signal.SIGINT
            signals.append(number)
            models.end()
            server.should_exit = True

        async def run() -> None:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop, number)
            loop.add_signal_handler(signal.SIGHUP, models.reload)

            def failed(error: BaseException) -> None:
                problems.append(error)
                loop.call_soon_threadsafe(stop, 0)

            def ready() -> None:
                say(f"checkpoint {models.current.ranker.step} of {arguments.run} at {url}")

            thread = models.start(batcher, ready, failed)
            await server.serve(sockets=[listener])
            thread.join(_JOIN_SECONDS)

        try:
            asyncio.run(run())
        except OSError as error:
            raise UserError(f"cannot listen at {url}: {error.strerror or error}") from error
        batcher.close()
    if problems:
        logging.getLogger("dien_jax.serve").error("no warm-up", exc_info=problems[0])
        return 1
    if application.cut_off:
        say(f"{application.cut_off} requests were cut off after {arguments.drain_seconds} s")
        return 1
    say("all requests have had their answers")
    return 128 + signal.SIGINT if signal.SIGINT in signals else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("dien_jax.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    return run_command(
        lambda: tyro.cli(Arguments, args=argv, prog="python -m dien_jax.serve"), serve
    )


if __name__ == "__main__":
    status = main()
    if any(thread.name == "models" for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(status)  # a thread in the midst of a compilation would not survive the usual way
    sys.exit(status)

"""Rank over HTTP: the command ``python -m dien_jax.serve RUN|FILE``.

All messages go to standard error. Exit status: 0 after SIGTERM if all requests were answered, 1 if
some were cut off or the server failed, 2 for a mistake in flags or files, 130 after Ctrl-C, 143
after SIGTERM while the model is loaded.
"""

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from dien_jax.server.run import EARLY_RELOADS, MODEL_THREAD, ServerOptions, serve
from dien_jax.utils.command import make_main


@dataclass(frozen=True)
class Arguments(ServerOptions):
    """Rank over HTTP with the best checkpoint of a run, or with an exported model.

    Endpoints: POST /v1/rank, /v1/recommend, /v1/remember and /v1/observe; GET /healthz, /readyz,
    /metrics, /openapi.json and /docs. If the environment variable DIEN_JAX_TOKEN is set, /v1/...
    and /metrics require it as a bearer token. SIGTERM stops the server after all requests are
    answered; SIGHUP reloads the model.
    """

    run: tyro.conf.Positional[Path]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    signal.signal(signal.SIGHUP, lambda number, _: EARLY_RELOADS.append(number))
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    levels = {"dien_jax.server": logging.INFO, "asyncio": logging.ERROR}
    levels["uvicorn.error"] = logging.ERROR  # its warnings are about invalid requests
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    status = make_main("serve", tyro.cli, Arguments, serve)(argv)
    if any(thread.name == MODEL_THREAD for thread in threading.enumerate()):
        atexit.register(os._exit, status)  # a normal exit crashes while that thread compiles
    return status


if __name__ == "__main__":
    sys.exit(main())

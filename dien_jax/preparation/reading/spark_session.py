"""Sessions of Spark: one of Spark Connect by its address, or that of the environment."""

import contextlib
import gc
import signal
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from dien_jax.errors import UserError, reason

PORT = 15002
"""Port of Spark Connect where an address names none."""
SECONDS_TO_ANSWER = 10
OLDEST = 4
"""First major version that has all functions that are used."""
SETTINGS = {"spark.sql.session.timeZone": "UTC", "spark.sql.caseSensitive": "true"}


@contextlib.contextmanager
def spark_session(url: str | None) -> Iterator[Any]:
    """Open a session with the settings that results depend on, and put them back.

    Args:
      url: address ``sc://HOST:PORT`` of Spark Connect; a session of its own is opened there and
        stopped. None: the session of the environment, as ``SparkSession.builder`` finds it.

    Raises:
      UserError: without a session, and for errors of Spark in the block.
    """
    session = _environment() if url is None else _connect(url)
    before = {}
    try:
        major = int(str(session.version).split(".")[0])
        if major < OLDEST:
            raise UserError(f"--engine spark needs Spark {OLDEST} or later, got {session.version}")
        for name, value in SETTINGS.items():
            before[name] = session.conf.get(name, None)
            session.conf.set(name, value)
        yield session
    except Exception as error:
        if not is_spark_error(error):
            raise
        raise UserError(f"Spark: {spark_reason(error)}") from error
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):
            _cancel(session)
        raise
    finally:
        with contextlib.suppress(Exception):  # an interrupted or lost session has no settings
            for name, value in before.items():
                session.conf.unset(name) if value is None else session.conf.set(name, value)
        if url is not None:
            # The client waits for its threads under a lock that the end of an unread result takes
            # too: none may be left for one of these threads to collect.
            gc.collect()
            with contextlib.suppress(Exception):
                session.stop()


def is_spark_error(error: Exception) -> bool:
    """Return whether an error comes from Spark or the way to it."""
    names = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(names & {"pyspark", "py4j", "grpc"})


def spark_reason(error: Exception) -> str:
    """Return an error of Spark on one line: a Java error's first line says little."""
    details = getattr(error, "details", None)  # of an error of gRPC
    text = str(details() if callable(details) else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("An error occurred while calling"):
        lines = lines[1:]
    return reason(Exception(lines[0] if lines else type(error).__name__))


def _cancel(session: Any) -> None:
    """End what Spark computes for a session."""
    if hasattr(session, "interruptAll"):  # of Spark Connect
        session.interruptAll()
    else:
        session.sparkContext.cancelAllJobs()


def _connect(url: str) -> Any:
    from pyspark.sql import SparkSession

    where = f"--spark-url {url}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORT
    except ValueError as error:
        raise UserError(f"{where}: expected sc://HOST:PORT, got {error}") from error
    if parts.scheme != "sc" or not host:
        raise UserError(f"{where}: expected sc://HOST:PORT")
    try:  # Spark itself would try again for minutes
        socket.create_connection((host, port), SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise UserError(f"{where}: nothing answers at {host}:{port}: {reason(error)}") from error
    try:
        session = SparkSession.builder.remote(url).create()
        session.version  # noqa: B018 - the first answer
    except Exception as error:
        raise UserError(f"{where}: no Spark session: {spark_reason(error)}") from error
    return session


def _environment() -> Any:
    from pyspark.sql import SparkSession

    interrupt = signal.getsignal(signal.SIGINT)
    try:
        session = SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()
        session.version  # noqa: B018 - the first answer
        if signal.getsignal(signal.SIGINT) is not interrupt:
            # That of Spark asks Java for something while an answer of it is read.
            signal.signal(signal.SIGINT, interrupt)
    except Exception as error:
        hint = "give --spark-url sc://HOST:PORT, or set SPARK_REMOTE or SPARK_HOME"
        problem = f"--engine spark: the environment has no Spark session ({spark_reason(error)})"
        raise UserError(f"{problem}; {hint}") from error
    return session

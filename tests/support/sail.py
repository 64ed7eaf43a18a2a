"""A server of Sail, which speaks Spark Connect and needs no Java."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def sail_server(pysail: Any) -> Iterator[str]:
    """Run a server in this process and yield its address."""
    from pyspark.sql.connect.client.reattach import ExecutePlanResponseReattachableIterator

    server = pysail.SparkConnectServer(port=0)
    server.start(background=True)
    with pytest.MonkeyPatch.context() as patch:
        # Sessions of a process share the threads that this ends, and those before may end late.
        patch.setattr(ExecutePlanResponseReattachableIterator, "shutdown", lambda: None)
        yield f"sc://127.0.0.1:{server.listening_address[1]}"
    server.stop()

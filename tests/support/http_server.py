"""A server without a socket, and requests to it; needs the extra ``serve`` and httpx."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.data.dataset import open_dataset
from dien_jax.inference.ranker import Ranker
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, Run
from dien_jax.server.app import Application
from dien_jax.server.current_model import Batcher, CurrentModel, Metrics
from dien_jax.server.run import ServerOptions
from support.small_dataset import CONTEXT, PEAR, SLASH
from support.untrained_run import TOLERANCE, random_state

TOKEN = "0123456789abcdef"
LIMITS = {"max_body": 2000, "max_candidates": 8, "max_history": 9}
MAX_BATCH = 2


class Server:
    """All parts of a server except its socket."""

    def __init__(self, run: Path, *, capacity: int = 50, token: str | None = None) -> None:
        self.metrics = Metrics()
        self.options = ServerOptions(
            run, max_users=3, max_batch=MAX_BATCH, poll_seconds=0.0, queue=capacity, **LIMITS
        )
        self.current = CurrentModel(self.options, self.metrics)
        self.batcher = Batcher(self.current.rank, self.metrics, self.options)
        self.application = Application(
            self.options, self.current, self.batcher, self.metrics, token
        )

    def warm(self) -> "Server":
        ready, failures = threading.Event(), []
        self.thread = self.current.start(self.batcher, ready.set, failures.append)
        assert ready.wait(120)
        assert not failures
        return self

    def end(self) -> None:
        self.current.stop()
        self.batcher.close()
        self.thread.join()

    def run_calls(self, *calls: Callable[[Any], Awaitable[Any]]) -> list[Any]:
        """Make calls concurrently, with one client; return their results."""

        async def gather() -> list[Any]:
            transport = httpx.ASGITransport(app=self.application)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await asyncio.gather(*(call(client) for call in calls))

        return asyncio.run(gather())

    def get(self, path: str, **more: Any) -> Any:
        return self.run_calls(lambda client: client.get(path, **more))[0]

    def post(self, path: str, body: Any, **more: Any) -> Any:
        return self.run_calls(lambda client: client.post(path, json=body, **more))[0]

    def post_all(self, path: str, bodies: Any, *more: Callable[[Any], Awaitable[Any]]) -> list[Any]:
        """Post bodies at once, beside other calls; return all results."""
        return self.run_calls(*(lambda c, b=body: c.post(path, json=b) for body in bodies), *more)

    async def has_waiting(self, count: int) -> None:
        """Wait for so many requests in the queue."""
        while self.metric("dien_queue_depth") < count:
            await asyncio.sleep(0.01)

    def metric(self, name: str, **labels: str) -> float:
        if labels:
            name += "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
        lines = self.metrics.text().decode().splitlines()
        return float(next(line.split()[-1] for line in lines if line.split()[0] == name))

    def hold(self) -> threading.Event:
        """Make requests wait until the event is set."""
        go, started = threading.Event(), threading.Event()
        self.batcher.submit(lambda: (started.set(), go.wait(30)))
        assert started.wait(30)
        return go


def rank_body(**changes: Any) -> dict[str, Any]:
    body = {
        "history": [PEAR],
        "candidates": [SLASH, PEAR, 17.0],
        "user": "Ann",
        "request_features": CONTEXT,
    }
    return {name: value for name, value in (body | changes).items() if value is not ...}


def check_ranking(answer, expected) -> None:
    assert answer.status_code == 200, answer.text
    ranking = answer.json()
    assert ranking["ids"] == expected.ids
    np.testing.assert_allclose(ranking["scores"], expected.scores, **TOLERANCE)
    names = ("unknown_history", "unknown_candidates", "unknown_values")
    assert tuple(ranking[name] for name in names) == expected[2:]


def expected_ranking(ranker: Ranker, body: dict[str, Any]) -> Any:
    candidates = [17 if item == 17 else item for item in body["candidates"]]
    return ranker.rank(body["history"], candidates, body["user"], body["request_features"])


def save_step(run: Path, step: int) -> None:
    """Save a better checkpoint with different parameters."""
    loaded = Run.load(run)
    state = random_state(loaded.config, open_dataset(Path(loaded.data)).schema)
    params = jax.tree.map(lambda leaf: leaf + jnp.float32(0.1 * step), state.params)
    Checkpoints(run / CHECKPOINTS_FOLDER).save(step, state._replace(params=params), {}, best=True)

"""A served run of a small model, shared by the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import small_dataset, untrained_run

from dien_jax.inference.ranker import Ranker

pytest.importorskip("httpx")  # the files of this folder need them too
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from support.http_server import Server


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    data = small_dataset.write(folder / "data")
    return untrained_run.write(folder / "run", data, model="din", buckets=())


@pytest.fixture(scope="module")
def server(run) -> Iterator[Server]:
    server = Server(run).warm()
    yield server
    server.end()


@pytest.fixture(scope="module")
def ranker(run) -> Ranker:
    return Ranker(run)

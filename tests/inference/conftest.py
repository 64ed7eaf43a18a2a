"""A small run of random parameters, its ranker and its exported file, shared by these tests."""

from pathlib import Path

import pytest
from support import small_dataset, untrained_run

from dien_jax.inference.export import export_run
from dien_jax.inference.ranker import Ranker


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of feature; Ann's events are at 5, 7 and 7, Cid's at 3 and 9."""
    timestamp = small_dataset.ints(5, 7, 7, 3, 9)
    return small_dataset.write(tmp_path_factory.mktemp("data") / "small", timestamp=timestamp)


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run.write(tmp_path_factory.mktemp("runs") / "dien", data, buckets=(2,))


@pytest.fixture(scope="session")
def ranker(run: Path) -> Ranker:
    return Ranker(run)


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("flatbuffers")
    file = tmp_path_factory.mktemp("exported") / "model.dien"
    export_run(run, file)
    return file

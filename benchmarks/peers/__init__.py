"""Models of other packages: recurrences in PyTorch, and implementations of DIEN.

A module with a DIEN has ``VERSIONS`` and ``make_peer``; its docstring lists differences from ours.
All peers train on the same arrays, with as many threads as JAX. They expect auxiliary negatives in
the batch, which are drawn beforehand.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.common.timing import versions_of
from dien_jax.config.settings import Config
from dien_jax.data.schema import Schema
from dien_jax.data.tables import Batch

PEERS = {
    "deepctr-torch": "benchmarks.peers.deepctr",
    "fuxictr": "benchmarks.peers.fuxictr",
    "recbole": "benchmarks.peers.recbole_dien",
}
"""The module of each package."""
Peers = dict[str, ModuleType]
"""Peers by the name of their package."""


class Arrays(NamedTuple):
    """The B examples of a batch, without filler rows; histories have T steps."""

    history: np.ndarray  # [B, T]
    negatives: np.ndarray  # [B, T]
    lengths: np.ndarray  # [B]
    item: np.ndarray  # [B]
    user: np.ndarray  # [B]
    label: np.ndarray  # [B]


class Peer(Protocol):
    """A model and its optimizer."""

    def prepare(self, arrays: Arrays) -> tuple[Any, ...]:
        """Convert a batch to the arguments of the other methods."""

    def step(self, *batch: Any) -> float:
        """Update the parameters once, and return the loss."""

    def predict(self, *batch: Any) -> np.ndarray:
        """Return click probabilities ``[B]``."""


def steps_of(
    peer: ModuleType, config: Config, schema: Schema, category: np.ndarray, batches: list[Batch]
) -> list[Callable[[], float]]:
    """Return a train step of a peer for each batch; ``category`` is each item's, ``[I]``."""
    made: Peer = peer.make_peer(config, table_sizes(schema), category, seed=0)
    arrays = arrays_of(batches, table_sizes(schema)["item"])
    return [functools.partial(made.step, *made.prepare(batch)) for batch in arrays]


def installed(peers: Mapping[str, str] = PEERS) -> Peers:
    """Import the peers whose packages are installed; name the others on stderr."""
    missing = [package for package in peers if package not in versions_of(package)]
    if len(missing) == len(peers):
        raise SystemExit(f"--peers needs one of the packages {', '.join(peers)}: none is installed")
    for package in missing:
        print(f"{package} is not installed: left out", file=sys.stderr)
    return {
        package: importlib.import_module(module)
        for package, module in peers.items()
        if package not in missing
    }


def table_sizes(schema: Schema) -> dict[str, int]:
    """Return the table sizes of item, category and user, the only features of peers."""
    features = (*schema.item, *schema.user, *schema.request)
    names = [feature.name for feature in features]
    if names != ["item", "category", "user"]:
        raise SystemExit(f"--peers: expected features item, category and user, found {names}")
    return {feature.name: feature.size for feature in features if feature.size is not None}


def arrays_of(batches: Iterable[Batch], items: int, seed: int = 0) -> Iterator[Arrays]:
    """Yield the data of every peer; auxiliary negatives are drawn from 1 to ``items - 1``."""
    rng = np.random.default_rng(seed)
    for batch in batches:
        real = np.asarray(batch.weight) > 0
        history = np.asarray(batch.history)[real]
        yield Arrays(
            history=history,
            negatives=rng.integers(1, items, history.shape),
            # PyTorch cannot pack an empty history.
            lengths=np.maximum(np.asarray(batch.lengths)[real], 1),
            item=np.asarray(batch.item)[real],
            user=np.asarray(batch.user)[real],
            label=np.asarray(batch.label)[real],
        )

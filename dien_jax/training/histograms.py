"""Values of a run for histograms: embeddings, and states and attention of one batch."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from dien_jax.data.batch import Batch
from dien_jax.steps.embedding_rows import Table
from dien_jax.steps.sharding import Layout
from dien_jax.steps.transfer import whole

HISTOGRAM_ROWS = 65_536
"""Maximum number of rows, evenly spaced, in the histogram of an embedding table."""


def live_values(summary: Mapping[str, np.ndarray], batch: Batch) -> dict[str, np.ndarray]:
    """Return the entries of a summary of a batch that belong to events, or to real rows."""
    live = np.arange(batch.history.shape[1]) < np.asarray(batch.lengths)[:, None]
    places = {"final_state": np.asarray(batch.weight) > 0}
    return {name: value[places.get(name, live)] for name, value in summary.items()}


def embedding_values(
    params: Mapping[str, Any], layouts: Mapping[Table, Layout]
) -> dict[str, np.ndarray]:
    """Return rows of every embedding table; split ones have a layout."""
    return {
        f"{group}_embeddings/{name}": _rows_apart(table, layouts.get((group, name)))
        for group in ("item", "user", "context")
        for name, table in params.get(f"{group}_embeddings", {}).items()
    }


def _rows_apart(table: jax.Array, layout: Layout | None) -> np.ndarray:
    """Return at most ``HISTOGRAM_ROWS`` rows of a table, evenly apart, on the host."""
    rows = len(table) if layout is None else layout.rows
    every = slice(None, None, -(-rows // HISTOGRAM_ROWS))
    taken = table[every] if layout is None else table[layout.slots(np.arange(rows)[every])]
    return _on_host(table, taken)


def _on_host(table: jax.Array, rows: jax.Array) -> np.ndarray:
    """Return rows of a table, which may be on devices of several processes."""
    if rows.is_fully_addressable:
        return np.asarray(rows)
    mesh = table.sharding.mesh if isinstance(table.sharding, NamedSharding) else None
    assert isinstance(mesh, Mesh)
    return np.asarray(whole(mesh, rows))

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
    """Return rows of every embedding table, of all networks; split ones have a layout."""
    return {
        f"{group}_embeddings/{name}": _rows_apart(table, layouts.get((group, name)))
        for group in ("item", "user", "context")
        for name, table in params.get(f"{group}_embeddings", {}).items()
    }


def _rows_apart(table: jax.Array, layout: Layout | None) -> np.ndarray:
    """Return at most ``HISTOGRAM_ROWS`` rows of a table, evenly apart, on the host."""
    width = table.shape[-1]
    rows = table.size // width
    if layout is None:
        return _on_host(table, table.reshape(-1, width)[:: -(-rows // HISTOGRAM_ROWS)])
    networks = rows // (layout.owned * layout.devices)
    rows = networks * layout.rows
    network, row = np.divmod(np.arange(0, rows, -(-rows // HISTOGRAM_ROWS)), layout.rows)
    slots = layout.slots(row)
    taken = table[slots] if table.ndim == 2 else table[network, slots]
    return _on_host(table, taken)


def _on_host(table: jax.Array, rows: jax.Array) -> np.ndarray:
    """Return rows of a table, which may be on devices of several processes."""
    if rows.is_fully_addressable:
        return np.asarray(rows)
    mesh = table.sharding.mesh if isinstance(table.sharding, NamedSharding) else None
    assert isinstance(mesh, Mesh)
    return np.asarray(whole(mesh, rows))

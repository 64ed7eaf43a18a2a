"""Arrays of a run whose distributions are reported."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from dien_jax.data.tables import Batch, FeatureTables, is_live
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import TrainState

HISTOGRAM_ROWS = 65_536
"""Maximum number of rows, evenly spaced, in the histogram of an embedding table."""


def histogram_values(
    summarise: Callable[..., Any],
    place: OneDevice,
    state: TrainState,
    features: FeatureTables,
    batch: Batch,
) -> dict[str, np.ndarray]:
    """Return embeddings, and states and attention of a batch by ``make_summary_step``."""
    batch = place.put_batch(batch)
    outputs = summarise(state.params, state.batch_stats, features, batch)
    summary = jax.device_get(place.readable(outputs))
    values = _embedding_values(state.params, place)
    return {**_live_values(summary, place.readable(batch)), **values}


def _live_values(summary: Mapping[str, np.ndarray], batch: Batch) -> dict[str, np.ndarray]:
    """Return the entries of a summary of a batch that belong to events, or to real rows."""
    live = is_live(np.asarray(batch.lengths), batch.history.shape[1])
    places = {"final_state": np.asarray(batch.weight) > 0}
    return {name: value[places.get(name, live)] for name, value in summary.items()}


def _embedding_values(params: Mapping[str, Any], place: OneDevice) -> dict[str, np.ndarray]:
    """Return rows of every embedding table, at most ``HISTOGRAM_ROWS`` each, evenly apart."""
    shapes = place.like(params)
    values = {}
    for group in ("item", "user", "context"):
        for name, table in params.get(f"{group}_embeddings", {}).items():
            rows = shapes[f"{group}_embeddings"][name].shape[0]
            apart = np.arange(0, rows, -(-rows // HISTOGRAM_ROWS))
            taken = table[place.slots((group, name), apart)]
            values[f"{group}_embeddings/{name}"] = np.asarray(place.readable(taken))
    return values

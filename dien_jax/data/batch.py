"""Padded batches of examples."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dien_jax.data.schema import Array, Feature, FeatureValues, MultiValued, Schema


class Batch(NamedTuple):
    """One batch of examples. Rows of weight 0 are padding and count nowhere.

    >>> from dien_jax.data import example_batch, open_dataset
    >>> example_batch(open_dataset("data").schema, batch_size=4, steps=10).history.shape
    (4, 10)

    Attributes:
      history: int32 ``[B, T]``, item ids, oldest first; entries at or past ``lengths`` are 0.
      lengths: int32 ``[B]``, live steps of each history, 0 to T.
      item: int32 ``[B]``, the candidate.
      user: int32 ``[B]``, 0 for a user without a trained row.
      label: float32 ``[B]``, 1 for a click.
      weight: float32 ``[B]``, 1 for a real example, 0 for padding.
      context: the context features, each with leading dimension B.
      shown: int32 ``[B, T - 1, N]``, items that were shown with behaviours 1 to T - 1 and
        not clicked, -1 where there are none; None unless ``auxiliary_distribution`` is ``shown``.
      own: int8 ``[B, S]``, bits ``OWN_*`` of :mod:`dien_jax.data.tables` for each of S features
        with statistics; None outside training.
      fold: int32 ``[B]``, the table of factors to read, see :mod:`dien_jax.data.tables`; None
        outside training, for the first.
      statistics: float32 ``[B, F]``, inputs of the click network; None to compute them.
    """

    history: Array
    lengths: Array
    item: Array
    user: Array
    label: Array
    weight: Array
    context: dict[str, FeatureValues]
    shown: Array | None = None
    own: Array | None = None
    fold: Array | None = None
    statistics: Array | None = None


def is_live(lengths: Array, steps: Any) -> Array:
    """Return which steps of padded histories are events, bool ``[B, T]``: ``step < length``.

    ``lengths`` are int ``[B]`` of NumPy or JAX, and so is the result; ``steps`` is T.

    >>> import numpy as np
    >>> is_live(np.array([2, 0]), 3).tolist()
    [[True, True, False], [False, False, False]]
    """
    numbers = np.arange if isinstance(lengths, np.ndarray) else jnp.arange
    return numbers(steps, dtype=lengths.dtype)[None, :] < lengths[:, None]


def blank_values(feature: Feature, rows: int) -> Any:
    """Return missing values of a feature."""
    ids = np.zeros(rows, np.int32)
    if feature.kind == "multivalued":
        return MultiValued(np.zeros((rows, feature.max_values or 1), np.int32), ids)
    return ids.astype(np.float32) if feature.kind == "numeric" else ids


def example_batch(schema: Schema, *, batch_size: int = 1, steps: int = 2) -> Batch:
    """Return a batch of padding in the shapes of a dataset of this schema.

    >>> from dien_jax import open_dataset
    >>> example_batch(open_dataset("data").schema, batch_size=4, steps=8).history.shape
    (4, 8)
    """
    history = np.zeros((batch_size, steps), np.int32)
    lengths, item, user = (np.zeros(batch_size, np.int32) for _ in range(3))
    label, weight = (np.zeros(batch_size, np.float32) for _ in range(2))
    context = {feature.name: blank_values(feature, batch_size) for feature in schema.context}
    return Batch(history, lengths, item, user, label, weight, context)

"""Inputs of a model: padded batches of examples, and tables that it gathers by id.

Tables hold features, counts of training events and vectors of values.

Dimensions: B examples of a batch, T padded steps, V values of a feature, P pairs of values, K
tables of vectors, R vectors of a table.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.data.schema import GROUPS, Array, Feature, FeatureValues, Schema

OWN_VALUE, OWN_PAIR = 1, 2
"""Bits of ``own``: the count of the candidate's value includes the example or later events of its
sequence; so do the counts of pairs of this value with the history."""
LEVELS = (16, 32, 64, 128)  # leading components whose similarities are inputs of a model
FOLDS = 4  # folds of users
DIRECTED = 3  # vectors of a value with transitions: from its users, as earlier event, as next one
CHUNK_ROWS = 256  # vectors of a table whose scale is computed at a time, to fit the cache


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ValueStatistics:
    """Training users of each of the V values of a feature, and of P pairs of values.

    A pytree of arrays, which JAX may replace with anything. A user counts once for a value, and
    once for a pair. Row v of the pairs is ``offsets[v] : offsets[v + 1]``.
    """

    count: Any  # int32 [V], users who chose each value; 0 for the unknown value
    offsets: Any  # int32 [V + 1], start of each row of pairs
    other: Any  # int32 [P], the other value; ascending in a row
    together: Any  # int32 [P], users who chose both
    before: Any  # int32 [P], those of them who chose the other value first
    sequences: int = field(metadata={"static": True})  # number of users
    least: int = field(metadata={"static": True})  # least ``together``; rarer pairs are dropped
    longest: int = field(metadata={"static": True})  # pairs of the longest row


class ValueFactors(NamedTuple):
    """Vectors of the V values of a feature, see :mod:`dien_jax.statistics.factors`.

    Attributes:
      row: int32 ``[V]``, the row of each value; row 0 has zeros.
      vectors: float16 ``[K, R, D]``: K tables, the first from all training users, in training also
        one without each fold of users. For the item id, three vectors of D / 3 components.
      scale: float32 ``[K, R, L]``, the inverse norm of each vector's leading components at each
        level; 0 if they are zeros. For the item id, L / 3 levels of each of its vectors.
    """

    row: Array
    vectors: Array
    scale: Array


class FeatureTables(NamedTuple):
    """Tables that are gathered by id on the device.

    Attributes:
      item: values of the item features after the id, for all N items.
      user: values of the user features after the id, for all N users.
      statistics: counts of training events by feature, see :func:`statistics_features`; empty
        for a model that does not read them.
      factors: vectors of values by feature, see :func:`factor_features`; empty for a model that
        does not read them.
      vector_row: int32 ``[N]``, the row in ``vectors`` of each item, 0 for one without; None
        outside training, and for a model that reads no vectors.
      vectors: float16 ``[K, R, E]`` of items, K tables as in :class:`ValueFactors`; those without a
        fold are rotated to be near the first. Embeddings are kept near the first.
    """

    item: dict[str, FeatureValues]
    user: dict[str, FeatureValues]
    statistics: dict[str, ValueStatistics] = {}  # noqa: RUF012 - never changed
    factors: dict[str, ValueFactors] = {}  # noqa: RUF012 - never changed
    vector_row: Array | None = None
    vectors: Array | None = None


class Batch(NamedTuple):
    """One batch of examples. Rows of weight 0 are filler and have no effect.

    >>> from dien_jax.data import example_batch, open_dataset
    >>> example_batch(open_dataset("data").schema, batch_size=4, steps=10).history.shape
    (4, 10)

    Attributes:
      history: int32 ``[B, T]``, item ids, oldest first; entries at or past ``lengths`` are 0.
      lengths: int32 ``[B]``, live steps of each history, 0 to T.
      item: int32 ``[B]``, the candidate.
      user: int32 ``[B]``, 0 for a user without a trained row.
      label: float32 ``[B]``, 1 for a click.
      weight: float32 ``[B]``, 1 for a real example, 0 for filler.
      columns: features of requests and candidates, with leading dimension B, and of events, with
        leading dimensions B and T; those of padding are missing values.
      own: int8 ``[B, S]``, bits ``OWN_*`` for each of S features
        with statistics; None outside training.
      fold: int32 ``[B]``, the table of factors and vectors to read, see :class:`ValueFactors`;
        None outside training, for the first.
      statistics: float32 ``[B, F]``, inputs of the tower; None to compute them.
    """

    history: Array
    lengths: Array
    item: Array
    user: Array
    label: Array
    weight: Array
    columns: dict[str, FeatureValues]
    own: Array | None = None
    fold: Array | None = None
    statistics: Array | None = None


def is_live(lengths: Array, steps: Any) -> Array:
    """Mark the steps of padded histories that are events, bool ``[B, T]``: ``step < length``.

    ``lengths`` are int ``[B]`` of NumPy or JAX, and so is the result; ``steps`` is T, which 8 bits
    may not hold.

    >>> import numpy as np
    >>> is_live(np.array([2, 0]), 3).tolist()
    [[True, True, False], [False, False, False]]
    """
    numbers = np.arange if isinstance(lengths, np.ndarray) else jnp.arange
    return numbers(steps, dtype=np.int32)[None, :] < lengths.astype(np.int32)[:, None]


def example_batch(schema: Schema, *, batch_size: int = 1, steps: int = 2) -> Batch:
    """Return a batch of filler with the shapes of a dataset of this schema.

    >>> from dien_jax import open_dataset
    >>> example_batch(open_dataset("data").schema, batch_size=4, steps=8).history.shape
    (4, 8)
    """
    from dien_jax.data.kinds import KINDS  # imported here: a model reads no files

    history = np.zeros((batch_size, steps), np.int32)
    ids, numbers = np.zeros(batch_size, np.int32), np.zeros(batch_size, np.float32)
    features = batch_features(schema, batch_size, steps)
    columns = {
        feature.name: KINDS[feature.kind].blank(feature, *axes) for feature, axes in features
    }
    return Batch(history, ids, ids, ids, numbers, numbers, columns)


def batch_features(
    schema: Schema, batch_size: Any, steps: Any
) -> Iterator[tuple[Feature, tuple[Any, ...]]]:
    """Yield the features in :attr:`Batch.columns`, and the leading dimensions of their values."""
    axes = {"B": (batch_size,), "BT": (batch_size, steps)}
    for group, features in schema.groups():
        if GROUPS[group].source != "id":
            yield from ((feature, axes[GROUPS[group].axes]) for feature in features)


def statistics_features(schema: Schema) -> tuple[Feature, ...]:
    """Return the item features whose values are counted: the id, and up to two categories."""
    categories = [feature for feature in schema.item[1:] if feature.kind == "categorical"]
    return (schema.item[0], *categories[:2])


def factor_levels(size: int) -> tuple[int, ...]:
    """Return the numbers of leading components for a feature of ``size`` values, ascending.

    They are at most a third of ``size``: more would distinguish each value from all others.
    """
    return tuple(level for level in LEVELS if 3 * level <= size)


def factor_features(schema: Schema) -> tuple[Feature, ...]:
    """Return the features with factors: those with statistics that have enough values."""
    return tuple(f for f in statistics_features(schema) if factor_levels(f.size or 0))


def folds_of(sequence: np.ndarray) -> np.ndarray:
    """Return the table that training examples of each sequence read: int32, 1 to ``FOLDS``."""
    mixed = (sequence.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(33)) % np.uint64(FOLDS)).astype(np.int32) + 1


def with_scale(row: np.ndarray, vectors: np.ndarray, *, transitions: bool = False) -> ValueFactors:
    """Return factors with the scale of each level, from rows and vectors as in a folder."""
    parts = DIRECTED if transitions else 1
    components = vectors.shape[2] // parts
    levels = [level for level in LEVELS if level <= components]
    scale = np.empty((*vectors.shape[:2], parts * len(levels)), np.float32)
    places = [(part * components, level) for part in range(parts) for level in levels]
    for begin in range(0, vectors.shape[1], CHUNK_ROWS):
        rows = slice(begin, begin + CHUNK_ROWS)
        squares = np.square(vectors[:, rows].astype(np.float32))
        for place, (start, level) in enumerate(places):
            norm = np.sqrt(squares[..., start : start + level].sum(-1))
            scale[:, rows, place] = np.where(norm < 1e-5, 0, 1 / np.maximum(norm, 1e-5))
    return ValueFactors(row, vectors, scale)


def blank_counts(schema: Schema) -> tuple[dict[str, ValueStatistics], dict[str, ValueFactors]]:
    """Return counts of unknown values and factors without a vector, for initialising a model."""
    row, offsets = np.zeros(1, np.int32), np.zeros(2, np.int32)
    counts = ValueStatistics(row, offsets, row, row, row, sequences=1, least=1, longest=1)
    factors = {}
    for feature in factor_features(schema):
        transitions = feature is schema.item[0]
        components = (DIRECTED if transitions else 1) * factor_levels(feature.size or 0)[-1]
        vectors = np.zeros((1, 1, components), np.float16)
        factors[feature.name] = with_scale(row, vectors, transitions=transitions)
    return dict.fromkeys([f.name for f in statistics_features(schema)], counts), factors

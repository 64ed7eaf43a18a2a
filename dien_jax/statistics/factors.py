"""Factorization of training events: vectors of values from common users and from transitions.

Interactions are a sparse matrix N ``[S, V]``: N[s, v] = 1 / sqrt(|s| |v|) where user s chose value
v; |s| is the number of values of s, |v| that of users of v. A truncated singular value
decomposition N ~ U diag(s) W^T gives value v the vector ``W[v] * sqrt(s)``. Values that similar
users chose have similar vectors, even if no user chose both.

Items have two more vectors, which depend on order. A[v, w] sums over users who chose v before w,
both for the first time: 1 if w is the next new value, 1/2 if the second next, 1/3 if the third.
A / sqrt(|v| |w|) ~ U diag(s) W^T, where |v| and |w| are row and column sums of A, at least 1.
``U[v] * sqrt(s)`` is the vector of v as an earlier event, ``W[w] * sqrt(s)`` of w as the next one.

Users are assigned to ``FOLDS`` folds at random. Table 0 is from all users, table k from those
outside fold k, so that a training example can read vectors that its own user did not affect.

Sources: Cremonesi et al., RecSys 2010 (PureSVD); Shen et al., CIKM 2021 (normalisation by both
degrees); Rendle et al., WWW 2010 (factors of transitions).

Dimensions: S sequences (users), V values of a feature, R values with a vector, D components of one
vector, L levels.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import sparse

from dien_jax.data import tables
from dien_jax.data.dataset import Dataset
from dien_jax.data.tables import DIRECTED, FOLDS, factor_levels, folds_of
from dien_jax.statistics.counting import first_occurrences
from dien_jax.statistics.singular_vectors import singular_vectors
from dien_jax.statistics.training_events import (
    TrainingEvents,
    map_slices,
    of_sequences,
    training_events,
    values_of_items,
)
from dien_jax.utils.machine import thread_count, trim_memory

MAX_VALUES = 1 << 16  # maximum number of values with a vector
MAX_INTERACTIONS = 1 << 22  # in a factorization; of longer logs, only every k-th user is read
LAGS = 3  # new values after a value that count as next


def factorise_features(
    dataset: Dataset, interactions: Mapping[str, int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return rows and vectors of every feature with factors; see :func:`factorise`."""
    events, found = training_events(dataset), {}
    for feature in tables.factor_features(dataset.schema):
        value_of, count = values_of_items(dataset, feature), interactions[feature.name]
        how: Any = {"interactions": count, "transitions": feature is dataset.schema.item[0]}
        found[feature.name] = factorise(events, value_of, feature.size or 0, **how)
    return found


def factorise(
    events: TrainingEvents,
    value_of: np.ndarray,
    size: int,
    *,
    interactions: int,
    transitions: bool = False,
    most_values: int = MAX_VALUES,
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and vectors of one feature's V = ``size`` values, see :class:`.ValueFactors`.

    ``value_of`` is int ``[items]``, the value of each item; ``UNKNOWN`` has no vector.
    ``interactions`` is the number of interactions, the sum of :attr:`ValueStatistics.count`. The
    ``most_values`` values with most users have a vector, and with ``transitions`` also the two of
    transitions; the vectors of others are zeros.
    """
    step = -(-interactions // MAX_INTERACTIONS) or 1
    sequence, value = _read_interactions(events, value_of, step)
    users = np.bincount(value, minlength=size)
    kept = np.sort(np.argsort(-users, kind="stable")[:most_values])
    kept = kept[users[kept] > 0]
    row = np.zeros(size, np.int32)
    row[kept] = np.arange(1, len(kept) + 1)
    is_kept = row[value] > 0
    sequence, value = sequence[is_kept], row[value[is_kept]] - 1
    components, vectors_of_value = factor_levels(size)[-1], DIRECTED if transitions else 1
    vectors = np.zeros((1 + FOLDS, len(kept) + 1, vectors_of_value * components), np.float16)
    fold = folds_of(sequence)
    for table in range(1 + FOLDS):
        is_other = fold != table
        others, frequent = _by_frequency(value[is_other], len(kept))
        chosen = sequence[is_other], others, len(frequent), components
        rows = 1 + frequent
        (vectors[table, rows, :components],) = _vectors(*chosen)
        if transitions:
            earlier, later = _transition_vectors(*chosen)
            vectors[table, rows, components : 2 * components] = earlier
            vectors[table, rows, 2 * components :] = later
            del earlier, later
    return row, vectors


def _read_interactions(
    events: TrainingEvents, value_of: np.ndarray, step: int
) -> Iterable[np.ndarray]:
    """Return sequence and value of the interactions of every user whose number ``step`` divides.

    They are distinct values, int32, by user and in the order of their first occurrences.
    """

    def of_slice(own: TrainingEvents) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.arange(len(own.offsets) - 1) + own.first_sequence
        firsts = first_occurrences(of_sequences(own, numbers % step == 0), value_of)
        return firsts.sequence + np.int32(own.first_sequence), firsts.value

    pieces = map_slices(of_slice, events, thread_count())
    return map(np.concatenate, zip(*pieces, strict=True))


def _by_frequency(value: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Renumber the chosen values by descending number of users; also return them in that order.

    Products with the matrices then read the vectors of frequent values from the cache.
    """
    users = np.bincount(value, minlength=size)
    order = np.argsort(-users, kind="stable")[: np.count_nonzero(users)]
    place = np.zeros(size, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return place[value], order


def _vectors(
    sequence: np.ndarray, value: np.ndarray, values: int, components: int
) -> list[np.ndarray]:
    """Return unit vectors ``[values, D]``; zeros for values that nobody chose."""
    row = np.cumsum(np.diff(sequence, prepend=sequence[:1]) != 0, dtype=np.int32)
    degree = np.bincount(row).astype(np.float32)
    users = np.bincount(value, minlength=values).astype(np.float32)
    entries = 1 / np.sqrt(degree[row] * users[value])
    matrix = sparse.csr_array((entries, (row, value)), shape=(len(degree), values))
    return _unit_vectors(matrix, components, sides=("right",))


def _transition_vectors(
    sequence: np.ndarray, value: np.ndarray, values: int, components: int
) -> list[np.ndarray]:
    """Return unit vectors of values as earlier events and as next ones, ``[values, D]`` each."""
    entries, earlier, later = [], [], []
    for lag in range(1, LAGS + 1):
        place = np.flatnonzero(sequence[lag:] == sequence[:-lag])
        entries.append(np.full(len(place), 1 / lag, np.float32))
        earlier.append(value[place])
        later.append(value[place + lag])
    weight, before, after = map(np.concatenate, (entries, earlier, later))
    del entries, earlier, later  # millions each
    degrees = [np.bincount(end, weight, values).clip(1) for end in (before, after)]
    for end, degree in zip((before, after), degrees, strict=True):
        weight *= (1 / np.sqrt(degree)).astype(np.float32)[end]
    matrix = sparse.csr_array((weight, (before, after)), shape=(values, values))
    del weight, before, after
    return _unit_vectors(matrix, components)


def _unit_vectors(
    matrix: sparse.csr_array, components: int, sides: tuple[str, ...] = ("left", "right")
) -> list[np.ndarray]:
    """Return the unit vectors of the rows (left) and columns (right) of a matrix, ``[., D]``."""
    sizes = dict(zip(("left", "right"), matrix.shape, strict=True))
    units = {side: np.zeros((sizes[side], components), np.float32) for side in sides}
    if matrix.nnz:
        vectors = singular_vectors(matrix, components, with_left="left" in sides)
        trim_memory()  # allocators of threads keep freed memory
        root = np.sqrt(vectors.singular)
        for side, unit in units.items():
            np.multiply(getattr(vectors, side), root, out=unit[:, : len(root)])
            norm = np.sqrt(np.einsum("vd,vd->v", unit, unit))
            # A value that no component reaches has a vector of rounding errors.
            unit *= np.where(norm > 1e-5, 1 / np.maximum(norm, 1e-5), 0)[:, None]
    return list(units.values())

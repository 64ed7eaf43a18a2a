"""Factors of training events: vectors of values that the same users chose, and of what came next.

The users' choices are a sparse matrix N ``[S, V]``: N[s, v] = 1 / sqrt(|s| |v|) where user s chose
value v, |s| are the values of s and |v| the users of v. A truncated singular value decomposition
N ~ U diag(s) W^T gives value v the vector ``W[v] * sqrt(s)``. Values that similar users chose have
similar vectors, even if no user chose both.

Items have two more vectors, which keep the order. A ``[V, V]`` has the users who chose v for the
first time before w, a pair of neighbours counting 1, of the next but one 1/2, then 1/3:
A / sqrt(|v| |w|) ~ U diag(s) W^T, where |v| and |w| are sums of its rows and columns, at least 1.
``U[v] * sqrt(s)`` is the vector of v as an event, ``W[w] * sqrt(s)`` that of w as what comes next.

The users are divided into ``FOLDS`` folds at random. Table 0 is of all users; table k is of those
outside fold k, so that a training example can be read without what its own user did.

Sources: Cremonesi et al., RecSys 2010 (PureSVD); Halko et al., SIAM Review 53(2), 2011, algorithm
4.4 (subspace iteration); Shen et al., CIKM 2021 (normalisation by both degrees); Rendle et al., WWW
2010 (factors of transitions).

Dimensions: S sequences (users), V values of a feature, R values with a vector, D components of one
vector, L levels.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from dien_jax.data.counting import Firsts, Occurrences, TrainingEvents
from dien_jax.data.schema import Feature, Schema, ValueFactors, statistics_features

LEVELS = (16, 32, 64, 128)
"""Leading components whose similarities are inputs of a model, where there are enough values."""
FOLDS = 4
"""Folds of users."""
MAX_VALUES = 1 << 16
"""Values with a vector, those of most users; the vectors of others are zeros."""
MAX_CHOICES = 1 << 22
"""Choices that are factorised; of longer logs, those of some users, evenly apart."""
ITERATIONS, EXTRA = 12, 32
"""Steps of the subspace iteration, and its vectors beyond those that are kept."""
STEPS_TOGETHER = 2
"""Steps between two orthonormal bases."""
SMALLEST = 1e-13
"""Least square of a singular value, relative to the largest: smaller ones are rounding."""
LAGS = 3
"""Events after an event that come next."""
DIRECTED = 3
"""Vectors of a value with transitions: of who chose it, as an event, and as what comes next."""


def factor_levels(size: int) -> tuple[int, ...]:
    """Return the numbers of leading components for a feature of ``size`` values, rising.

    They are at most a third of the values: more would tell each value from all others.
    """
    return tuple(level for level in LEVELS if 3 * level <= size)


def factor_features(schema: Schema) -> tuple[Feature, ...]:
    """Return the features with factors: those with statistics that have enough values."""
    return tuple(f for f in statistics_features(schema) if factor_levels(f.size or 0))


def folds(sequence: np.ndarray) -> np.ndarray:
    """Return the table for training examples of some sequences: int32, 1 to ``FOLDS``."""
    mixed = (sequence.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(33)) % np.uint64(FOLDS)).astype(np.int32) + 1


class _Choices(NamedTuple):
    """Distinct values of users, by user and in the order of their first occurrences."""

    sequence: np.ndarray
    value: np.ndarray


def factorise(
    parts: Collection[TrainingEvents], value_of: np.ndarray, size: int, *, transitions: bool = False
) -> ValueFactors:
    """Return the vectors of one feature's values.

    Args:
      parts: the events and the training examples.
      value_of: int ``[items]``, the value of each item; ``UNKNOWN`` has no vector.
      size: V, of which :func:`factor_levels` must give a level.
      transitions: whether values have the vectors of transitions too.
    """
    choices = _read_choices(Occurrences(parts, value_of))
    users = np.bincount(choices.value, minlength=size)
    kept = np.sort(np.argsort(-users, kind="stable")[:MAX_VALUES])
    kept = kept[users[kept] > 0]
    row = np.zeros(size, np.int32)
    row[kept] = np.arange(1, len(kept) + 1)
    choices = _where(choices._replace(value=row[choices.value] - 1), row[choices.value] > 0)
    components, vectors_of_value = factor_levels(size)[-1], DIRECTED if transitions else 1
    vectors = np.zeros((1 + FOLDS, len(kept) + 1, vectors_of_value * components), np.float16)
    fold = folds(choices.sequence)
    # Threads of BLAS that wait for each other cost more than these short products.
    with threadpool_limits(1, "blas"):
        for table in range(1 + FOLDS):
            part = _where(choices, fold != table)
            found = [_vectors(part, len(kept), components)]
            if transitions:
                found += _transition_vectors(part, len(kept), components)
            vectors[table, 1:] = np.concatenate(found, axis=1)
    return with_scale(row, vectors)


def _read_choices(occurrences: Occurrences) -> _Choices:
    """Return the choices of all users, or of as many as ``MAX_CHOICES`` allows."""
    total = sum(occurrences.each(lambda _, firsts: len(firsts.value)))
    step = -(-total // MAX_CHOICES) or 1

    def of_part(events: TrainingEvents, firsts: Firsts) -> _Choices:
        sequence = firsts.sequence.astype(np.int64) + events.first_sequence
        return _where(_Choices(sequence, firsts.value.astype(np.int64)), sequence % step == 0)

    parts = list(occurrences.each(of_part))
    return _Choices(*map(np.concatenate, zip(*parts, strict=True)))


def _where(choices: _Choices, is_kept: np.ndarray) -> _Choices:
    return _Choices(*(column[is_kept] for column in choices))


def has_transitions(factors: ValueFactors) -> bool:
    """Return whether values have the vectors of transitions."""
    return factors.vectors.shape[2] not in LEVELS


def without_transitions(factors: ValueFactors) -> ValueFactors:
    """Return factors whose values have the first vector alone."""
    row, vectors, scale = factors
    if not has_transitions(factors):
        return factors
    components, levels = (array.shape[2] // DIRECTED for array in (vectors, scale))
    return ValueFactors(row, vectors[..., :components], scale[..., :levels])


def with_scale(row: np.ndarray, vectors: np.ndarray) -> ValueFactors:
    """Return factors with the scale of each level, from the rows and vectors that folders have."""
    parts = 1 if vectors.shape[2] in LEVELS else DIRECTED
    components = vectors.shape[2] // parts
    levels = [level for level in LEVELS if level <= components]
    scale = np.empty((*vectors.shape[:2], parts * len(levels)), np.float32)
    places = [(part * components, level) for part in range(parts) for level in levels]
    for table in range(len(vectors)):  # one at a time, for less memory
        squares = np.square(vectors[table].astype(np.float32))
        for place, (start, level) in enumerate(places):
            norm = np.sqrt(squares[:, start : start + level].sum(-1))
            is_zero = norm < 1e-5
            scale[table, :, place] = np.where(is_zero, 0, 1 / np.where(is_zero, 1, norm))
    return ValueFactors(row, vectors, scale)


def _vectors(choices: _Choices, values: int, components: int) -> np.ndarray:
    """Return unit vectors ``[values, D]``; zeros for values that nobody chose."""
    _, sequence = np.unique(choices.sequence, return_inverse=True)
    degree = np.bincount(sequence).astype(np.float32)
    users = np.bincount(choices.value, minlength=values).astype(np.float32)
    entries = 1 / np.sqrt(degree[sequence] * users[choices.value])
    shape = (len(degree), values)
    matrix = sparse.csr_array((entries, (sequence, choices.value)), shape=shape)
    return _unit_vectors(matrix, components)[1]


def _transition_vectors(choices: _Choices, values: int, components: int) -> list[np.ndarray]:
    """Return unit vectors of values as events and as what comes next, ``[values, D]`` each."""
    entries, earlier, later = [], [], []
    for lag in range(1, LAGS + 1):
        place = np.flatnonzero(choices.sequence[lag:] == choices.sequence[:-lag])
        entries.append(np.full(len(place), 1 / lag, np.float32))
        earlier.append(choices.value[place])
        later.append(choices.value[place + lag])
    weight, before, after = map(np.concatenate, (entries, earlier, later))
    degrees = (np.bincount(end, weight, values).clip(1) for end in (before, after))
    of_before, of_after = degrees
    weight /= np.sqrt(of_before[before] * of_after[after])
    matrix = sparse.csr_array((weight.astype(np.float32), (before, after)), shape=(values, values))
    return _unit_vectors(matrix, components)


def _unit_vectors(matrix: sparse.csr_array, components: int) -> list[np.ndarray]:
    """Return the unit vectors of the rows and of the columns of a matrix, ``[., D]`` each."""
    vectors = [np.zeros((size, components), np.float32) for size in matrix.shape]
    if not matrix.nnz:
        return vectors
    left, singular, right = _singular_vectors(matrix, components)
    for target, found in zip(vectors, (left, right), strict=True):
        target[:, : len(singular)] = found * np.sqrt(singular)[None, :]
        norm = np.linalg.norm(target, axis=1, keepdims=True)
        # One that no component reaches has a vector of rounding errors alone.
        target[:] = np.where(norm > 1e-5, target / np.maximum(norm, 1e-5), 0)
    return vectors


def _singular_vectors(
    matrix: sparse.csr_array, components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return left vectors, the largest singular values ``[D]``, and right vectors ``[., D]``."""
    if min(matrix.shape) <= 2 * components:
        left, singular, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
        return left[:, :components], singular[:components], right[:components].T
    rows, columns = matrix.tocsr(), matrix.T.tocsr()
    start = np.random.default_rng(0).standard_normal((matrix.shape[1], components + EXTRA))
    basis = start.astype(np.float32)
    for step in range(1, ITERATIONS + 1):
        basis = columns @ (rows @ basis)
        if step % STEPS_TOGETHER == 0:
            basis = _orthonormal(basis)
    basis = _orthonormal(_orthonormal(basis))  # the second time corrects the rounding of the first
    projected = rows @ basis
    squares, turn = _principal(projected)
    largest = slice(None, -components - 1, -1)
    singular = np.sqrt(np.maximum(squares[largest], SMALLEST * squares[-1])).astype(np.float32)
    turned = turn[:, largest].astype(np.float32)
    return projected @ turned / singular, singular, basis @ turned


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the columns ``[V, D]``; zeros for those that depend on others.

    It comes from products of all columns at once, which are fast for many rows.
    """
    squares, turn = _principal(vectors)
    is_small = squares < SMALLEST * squares[-1]
    scale = np.where(is_small, 0, 1 / np.sqrt(np.where(is_small, 1, squares)))
    return vectors @ (turn * scale).astype(np.float32)


def _principal(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared singular values of columns, rising, and the right vectors, ``[D, D]``."""
    exact = vectors.astype(np.float64)
    return np.linalg.eigh(exact.T @ exact)

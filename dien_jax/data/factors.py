"""Factors of who chose what in training: vectors of values that the same users chose.

The users' choices are a sparse matrix N ``[S, V]``: N[s, v] = 1 / sqrt(|s| |v|) where user s chose
value v, |s| are the values of s and |v| the users of v. A truncated singular value decomposition
N ~ U diag(s) W^T gives value v the vector ``W[v] * sqrt(s)``. Values that similar users chose have
similar vectors, even if no user chose both.

The users are divided into ``FOLDS`` folds at random. Table 0 is of all users; table k is of those
outside fold k, so that a training example can be read without what its own user did.

Sources: Cremonesi et al., RecSys 2010 (PureSVD); Shen et al., CIKM 2021 (normalisation by both
degrees).

Dimensions: S sequences (users), V values of a feature, R values with a vector, D components.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds
from threadpoolctl import threadpool_limits

from dien_jax.data.counting import TrainingEvents, first_occurrences
from dien_jax.data.schema import Feature, Schema, ValueFactors, statistics_features

LEVELS = (16, 32, 64, 128)
"""Leading components whose similarities are inputs of a model, where there are enough values."""
FOLDS = 4
"""Folds of users."""
MAX_VALUES = 1 << 16
"""Values with a vector, those of most users; the vectors of others are zeros."""
MAX_CHOICES = 1 << 22
"""Choices that are factorised; of longer logs, those of some users, evenly apart."""
TOLERANCE = 1e-2
"""Relative accuracy of the squared singular values."""


class _Choices(NamedTuple):
    """Distinct values of each sequence."""

    sequence: np.ndarray
    value: np.ndarray


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


def factorise(events: TrainingEvents, value_of: np.ndarray, size: int) -> ValueFactors:
    """Return the vectors of one feature's values.

    Args:
      events: the events and the training examples.
      value_of: int ``[items]``, the value of each item; ``UNKNOWN`` has no vector.
      size: V, of which :func:`factor_levels` must give a level.
    """
    firsts = first_occurrences(events, value_of)
    step = -(-len(firsts.value) // MAX_CHOICES) or 1
    used = firsts.sequence % step == 0
    choices = _Choices(firsts.sequence[used], firsts.value[used])
    users = np.bincount(choices.value, minlength=size)
    kept = np.sort(np.argsort(-users, kind="stable")[:MAX_VALUES])
    kept = kept[users[kept] > 0]
    row = np.zeros(size, np.int32)
    row[kept] = np.arange(1, len(kept) + 1)
    columns = row[choices.value] - 1
    has_row = columns >= 0
    choices = _Choices(choices.sequence[has_row], columns[has_row])
    components = factor_levels(size)[-1]
    vectors = np.zeros((1 + FOLDS, len(kept) + 1, components), np.float16)
    fold = folds(choices.sequence)
    # Threads of BLAS that wait for each other cost more than these short products.
    with threadpool_limits(1, "blas"):
        for table in range(1 + FOLDS):
            members = fold != table
            part = _Choices(choices.sequence[members], choices.value[members])
            vectors[table, 1:] = _vectors(part, len(kept), components)
    return with_scale(row, vectors)


def with_scale(row: np.ndarray, vectors: np.ndarray) -> ValueFactors:
    """Return factors with the scale of each level, from the rows and vectors that folders have."""
    squares = np.square(vectors.astype(np.float32))
    levels = [level for level in LEVELS if level <= vectors.shape[2]]
    norms = np.sqrt(np.stack([squares[..., :level].sum(-1) for level in levels], axis=-1))
    is_zero = norms < 1e-5
    scale = np.where(is_zero, 0, 1 / np.where(is_zero, 1, norms)).astype(np.float32)
    return ValueFactors(row, vectors, scale)


def _vectors(choices: _Choices, values: int, components: int) -> np.ndarray:
    """Return unit vectors ``[values, components]``; zeros for values that nobody chose."""
    vectors = np.zeros((values, components), np.float32)
    if not len(choices.value):
        return vectors
    _, sequence = np.unique(choices.sequence, return_inverse=True)
    degree = np.bincount(sequence).astype(np.float32)
    users = np.bincount(choices.value, minlength=values).astype(np.float32)
    entries = 1 / np.sqrt(degree[sequence] * users[choices.value])
    shape = (len(degree), values)
    matrix = sparse.csr_array((entries, (sequence, choices.value)), shape=shape)
    right, singular = _singular_vectors(matrix, components)
    found = right.shape[1]
    vectors[:, :found] = right * np.sqrt(singular)[None, :]
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A value that no component reaches has a vector of rounding errors alone.
    return np.where(norm > 1e-5, vectors / np.maximum(norm, 1e-5), 0)


def _singular_vectors(matrix: sparse.csr_array, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the right singular vectors ``[V, D]`` of the largest singular values, and these."""
    if min(matrix.shape) <= 2 * components:
        _, singular, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
        return right[:components].T, singular[:components]
    start = np.random.default_rng(0).standard_normal(min(matrix.shape)).astype(np.float32)
    _, singular, right = svds(
        matrix, components, tol=TOLERANCE, v0=start, return_singular_vectors="vh"
    )
    largest = np.argsort(-singular)
    return right[largest].T, singular[largest]

"""The largest singular values of a sparse matrix and their vectors, by a block Lanczos method.

The matrix M ``[m, n]`` has singular values of at most 1, most of which differ little from their
neighbours. ``BLOCK`` random columns are multiplied by M^T M ``POWERS`` times. The basis is these
and ``STEPS - 1`` more blocks, each M^T M times the one before it, made orthonormal; the vectors are
those of M^T M within it. A matrix of no more columns than that is decomposed whole.

Nothing here has threads of its own: matrices are worked at side by side.

Sources: Golub and Underwood, Mathematical Software III, 1977 (block Lanczos); Musco and Musco, NIPS
2015 (few steps from random columns).

Dimensions: m rows, n columns of the matrix, D components, C columns of the basis.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse

BLOCK, POWERS, STEPS = 32, 4, 12
"""Columns of a product, products before the basis, and blocks of the basis."""
WIDTH, ROWS = 16, 1 << 12
"""Columns of a sparse product, and rows of a dense one, that are computed at a time."""
SMALLEST = 1e-6
"""Least square of a singular value, relative to the largest: smaller ones are rounding."""
SMALLEST_SHARE = 1e-10
"""Least square of what a product adds to the basis, relative to the largest."""


class Vectors(NamedTuple):
    """Singular values and their vectors; zeros in place of those that are only rounding."""

    left: np.ndarray | None  # float32 [m, D], if wanted
    singular: np.ndarray  # float32 [D], falling
    right: np.ndarray  # float32 [n, D]


def singular_vectors(
    matrix: sparse.csr_array, components: int, *, with_left: bool = True
) -> Vectors:
    """Return the largest singular values of a matrix, and their vectors.

    Args:
      matrix: M, float32.
      components: D; there are fewer where M has fewer rows or columns.
      with_left: whether the left vectors are wanted.
    """
    if matrix.shape[0] <= 2 * components:
        left, singular, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
        return Vectors(left[:, :components], singular[:components], right[:components].T)
    rows = matrix.tocsr()
    basis, image = _basis(rows) if rows.shape[1] > BLOCK * STEPS else _whole(rows)
    squares, turn = np.linalg.eigh(image, "U")
    squares, turn = squares[: -components - 1 : -1], turn[:, : -components - 1 : -1]
    is_zero = squares <= SMALLEST * squares[0]
    singular = np.sqrt(np.where(is_zero, 0, squares)).astype(np.float32)
    right = basis @ np.where(is_zero, 0, turn).astype(np.float32)
    if not with_left:
        return Vectors(None, singular, right)
    pieces = _pieces(right / np.where(is_zero, 1, singular).astype(np.float32))
    return Vectors(np.concatenate([rows @ piece for piece in pieces], axis=1), singular, right)


def _whole(rows: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Return a basis of all vectors, and M^T M."""
    exact = rows.astype(np.float64)
    return np.eye(rows.shape[1], dtype=np.float32), (exact.T @ exact).toarray()


def _basis(rows: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Return an orthonormal basis, float32 ``[n, C]``, and the upper half of M^T M in it."""
    block = np.random.default_rng(0).standard_normal((rows.shape[1], BLOCK), np.float32)
    for _ in range(POWERS):
        block = _orthonormal(_square(rows, block))
    scale = 0.0
    basis = np.zeros((len(block), BLOCK * STEPS), np.float32)
    image = np.zeros((BLOCK * STEPS, BLOCK * STEPS))
    for start in range(0, BLOCK * STEPS, BLOCK):
        new = slice(start, start + BLOCK)
        basis[:, new] = _orthonormal(block, scale)
        block = _square(rows, basis[:, new])
        scale = max(scale, float(np.einsum("nb,nb->b", block, block).max()))
        # Nearly all that is not new is in the last two blocks; then what rounding left in any.
        for first in (max(start - BLOCK, 0), 0):
            image[first : new.stop, new] += _take_out(block, basis[:, first : new.stop])
    return basis, image


def _square(rows: sparse.csr_array, block: np.ndarray) -> np.ndarray:
    """Return M^T M times a block."""
    # The transpose of rows has the same entries in columns: it reads what there is for each row of
    # M in turn and adds to frequent values, which stay in the cache.
    return np.concatenate([rows.T @ (rows @ piece) for piece in _pieces(block)], axis=1)


def _orthonormal(block: np.ndarray, scale: float = 0.0) -> np.ndarray:
    """Return orthonormal columns that span a block, zeros for what depends on others.

    So is what is only rounding of a product of this ``scale``, its largest square of a column.
    """
    exact = (block[part].astype(np.float64) for part in _parts(block))
    squares, turn = np.linalg.eigh(sum(part.T @ part for part in exact))
    is_kept = squares > SMALLEST_SHARE * max(float(squares[-1]), scale)
    turn *= np.where(is_kept, 1 / np.sqrt(np.where(is_kept, squares, 1)), 0)
    return np.asarray(block @ turn.astype(np.float32))


def _take_out(block: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Make a block orthogonal to a basis; return their products, ``[., BLOCK]``."""
    inner = np.asarray(sum(basis[part].T @ block[part] for part in _parts(block)))
    for part in _parts(block):
        block[part] -= basis[part] @ inner
    return inner


def _pieces(block: np.ndarray) -> Iterator[np.ndarray]:
    """Yield ``WIDTH`` columns at a time, which stay in the cache."""
    for start in range(0, block.shape[1], WIDTH):
        yield np.ascontiguousarray(block[:, start : start + WIDTH])


def _parts(block: np.ndarray) -> Iterator[slice]:
    """Yield slices of ``ROWS`` rows, which stay in the cache."""
    for start in range(0, len(block), ROWS):
        yield slice(start, start + ROWS)

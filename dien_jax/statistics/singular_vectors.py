"""The largest singular values of a sparse matrix and their vectors, by subspace iteration.

The matrix M ``[m, n]`` has singular values of at most 1, most of which differ little from their
neighbours. A basis with a few more columns than components is multiplied by M^T M twice. It gives a
bound a on the unwanted squared singular values, and is multiplied by the Chebyshev polynomial of
M^T M that is at most 1 on [0, a] and grows fastest beyond. The rest are products of dense matrices
with few columns.

Sparse products work on ``WIDTH`` columns at a time, which stay in the cache of a processor, dense
ones on ``BLOCK`` rows. Threads share these pieces, so results do not depend on their number.

Sources: Halko et al., SIAM Review 53(2), 2011, algorithm 4.4 (subspace iteration); Zhou and Saad,
SIAM Journal on Matrix Analysis 29(3), 2007 (Chebyshev filter).

Dimensions: m rows, n columns of the matrix, D components, C columns of the basis.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from dien_jax.data.arrays import chunks
from dien_jax.utils.machine import thread_count

EXTRA = 32  # columns of the basis beyond those that are kept
POWERS, DEGREE = 2, 5  # initial products with M^T M; degree of the filter's polynomial
SMALLEST_CUT = 0.03
"""Smallest bound a of the filter, relative to the largest square. The polynomial is then 2e10 at
the largest square, so the rounding of that vector does not hide the others."""
MOST_TURNS = 3  # maximum number of turns of a basis to the singular vectors within it
SMALLEST = 1e-13  # least square of a singular value, relative to the largest; less is rounding
SMALLEST_SHARE, SAFE_SHARE = 1e-13, 1e-5
"""Bounds on eigenvalues of the Gram matrix of normalised columns. Below the first, relative to the
largest, they are rounding; below the second, one turn is not accurate enough in float32."""
WIDTH, BLOCK = 20, 1 << 12  # columns of a sparse product, and rows of a dense one, at a time

Pieces = list[np.ndarray]  # float32 [n, WIDTH]; the last piece has the remaining columns


class Vectors(NamedTuple):
    """Singular values and their vectors."""

    left: np.ndarray | None  # float32 [m, D], if wanted
    singular: np.ndarray  # float32 [D], descending
    right: np.ndarray  # float32 [n, D]


class _Matrix(NamedTuple):
    """A sparse matrix M, and the threads that work on it."""

    rows: sparse.csr_array
    threads: ThreadPoolExecutor

    def power(self, vectors: np.ndarray) -> np.ndarray:
        """Return M^T M times some vectors ``[n, .]``."""
        # The transpose has the same entries by column: its product reads one row of M after another
        # and adds to frequent values, which stay in the cache.
        return np.asarray(self.rows.T @ (self.rows @ vectors))


def singular_vectors(
    matrix: sparse.csr_array, components: int, *, with_left: bool = True
) -> Vectors:
    """Return the largest singular values of a matrix M, float32, and their vectors.

    There are fewer than D = ``components`` if M has fewer rows or columns.
    """
    # Synchronizing threads of BLAS costs more than these short products.
    with ThreadPoolExecutor(thread_count()) as threads, threadpool_limits(1, "blas"):
        if matrix.shape[0] <= 2 * components:
            left, singular, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
            return Vectors(left[:, :components], singular[:components], right[:components].T)
        parts = _Matrix(matrix.tocsr(), threads)
        return _vectors_of(parts, _basis(parts, components), components, with_left)


def _basis(matrix: _Matrix, components: int) -> Pieces:
    size = matrix.rows.shape[1]
    if size <= 2 * components:
        return _pieces(np.eye(size, dtype=np.float32))
    start = np.random.default_rng(0).standard_normal((size, components + EXTRA), np.float32)

    def powers(vectors: np.ndarray) -> np.ndarray:
        for _ in range(POWERS):
            vectors = matrix.power(vectors)
        return vectors

    return _filtered(matrix, list(matrix.threads.map(powers, _pieces(start))))


def _vectors_of(matrix: _Matrix, basis: Pieces, components: int, with_left: bool) -> Vectors:
    """Return the singular values and vectors within a basis."""
    threads = matrix.threads
    for _ in range(MOST_TURNS):
        squares, turn, share = within_basis(_inner(basis, basis, threads), _gram(matrix, basis))
        if share >= SAFE_SHARE:
            break
        basis = _turned(basis, turn, threads)
    largest = slice(None, -components - 1, -1)
    singular = np.sqrt(np.maximum(squares[largest], SMALLEST * squares[-1])).astype(np.float32)
    right = np.concatenate(_turned(basis, turn[:, largest], threads), axis=1)
    left = None
    if with_left:
        parts = threads.map(matrix.rows.__matmul__, _pieces(right / singular))
        left = np.concatenate(list(parts), axis=1)
    return Vectors(left, singular, right)


def _filtered(matrix: _Matrix, basis: Pieces) -> Pieces:
    """Return the Chebyshev polynomial of M^T M times a basis."""
    threads = matrix.threads
    for _ in range(MOST_TURNS):
        power = list(threads.map(matrix.power, basis))
        inner = _inner(basis, basis, threads)
        values, turn, share = within_basis(inner, _inner(basis, power, threads))
        if share >= SAFE_SHARE:
            break
        basis = _turned(basis, turn, threads)
    cut = max(values[EXTRA // 2], SMALLEST_CUT * values[-1], np.finfo(np.float32).tiny)
    double = np.float32(2 / cut)

    def chebyshev(before: np.ndarray, power: np.ndarray) -> np.ndarray:
        current = double * power - before
        for _ in range(DEGREE - 1):
            following = matrix.power(current)
            following *= double
            following -= current
            following *= 2
            following -= before
            before, current = current, following
        return current

    # Each column is near a singular vector of M, and has its own scale.
    turned = (_turned(vectors, turn, threads) for vectors in (basis, power))
    return list(threads.map(chebyshev, *turned))


def within_basis(inner: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the squared singular values of M within a basis, and the matrix that gives vectors.

    ``inner`` is the Gram matrix of the basis, ``[C, C]``; ``image`` has the products of the basis
    with M^T M times it. Return squares, ascending ``[C]``; the turn ``[C, C]``: the basis times
    this matrix has orthonormal columns, or zeros for dependent ones; and the least eigenvalue,
    above rounding, of the Gram matrix of normalised columns.
    """
    norm = np.sqrt(np.diag(inner))
    scale = np.where(norm > 0, 1 / np.where(norm > 0, norm, 1), 0)
    squares, turn = np.linalg.eigh(inner * scale * scale[:, None])
    is_small = squares < SMALLEST_SHARE * squares[-1]
    turn *= scale[:, None] * np.where(is_small, 0, 1 / np.sqrt(np.where(is_small, 1, squares)))
    values, ritz = np.linalg.eigh(turn.T @ (image + image.T) @ turn / 2)
    return values, turn @ ritz, float(np.min(squares, where=~is_small, initial=np.inf))


def _turned(basis: Pieces, turn: np.ndarray, threads: ThreadPoolExecutor) -> Pieces:
    """Return a basis times a small matrix ``[C, .]``."""
    rows, turn = len(basis[0]), turn.astype(np.float32)
    starts = range(0, turn.shape[1], WIDTH)
    turned = [np.empty((rows, min(WIDTH, turn.shape[1] - start)), np.float32) for start in starts]

    def of_block(block: slice) -> None:
        product = _rows(basis, block, np.float32) @ turn
        for start, piece in zip(starts, turned, strict=True):
            piece[block] = product[:, start : start + WIDTH]

    list(threads.map(of_block, chunks(rows, BLOCK)))
    return turned


def _pieces(vectors: np.ndarray) -> Pieces:
    """Split into pieces of ``WIDTH`` columns."""
    starts = range(0, vectors.shape[1], WIDTH)
    return [np.ascontiguousarray(vectors[:, start : start + WIDTH]) for start in starts]


def _rows(pieces: Pieces, block: slice, dtype: type[np.floating]) -> np.ndarray:
    """Return some rows of all columns."""
    return np.concatenate([piece[block] for piece in pieces], axis=1, dtype=dtype)


def _inner(left: Pieces, right: Pieces, threads: ThreadPoolExecutor) -> np.ndarray:
    """Return the products of all columns with all columns, float64 ``[C, C]``."""

    def of_block(block: slice) -> np.ndarray:
        ours = _rows(left, block, np.float64)
        return np.asarray(ours.T @ (ours if right is left else _rows(right, block, np.float64)))

    return np.asarray(sum(threads.map(of_block, chunks(len(left[0]), BLOCK))))


def _gram(matrix: _Matrix, basis: Pieces) -> np.ndarray:
    """Return the Gram matrix of M times a basis, float64 ``[C, C]``."""

    def of_block(block: slice) -> np.ndarray:
        rows = matrix.rows[block]
        image = _rows([rows @ piece for piece in basis], slice(None), np.float64)
        return np.asarray(image.T @ image)

    return np.asarray(sum(matrix.threads.map(of_block, chunks(matrix.rows.shape[0], BLOCK))))

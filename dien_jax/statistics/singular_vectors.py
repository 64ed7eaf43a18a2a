"""The largest singular values of a sparse matrix and their vectors, by subspace iteration.

The matrix M ``[m, n]`` has singular values of at most 1, most of which differ little from their
neighbours. A basis of a few more columns than are wanted is multiplied by M^T M twice. After that,
each round takes an estimate a of the squares that are not wanted from the basis itself, and
multiplies by the Chebyshev polynomial of M^T M that is at most 1 from 0 to a and grows fastest
beyond it. The rest are products of dense matrices of few columns.

Sparse products work on ``WIDTH`` columns at a time, which stay in the cache of a processor, dense
ones on ``BLOCK`` rows. Threads share these pieces, so results do not depend on their number.

Sources: Halko et al., SIAM Review 53(2), 2011, algorithm 4.4 (subspace iteration); Zhou and Saad,
SIAM Journal on Matrix Analysis 29(3), 2007 (Chebyshev filter).

Dimensions: m rows, n columns of the matrix, D components, C columns of the basis.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from dien_jax.utils.machine import thread_count

EXTRA = 32  # columns of the basis beyond those that are kept
POWERS, ROUNDS, DEGREE = 2, 1, 5
"""Products with M^T M at first; rounds of the filter, and the degree of its polynomial."""
SMALLEST_CUT = 0.03
"""Least square that the filter tells from smaller ones, relative to the largest. The polynomial is
2e10 at the largest then, and rounding of that vector hides no other one."""
MOST_TURNS = 3  # turns of a basis to the vectors within it, at most
SMALLEST = 1e-13  # least square of a singular value, relative to the largest; less is rounding
SMALLEST_SHARE, SAFE_SHARE = 1e-13, 1e-5
"""Least square of what a column has that others do not have. Below the first it is rounding; below
the second, vectors within a basis are found in several turns, as float32 rounds the first."""
WIDTH, BLOCK = 20, 1 << 12  # columns of a sparse product, and rows of a dense one, at a time

Pieces = list[np.ndarray]  # float32 [n, WIDTH], and the rest of the columns


class Vectors(NamedTuple):
    """Singular values and their vectors."""

    left: np.ndarray | None  # float32 [m, D], if wanted
    singular: np.ndarray  # float32 [D], falling
    right: np.ndarray  # float32 [n, D]


class _Matrix(NamedTuple):
    """A sparse matrix M, and the threads that work on it."""

    rows: sparse.csr_array
    threads: ThreadPoolExecutor

    def power(self, vectors: np.ndarray) -> np.ndarray:
        """Return M^T M times some vectors ``[n, .]``."""
        # The transpose of rows has the same entries in columns: it reads what there is for each row
        # of M in turn and adds to frequent values, which stay in the cache.
        return np.asarray(self.rows.T @ (self.rows @ vectors))


def singular_vectors(
    matrix: sparse.csr_array, components: int, *, with_left: bool = True
) -> Vectors:
    """Return the largest singular values of a matrix M, float32, and their vectors.

    There are fewer than D = ``components`` where M has fewer rows or columns.
    """
    # Threads of BLAS that wait for each other cost more than these short products.
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

    basis = list(matrix.threads.map(powers, _pieces(start)))
    for _ in range(ROUNDS):
        basis = _filtered(matrix, basis)
    return basis


def _vectors_of(matrix: _Matrix, basis: Pieces, components: int, with_left: bool) -> Vectors:
    """Return the vectors within a basis."""
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
    """Return the polynomial of M^T M times a basis."""
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

    # Each column is near a vector of M, and has a scale of its own.
    turned = (_turned(vectors, turn, threads) for vectors in (basis, power))
    return list(threads.map(chebyshev, *turned))


def within_basis(inner: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the squared singular values of M within a basis, and how its vectors come from it.

    ``inner`` are the products of the basis's columns with each other, ``[C, C]``, ``image`` those
    with M^T M times the columns. Return squares, rising ``[C]``, and the turn ``[C, C]``: the basis
    times it has orthonormal columns, or zeros for what depends on others. And the least square of
    what a column has that others do not have.
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

    list(threads.map(of_block, _blocks(rows)))
    return turned


def _pieces(vectors: np.ndarray) -> Pieces:
    """Return ``WIDTH`` columns at a time."""
    starts = range(0, vectors.shape[1], WIDTH)
    return [np.ascontiguousarray(vectors[:, start : start + WIDTH]) for start in starts]


def _blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, BLOCK):
        yield slice(start, start + BLOCK)


def _rows(pieces: Pieces, block: slice, dtype: type[np.floating]) -> np.ndarray:
    """Return some rows of all columns."""
    return np.concatenate([piece[block] for piece in pieces], axis=1, dtype=dtype)


def _inner(left: Pieces, right: Pieces, threads: ThreadPoolExecutor) -> np.ndarray:
    """Return the products of all columns with all columns, float64 ``[C, C]``."""

    def of_block(block: slice) -> np.ndarray:
        ours = _rows(left, block, np.float64)
        return np.asarray(ours.T @ (ours if right is left else _rows(right, block, np.float64)))

    return np.asarray(sum(threads.map(of_block, _blocks(len(left[0])))))


def _gram(matrix: _Matrix, basis: Pieces) -> np.ndarray:
    """Return the products of the columns of M times a basis, float64 ``[C, C]``."""

    def of_block(block: slice) -> np.ndarray:
        rows = matrix.rows[block]
        image = _rows([rows @ piece for piece in basis], slice(None), np.float64)
        return np.asarray(image.T @ image)

    return np.asarray(sum(matrix.threads.map(of_block, _blocks(matrix.rows.shape[0]))))

"""The largest singular values of a sparse matrix and their vectors."""

import numpy as np
import pytest
from scipy import sparse
from threadpoolctl import threadpool_limits

from dien_jax.statistics.singular_vectors import SMALLEST_CUT, singular_vectors

pytestmark = pytest.mark.fast


def random_matrix(rows: int = 3000, columns: int = 2000, entries: int = 30_000) -> sparse.csr_array:
    """Return a matrix whose largest singular value is 1."""
    random = np.random.default_rng(3)
    row, column = (random.integers(0, size, entries) for size in (rows, columns))
    degrees = [np.bincount(place)[place] for place in (row, column)]
    weight = (1 / np.sqrt(degrees[0] * degrees[1])).astype(np.float32)
    return sparse.csr_array((weight, (row, column)), shape=(rows, columns))


@pytest.mark.parametrize("threads", [2, 3])
def test_the_bits_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    found = []
    for number in (1, threads):
        with threadpool_limits(number, "blas"):
            found.append(singular_vectors(random_matrix(), 64))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_left_vectors_are_not_computed_if_not_wanted() -> None:
    both = singular_vectors(random_matrix(), 16)
    right = singular_vectors(random_matrix(), 16, with_left=False)
    assert right.left is None
    np.testing.assert_array_equal(right.right, both.right)


def test_the_steps_of_the_iteration_suffice_where_values_are_alike() -> None:
    random, groups, users = np.random.default_rng(0), 40, 3000
    of_value = random.integers(0, groups, 400)
    chosen = [
        random.choice(np.flatnonzero(of_value == user % groups), 6, replace=True)
        for user in range(users)
    ]
    columns = np.concatenate(chosen)
    shape = (users, len(of_value))
    rows = np.repeat(np.arange(users), 6)
    matrix = sparse.csr_array((random.random(len(rows)).astype(np.float32), (rows, columns)), shape)
    left, singular, right = singular_vectors(matrix, 64)
    assert left is not None
    exact = np.linalg.svd(matrix.toarray().astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(singular, exact[1][:64], rtol=0.03)
    np.testing.assert_allclose(singular[:groups], exact[1][:groups], rtol=1e-3)
    for found, expected in ((left, exact[0]), (right, exact[2].T)):
        np.testing.assert_allclose(found.T @ found, np.eye(64), atol=1e-4)
        ours, theirs = found[:, :groups], expected[:, :groups]
        np.testing.assert_allclose(np.linalg.svd(ours.T @ theirs)[1], 1, atol=1e-2)


@pytest.mark.parametrize("decay", [0.8, 0.95])
def test_singular_values_that_fall_fast_are_told_apart(decay: float) -> None:
    random = np.random.default_rng(1)
    bases = [np.linalg.qr(random.standard_normal((300, 300)))[0] for _ in range(2)]
    expected = decay ** np.arange(300)
    matrix = sparse.csr_array(((bases[0] * expected) @ bases[1].T).astype(np.float32))
    left, singular, right = singular_vectors(matrix, 16)
    assert left is not None
    np.testing.assert_allclose(singular, expected[:16], atol=1e-3)
    exact = np.count_nonzero(expected[:16] ** 2 > SMALLEST_CUT)  # the filter tells these apart
    for found, base in ((left, bases[0]), (right, bases[1])):
        alike = np.abs(np.einsum("nd,nd->d", found, base[:, :16]))[:exact]
        np.testing.assert_allclose(alike, 1, atol=1e-3)

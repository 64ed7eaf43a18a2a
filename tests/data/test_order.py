"""The order that is computed: windows of one permutation, each by length bucket."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dien_jax.data.order import WINDOW, KeyedOrder, StoredOrder, permuted

pytestmark = pytest.mark.fast

EDGES = np.array([2, 4, 8, 12])
FEW = 3
"""Batches of a window, so that a few examples are several."""


def keyed(lengths: np.ndarray, batch_size: int, seed: int = 0, window: int = WINDOW) -> KeyedOrder:
    return KeyedOrder(lambda rows: lengths[rows], len(lengths), EDGES, batch_size, seed, window)


def epoch_of(order, size: int, batch_size: int, epoch: int = 0) -> list[np.ndarray]:
    return [order.indices(epoch, step) for step in range(-(-size // batch_size))]


@pytest.mark.parametrize("size", [*range(18), 63, 64, 65, 1000, 2**12 + 1])
def test_every_number_of_a_range_is_permuted_to_one_of_it(size) -> None:
    values = permuted(np.arange(size), size, (3, 1))
    assert sorted(values.tolist()) == list(range(size))
    some = np.arange(0, size, 3)
    np.testing.assert_array_equal(permuted(some, size, (3, 1)), values[::3])


def test_large_ranges_are_permuted_without_repetition() -> None:
    size = 10**12 + 7
    values = permuted(np.arange(100_000) * 9_999_991, size, (0,))
    assert len(np.unique(values)) == 100_000
    assert 0 <= values.min() < values.max() < size


@pytest.mark.parametrize("size", [24, 100])
def test_values_are_uniform_over_keys_and_neighbours_independent(size) -> None:
    draws = np.array([permuted(np.arange(size), size, (0, key)) for key in range(600)])
    expected = 600 / size
    for place in (0, 1, size - 1):
        counts = np.bincount(draws[:, place], minlength=size)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - (size - 1)) < 5 * np.sqrt(2 * (size - 1))  # five deviations
    distance = (draws[:, 1:] - draws[:, :-1]) % size  # of neighbours: uniform, but never 0
    counts = np.bincount(distance.ravel(), minlength=size)
    expected = distance.size / (size - 1)
    assert counts[0] == 0
    assert (np.abs(counts[1:] - expected) < 6 * np.sqrt(expected)).all()


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(0, 12), max_size=70),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 3),
)
def test_an_epoch_has_all_examples_and_each_window_the_batches_of_the_stored_order(
    lengths, batch_size, seed
) -> None:
    values, size = np.array(lengths, np.int32), len(lengths)
    batches = epoch_of(keyed(values, batch_size, seed, FEW), size, batch_size, seed)
    assert sorted(np.concatenate([*batches, []]).tolist()) == list(range(size))
    for start in range(0, len(batches), FEW):
        window = batches[start : start + FEW]
        own = values[np.concatenate(window)]
        stored = StoredOrder("shuffled", own, EDGES, batch_size, seed)
        expected = [own[rows] for rows in epoch_of(stored, len(own), batch_size)]
        full = len(own) // batch_size
        found = buckets([values[rows] for rows in window])
        assert (
            sorted(found[:full]) + found[full:]
            == sorted(buckets(expected)[:full]) + buckets(expected)[full:]
        )


def buckets(lengths: list[np.ndarray]) -> list[list[int]]:
    """The length bucket of each example of each batch."""
    return [np.searchsorted(EDGES, of_batch).tolist() for of_batch in lengths]


def test_a_batch_does_not_depend_on_those_read_before() -> None:
    lengths = np.random.default_rng(0).integers(0, 13, 100)
    in_turn = [epoch_of(keyed(lengths, 8, window=FEW), 100, 8, epoch) for epoch in range(2)]
    order = keyed(lengths, 8, window=FEW)
    for step in (12, 0, 5, 6, 5, 3):
        for epoch in (1, 0):
            np.testing.assert_array_equal(order.indices(epoch, step), in_turn[epoch][step])


def test_order_does_not_follow_the_file() -> None:
    size, batch_size = 40_000, 32
    lengths = np.random.default_rng(0).integers(0, 13, size)
    order = keyed(lengths, batch_size)
    first, second = (np.concatenate(epoch_of(order, size, batch_size, n)) for n in range(2))
    for other in (np.arange(size), second):
        own = np.argsort(first), np.argsort(other)  # the place of each example
        within = [np.corrcoef(*(place[lengths == length] for place in own)) for length in range(13)]
        most = 5 / np.sqrt(size / 14)  # five deviations of a correlation of so many
        assert max(abs(matrix[0, 1]) for matrix in within) < most


def test_a_window_is_spread_over_the_file() -> None:
    """The first window of an epoch has as many examples of each part of the file."""
    size, batch_size = 400_000, 32
    order = keyed(np.full(size, 3), batch_size)
    window = np.concatenate([order.indices(0, step) for step in range(WINDOW)])
    counts = np.bincount(window * 20 // size, minlength=20)
    expected = len(window) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 19 + 5 * np.sqrt(2 * 19)


def test_little_is_kept_whatever_the_number_of_examples() -> None:
    order = KeyedOrder(lambda rows: rows % 13, 10**10, EDGES, 128, 0)
    order.indices(0, 50_000_000)
    kept = [value for value in vars(order).values() if isinstance(value, np.ndarray)]
    assert order._window is not None
    kept += [value for value in order._window if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in kept) < 600_000

"""The order that is computed: a permutation of every bucket, found again in the file's order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dien_jax.data import order as order_module
from dien_jax.data.order import KeyedOrder, StoredOrder, permuted

EDGES = np.array([2, 4, 8, 12])


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Let a few examples be many blocks and chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "_BLOCK", 4)
        patch.setattr(order_module, "CHUNK", 8)
        yield patch


def keyed(lengths: np.ndarray, batch_size: int, seed: int = 0) -> KeyedOrder:
    return KeyedOrder(lambda rows: lengths[rows], len(lengths), EDGES, batch_size, seed)


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


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(0, 12), max_size=70),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 3),
)
def test_an_epoch_has_the_batches_of_the_stored_order_by_bucket(lengths, batch_size, seed) -> None:
    values, size = np.array(lengths, np.int32), len(lengths)
    batches = epoch_of(keyed(values, batch_size, seed), size, batch_size, seed)
    assert sorted(np.concatenate([*batches, []]).tolist()) == list(range(size))
    stored = StoredOrder("shuffled", values, EDGES, batch_size, seed)

    def buckets(order_batches) -> list[list[int]]:
        found = [np.searchsorted(EDGES, values[rows]).tolist() for rows in order_batches]
        return sorted(found[: size // batch_size]) + found[size // batch_size :]

    assert buckets(batches) == buckets(epoch_of(stored, size, batch_size))


def test_order_does_not_follow_the_file() -> None:
    size, batch_size = 20_000, 32
    lengths = np.random.default_rng(0).integers(0, 13, size)
    order = keyed(lengths, batch_size)
    first, second = (np.concatenate(epoch_of(order, size, batch_size, n)) for n in range(2))
    for other in (np.arange(size), second):
        own = np.argsort(first), np.argsort(other)  # the place of each example
        within = [np.corrcoef(*(place[lengths == length] for place in own)) for length in range(13)]
        most = 5 / np.sqrt(size / 14)  # five deviations of a correlation of so many
        assert max(abs(matrix[0, 1]) for matrix in within) < most


def test_little_is_kept(small_blocks) -> None:
    size, lengths = 100_000, np.random.default_rng(0).integers(0, 13, 100_000)
    small_blocks.undo()  # the blocks in use; no test follows
    order = keyed(lengths, 128)
    order.indices(0, 0)
    arrays = [value for value in vars(order).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 0.15 * size

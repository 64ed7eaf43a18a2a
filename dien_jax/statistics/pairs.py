"""Counts of pairs of values, of which the most frequent ones are kept.

With X ``[S, V]``, 1 where a user chose a value, X^T X has the users of every two values. It is
computed in blocks of rows, and a block leaves out what is too rare to be kept. Memory is 16 bytes
for each 1 in X, some 40 for each pair of a block, and 16 for each that is kept.

Dimensions: S users, V values of a feature, N values of all users together.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import sparse

from dien_jax.statistics.training_events import SLICE_EVENTS
from dien_jax.utils.machine import map_in_order


class Limits(NamedTuple):
    """Bounds of a count of a long log, and of what memory holds of it at a time.

    Attributes:
      distinct: distinct values of a sequence that take part in pairs, the first ones; 254 or fewer.
      pairs: pairs that are counted; of longer logs, fewer values of each sequence take part.
      kept: pairs that are kept; of longer logs, those that few sequences have are left out.
      chunk: pairs of users and values in a block, or those of one value.
      slice: events that a thread counts at a time, or one longer sequence.
    """

    distinct: int = 100
    pairs: int = 1 << 26
    kept: int = 1 << 23
    chunk: int = 1 << 21
    slice: int = SLICE_EVENTS


def count_pairs(
    value: np.ndarray, lengths: np.ndarray, size: int, limits: Limits, threads: int
) -> tuple[sparse.csr_array, int]:
    """Count the users who chose two values.

    Args:
      value: int32 ``[N]``, distinct values of each user, by user.
      lengths: int ``[S]``, how many each user has.
      size: V.
      limits: pairs that are kept, and the size of a block.
      threads: how many blocks are counted at a time.

    Returns:
      Users of each pair ``[V, V]``, from both sides and in order; and the least number of users
      that pairs have.
    """
    ones, offsets = np.ones(len(value), np.int32), np.append(0, np.cumsum(lengths))
    of_users = sparse.csr_array((ones, value, offsets), shape=(len(lengths), size))
    of_values = of_users.T.tocsr()
    work = np.cumsum(of_values @ lengths.astype(np.int64))
    ends = np.searchsorted(work, np.arange(limits.chunk, work[-1], limits.chunk), side="right")
    borders = np.unique([0, *ends.tolist(), size]).tolist()
    least = 1

    def of_block(block: tuple[int, int]) -> sparse.csr_array:
        rows = of_values[slice(*block)] @ of_users
        own = np.repeat(np.arange(*block, dtype=np.int32), np.diff(rows.indptr))
        rows.data[rows.indices == own] = 0  # a value and itself are no pair
        return _of_users(rows, least)

    kept, total = list[sparse.csr_array](), 0
    for rows in map_in_order(of_block, pairwise(borders), threads):
        kept.append(rows)
        total += rows.nnz
        if 4 * total > 5 * limits.kept:
            least = _cut(kept, least, limits.kept)
            total = sum(part.nnz for part in kept)
    least = _cut(kept, least, limits.kept)
    # The matrix equals its transpose, whose conversion puts each row in order.
    return sparse.vstack(kept, "csr").T.tocsr(), least


def _of_users(rows: sparse.csr_array, least: int) -> sparse.csr_array:
    """Leave out pairs of fewer than ``least`` users; changes and returns the rows."""
    rows.data[rows.data < least] = 0
    rows.eliminate_zeros()
    return rows


def _cut(kept: list[sparse.csr_array], least: int, most: int) -> int:
    """Leave out the pairs of fewest users until ``most`` or fewer are left.

    Return the least number of users that pairs have now.
    """
    together = np.concatenate([rows.data for rows in kept])
    if len(together) > most:
        at_least = np.cumsum(np.bincount(together)[::-1])[::-1]
        least = max(least, int(np.count_nonzero(at_least > most)))
    kept[:] = [_of_users(rows, least) for rows in kept]
    return least


def sort_together(key: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return keys, int64, rising, and the number of each; both are 0 or more. Changes the keys.

    >>> [column.tolist() for column in sort_together(np.array([7, 5, 5]), np.array([1, 2, 0]))]
    [[5, 5, 7], [0, 2, 1]]
    """
    bits = int(number.max(initial=0)).bit_length()
    if int(key.max(initial=0)).bit_length() + bits > 63:
        order = np.lexsort((number, key))
        return key[order], number[order]
    # Numbers sort several times faster than an order of numbers.
    key <<= bits
    key |= number
    key.sort()
    number = (key & ((1 << bits) - 1)).astype(number.dtype, copy=False)
    key >>= bits
    return key, number

"""Orders of examples: which of them each batch of an epoch holds.

A batch is a function of (seed, epoch, step). :class:`StoredOrder` keeps an array of all examples,
:class:`KeyedOrder` computes each batch and keeps a few numbers for each block of examples.

Dimensions: n examples, B rows of a batch, R real rows of a batch, L padded lengths.
"""

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np

SORT_BUFFER = 20  # batches within which "sorted" sorts by length
CHUNK = 2**20  # examples whose lengths are read at once, a multiple of _BLOCK
KEYED_EXAMPLES = 10_000_000
"""Examples up to which ``auto`` is ``shuffled``: their permutation takes 0.3 GB."""
_BLOCK = 256  # examples that a look-up reads; counts take 8 L / 256 bytes an example
_ROUNDS = 6

Lengths = Callable[[np.ndarray], np.ndarray]
"""Lengths of the histories of some examples, of the shape of their indices, int32."""


def automatic_order(examples: int) -> Literal["shuffled", "keyed"]:
    """Return the order that ``auto`` stands for with a number of training examples."""
    return "keyed" if examples > KEYED_EXAMPLES else "shuffled"


class StoredOrder:
    """The orders ``shuffled``, ``sorted`` and ``evaluation`` of :class:`~dien_jax.data.Loader`.

    Args:
      order: which one.
      lengths: of all histories, int32 ``[n]``.
      edges: padded lengths, rising, ``[L]``.
      batch_size: B.
      seed: seed of the order, with the epoch.
    """

    def __init__(
        self, order: str, lengths: np.ndarray, edges: np.ndarray, batch_size: int, seed: int
    ) -> None:
        self._order, self._lengths, self._edges = order, lengths, edges
        self._batch_size, self._seed = batch_size, seed
        self._plan: tuple[int, np.ndarray, np.ndarray] | None = None

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """Return the examples of a batch, int64 ``[R]``."""
        epoch = 0 if self._order == "evaluation" else epoch
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, *self._plan_epoch(epoch))
        _, order, chunks = self._plan
        start = int(chunks[step]) * self._batch_size
        return order[start : start + self._batch_size]

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the examples in order, int64 ``[n]``, and which B in turn each step takes."""
        size = len(self._lengths)
        chunks = np.arange(-(-size // self._batch_size))
        if self._order == "evaluation":
            return np.argsort(-self._lengths, kind="stable"), chunks
        generator = np.random.default_rng((self._seed, epoch))
        if self._order == "sorted":
            buffer = np.arange(size) // (SORT_BUFFER * self._batch_size)
            order = np.lexsort((-self._lengths, buffer))
        else:
            shuffled = generator.permutation(size)
            bucket = np.searchsorted(self._edges, self._lengths[shuffled])
            order = shuffled[np.argsort(bucket, kind="stable")]
        generator.shuffle(chunks[: size // self._batch_size])
        return order, chunks


class KeyedOrder:
    """The order ``keyed``: that of ``shuffled``, drawn otherwise and computed for each batch.

    Examples stand by length bucket, those of a bucket permuted by :func:`permuted`. B in turn are a
    batch, and batches without filler are permuted too. To find the k-th example of a bucket, it
    keeps how many each block of examples has of each bucket, and reads the lengths of one block.

    Args:
      lengths: reads lengths of histories.
      size: n.
      edges: padded lengths, rising, ``[L]``; the last one holds the longest history.
      batch_size: B.
      seed: seed of the order, with the epoch.
    """

    def __init__(
        self, lengths: Lengths, size: int, edges: np.ndarray, batch_size: int, seed: int
    ) -> None:
        self._lengths, self._size = lengths, size
        self._batch_size, self._seed = batch_size, seed
        self._above = np.concatenate([[-1], edges])  # bucket b: above[b] < length <= above[b + 1]
        counts = np.zeros((len(edges), -(-size // _BLOCK) + 1), np.int64)
        for start in range(0, size, CHUNK):
            rows = np.arange(start, min(start + CHUNK, size))
            block = (rows - start) // _BLOCK
            first, blocks = start // _BLOCK + 1, int(block[-1]) + 1
            pairs = np.searchsorted(edges, lengths(rows)) * blocks + block
            of_chunk = np.bincount(pairs, minlength=len(edges) * blocks).reshape(-1, blocks)
            counts[:, first : first + blocks] = of_chunk
        self._before = counts.cumsum(axis=1)  # [L, blocks + 1], of each bucket before each block
        self._starts = np.concatenate([[0], np.cumsum(self._before[:, -1])])

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """Return the examples of a batch, int64 ``[R]``."""
        full = self._size // self._batch_size
        key = (self._seed, epoch, 0)  # Loader draws shown negatives from (seed, epoch, 1 and more)
        chunk = step if step >= full else int(permuted(np.array([step]), full, (*key, 0))[0])
        start = chunk * self._batch_size
        places = np.arange(start, min(start + self._batch_size, self._size))
        buckets = np.searchsorted(self._starts, places, side="right") - 1
        indices = np.empty(len(places), np.int64)
        for bucket in np.unique(buckets).tolist():
            here = buckets == bucket
            first, end = self._starts[bucket : bucket + 2].tolist()
            ranks = permuted(places[here] - first, end - first, (*key, bucket + 1))
            indices[here] = self._select(bucket, ranks)
        return indices

    def _select(self, bucket: int, ranks: np.ndarray) -> np.ndarray:
        """Return the examples of a bucket with the given ranks in the order of the file."""
        before = self._before[bucket]
        block = np.searchsorted(before, ranks, side="right") - 1
        rows = block[:, None] * _BLOCK + np.arange(_BLOCK)
        lengths = self._lengths(np.minimum(rows, self._size - 1))
        inside = (lengths > self._above[bucket]) & (lengths <= self._above[bucket + 1])
        rank = inside.cumsum(axis=1, dtype=np.int32)
        return rows[:, 0] + (rank > (ranks - before[block])[:, None]).argmax(axis=1)


def permuted(places: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """Return the values of a permutation of ``range(size)`` at some places, int64.

    ``key``, of numbers from 0 on, draws the permutation: a Feistel network on the numbers below the
    next power of two, applied again wherever it leaves the range.

    Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002; the mixing is
    that of SplitMix64 (Steele et al., OOPSLA 2014).

    >>> import numpy as np
    >>> sorted(permuted(np.arange(5), 5, (0, 3)).tolist())
    [0, 1, 2, 3, 4]
    """
    values = places.astype(np.uint64)
    bits = max(size - 1, 0).bit_length()
    outside = np.arange(len(values))
    while len(outside):
        values[outside] = _feistel(values[outside], bits, key)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(values: np.ndarray, bits: int, key: tuple[int, ...]) -> np.ndarray:
    """Return a permutation of the numbers of ``bits`` bits, at some of them."""
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = (np.uint64(2**n - 1) for n in (bits // 2, bits - bits // 2))
    high, low = values >> low_bits, values & low_mask
    for first, second in _round_keys(key):
        high ^= _mixed(low + first) & high_mask
        low ^= _mixed(high + second) & low_mask
    return high << low_bits | low


@functools.lru_cache(64)
def _round_keys(key: tuple[int, ...]) -> tuple[tuple[np.uint64, np.uint64], ...]:
    keys = np.random.default_rng(key).integers(2**64, size=(_ROUNDS // 2, 2), dtype=np.uint64)
    return tuple((first, second) for first, second in keys)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Return the finalizer of SplitMix64."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)

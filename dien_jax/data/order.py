"""Orders of examples: which of them each batch of an epoch holds.

A batch is a function of (seed, epoch, step). :class:`StoredOrder` keeps an array of all examples,
:class:`KeyedOrder` computes the order of some hundred batches at a time.

Dimensions: n examples, B rows of a batch, R real rows of a batch, L padded lengths.
"""

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np

SORT_BUFFER = 20  # batches within which "sorted" sorts by length
WINDOW = 512  # batches whose order "keyed" computes at once
KEYED_EXAMPLES = 10_000_000
"""Examples up to which ``auto`` is ``shuffled``: their permutation takes 0.3 GB."""
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
        generator = np.random.default_rng((self._seed, epoch))
        if self._order == "shuffled":
            drawn = generator.permutation(size)
            lengths = self._lengths[drawn]
            return _by_bucket(drawn, lengths, self._edges, self._batch_size, generator)
        chunks = np.arange(-(-size // self._batch_size))
        if self._order == "evaluation":
            return np.argsort(-self._lengths, kind="stable"), chunks
        buffer = np.arange(size) // (SORT_BUFFER * self._batch_size)
        generator.shuffle(chunks[: size // self._batch_size])
        return np.lexsort((-self._lengths, buffer)), chunks


class KeyedOrder:
    """The order ``keyed``: that of ``shuffled``, drawn otherwise and in windows of the epoch.

    The epoch is the permutation of all examples by :func:`permuted`. Each ``window`` batches in
    turn have the next examples of it, by length bucket, and stand in a drawn order. Only the window
    that was read last is kept, so a batch costs little where steps rise.

    Args:
      lengths: reads lengths of histories.
      size: n.
      edges: padded lengths, rising, ``[L]``; the last one holds the longest history.
      batch_size: B.
      seed: seed of the order, with the epoch.
      window: batches whose order is computed at once.
    """

    def __init__(
        self,
        lengths: Lengths,
        size: int,
        edges: np.ndarray,
        batch_size: int,
        seed: int,
        window: int = WINDOW,
    ) -> None:
        self._lengths, self._size, self._edges = lengths, size, edges
        self._batch_size, self._seed, self._batches = batch_size, seed, window
        self._window: tuple[int, int, np.ndarray, np.ndarray] | None = None

    def indices(self, epoch: int, step: int) -> np.ndarray:
        """Return the examples of a batch, int64 ``[R]``."""
        number, step = divmod(step, self._batches)
        if self._window is None or self._window[:2] != (epoch, number):
            self._window = (epoch, number, *self._read_window(epoch, number))
        _, _, order, chunks = self._window
        start = int(chunks[step]) * self._batch_size
        return order[start : start + self._batch_size]

    def _read_window(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the examples of a window, int64, and which B in turn each step takes."""
        examples = self._batches * self._batch_size
        places = np.arange(number * examples, min((number + 1) * examples, self._size))
        key = (self._seed, epoch, 0)  # Loader draws shown negatives from (seed, epoch, 1 and more)
        drawn = permuted(places, self._size, (*key, 0))
        generator = np.random.default_rng((*key, number + 1))
        return _by_bucket(drawn, self._lengths(drawn), self._edges, self._batch_size, generator)


def _by_bucket(
    drawn: np.ndarray,
    lengths: np.ndarray,
    edges: np.ndarray,
    batch_size: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return examples by length bucket, and an order of their batches, one with filler last."""
    bucket = np.searchsorted(edges, lengths).astype(np.uint16)  # numpy sorts these by radix
    order = drawn[np.argsort(bucket, kind="stable")]
    chunks = np.arange(-(-len(order) // batch_size))
    generator.shuffle(chunks[: len(order) // batch_size])
    return order, chunks


def permuted(places: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """Return the values of a permutation of ``range(size)`` at some places, int64.

    ``key``, of numbers from 0 on, draws the permutation: a Feistel network on the numbers below the
    next power of two, applied again wherever it leaves the range.

    Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002.

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
        high ^= mixed_bits(low + first) & high_mask
        low ^= mixed_bits(high + second) & low_mask
    return high << low_bits | low


@functools.lru_cache(64)
def _round_keys(key: tuple[int, ...]) -> tuple[tuple[np.uint64, np.uint64], ...]:
    keys = np.random.default_rng(key).integers(2**64, size=(_ROUNDS // 2, 2), dtype=np.uint64)
    return tuple((first, second) for first, second in keys)


def mixed_bits(values: np.ndarray) -> np.ndarray:
    """Return random numbers of 64 bits for numbers of 64 bits: the finalizer of SplitMix64.

    Source: Steele, Lea and Flood, OOPSLA 2014.

    >>> mixed_bits(np.arange(1, 3, dtype=np.uint64)).tolist()
    [6238072747940578789, 15839785061582574730]
    """
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)

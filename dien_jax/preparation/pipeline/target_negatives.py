"""Target negatives: for each positive, items that its user did not choose.

Dimensions: P positives, M negatives, E events, S sequences, N items with the unknown one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dien_jax.preparation.options import Distribution

DRAWS = 32
"""Number of draws before a negative is given up."""
CHUNK_POSITIVES = 1 << 18
"""Positives processed at a time."""


class Negatives(NamedTuple):
    """Drawn negatives, those of one positive together."""

    positive: np.ndarray  # int64 [M], non-decreasing: the positive that each negative belongs to
    item: np.ndarray  # int32 [M]
    missing: int  # negatives that were given up; M + missing is the number asked for


@dataclass(frozen=True)
class NegativeSampler:
    """Sampler of negatives, with replacement, from the known items.

    A draw that equals the positive is repeated, and so is one among the user's own items, earlier
    or later, unless those are allowed. After ``DRAWS`` draws a negative is given up: a user who
    chose nearly everything gets fewer.

    Attributes:
      event_item: int32 ``[E]``, item of every event of every user.
      offsets: int64 ``[S + 1]``, where the events of each sequence begin.
      popularity: int64 ``[N]``, training events of each item. Items without any, and item 0, the
        unknown one, are never drawn.
      distribution: ``popularity`` draws items in proportion to their training events, ``uniform``
        with equal probability.
      allow_own: whether other items of the same user may be drawn.
    """

    event_item: np.ndarray
    offsets: np.ndarray
    popularity: np.ndarray
    distribution: Distribution = "popularity"
    allow_own: bool = False

    def draw(
        self, sequence: np.ndarray, item: np.ndarray, *, count: int, seed: tuple[int, ...]
    ) -> Negatives:
        """Draw ``count`` negatives for every positive.

        Positives are processed in chunks, each with a generator made from the seed and the number
        of the chunk: memory is bounded, and the same seed always draws the same items.

        Args:
          sequence: int32 ``[P]``, the user's sequence of each positive.
          item: int32 ``[P]``, the positive itself.
          count: negatives per positive.
          seed: random seed.
        """
        uniform = self.distribution == "uniform"
        weights = np.minimum(self.popularity, 1) if uniform else self.popularity.copy()
        weights[0] = 0
        bounds = np.cumsum(weights, dtype=np.int64)
        owners, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        for chunk, start in enumerate(range(0, len(item), CHUNK_POSITIVES)):
            part = slice(start, start + CHUNK_POSITIVES)
            generator = np.random.default_rng((*seed, chunk))
            drawn = self._draw_chunk(sequence[part], item[part], count, bounds, generator)
            kept = np.flatnonzero(drawn)
            owners.append(start + kept // count)
            items.append(drawn[kept])
        kept_items = np.concatenate(items)
        return Negatives(np.concatenate(owners), kept_items, len(item) * count - len(kept_items))

    def _draw_chunk(
        self,
        sequence: np.ndarray,
        item: np.ndarray,
        count: int,
        bounds: np.ndarray,
        generator: np.random.Generator,
    ) -> np.ndarray:
        """Return the negatives of some positives, 0 where one was given up."""
        positive = np.repeat(item, count)
        user, owner = np.unique(sequence, return_inverse=True)
        owner = np.repeat(owner, count)
        own = None if self.allow_own else self._own_items(user)
        drawn = np.zeros(len(positive), np.int32)
        pending = np.arange(len(positive))
        total = int(bounds[-1])
        for _ in range(DRAWS if total else 0):
            draws = generator.integers(total, size=len(pending))
            drawn[pending] = np.searchsorted(bounds, draws, side="right")
            taken = drawn[pending] == positive[pending]
            if own is not None:
                keys = owner[pending] * len(bounds) + drawn[pending]
                taken |= own[np.minimum(np.searchsorted(own, keys), len(own) - 1)] == keys
            pending = pending[taken]
            if not len(pending):
                break
        drawn[pending] = 0
        return drawn

    def _own_items(self, user: np.ndarray) -> np.ndarray:
        """Return sorted keys ``position in user * N + item`` of the items these users chose."""
        lengths = self.offsets[user + 1] - self.offsets[user]
        ends = np.cumsum(lengths)
        shift = np.repeat(self.offsets[user] - (ends - lengths), lengths)
        events = np.arange(int(ends[-1])) + shift
        keys = np.repeat(np.arange(len(user)), lengths) * len(self.popularity)
        keys += self.event_item[events]
        keys.sort()
        return keys

"""Target negatives: for each positive, items that its user did not choose.

Dimensions: P positives, M negatives, E events, S sequences, N items with the unknown one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from dien_jax.preparation.options import Distribution

DRAWS = 32  # draws before a negative is given up
CHUNK_POSITIVES = 1 << 18  # positives processed at a time


class Negatives(NamedTuple):
    """Drawn negatives, those of one positive together."""

    positive: np.ndarray  # int64 [M], non-decreasing: the positive that each negative belongs to
    item: np.ndarray  # int32 [M]
    missing: int  # negatives that were given up; M + missing is the number asked for


@dataclass(frozen=True)
class NegativeSampler:
    """Sampler of negatives, with replacement, from the known items.

    A draw that equals the positive is repeated, and so is one among the user's own items, earlier
    or later, unless those are allowed. A user who chose nearly everything gets fewer negatives.
    """

    event_item: np.ndarray  # int32 [E], item of every event of every user
    offsets: np.ndarray  # int64 [S + 1], where the events of each sequence begin
    # int64 [N], training events of each item; items without any, and item 0, are never drawn
    popularity: np.ndarray
    distribution: Distribution = "popularity"  # in proportion to training events, or uniform
    allow_own: bool = False  # whether other items of the same user may be drawn

    def draw(
        self, sequence: np.ndarray, item: np.ndarray, *, count: int, seed: tuple[int, ...]
    ) -> Negatives:
        """Draw ``count`` negatives for every positive, given as int32 ``[P]``.

        Positives are processed in chunks, each with a generator made from the seed and the number
        of the chunk: memory is bounded, and the same seed always draws the same items.
        """
        uniform = self.distribution == "uniform"
        weights = np.minimum(self.popularity, 1) if uniform else self.popularity.copy()
        weights[0] = 0
        bounds = np.cumsum(weights, dtype=np.int64)
        owners, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        for chunk, start in enumerate(range(0, len(item), CHUNK_POSITIVES)):
            part = slice(start, start + CHUNK_POSITIVES)
            generator = np.random.default_rng((*seed, chunk))
            asked = np.repeat(sequence[part], count), np.repeat(item[part], count)
            drawn = self._draw_chunk(*asked, bounds, generator)
            kept = np.flatnonzero(drawn)
            owners.append(start + kept // count)
            items.append(drawn[kept])
        kept_items = np.concatenate(items)
        return Negatives(np.concatenate(owners), kept_items, len(item) * count - len(kept_items))

    def _draw_chunk(
        self, sequence: np.ndarray, positive: np.ndarray, bounds: np.ndarray, generator: Generator
    ) -> np.ndarray:
        """Return a negative for each positive, 0 where one was given up."""
        user, owner = np.unique(sequence, return_inverse=True)
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
        items = self.event_item[np.arange(int(ends[-1])) + shift]
        return np.sort(np.repeat(np.arange(len(user)), lengths) * len(self.popularity) + items)

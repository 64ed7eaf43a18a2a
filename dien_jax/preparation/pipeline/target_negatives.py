"""Target negatives: for each positive, items that its user was not seen to choose.

Negatives are drawn with replacement from the known items, by popularity (training events of an
item) or uniformly. A draw that equals the positive is drawn again, and so is one among the user's
own items, earlier and later ones, unless they are allowed. After ``DRAWS`` draws it is given up:
a user who chose nearly everything ends up with fewer negatives, and the result says how many are
missing.

Positives are worked off a chunk at a time, each with a generator made from the seed and the
chunk's number, so memory is bounded and the same seed always draws the same items.

Dimensions: P positives, M negatives, E events, S sequences, N items with the unknown one.
"""

from typing import NamedTuple

import numpy as np

from dien_jax.preparation.options import Distribution

DRAWS = 32
"""Draws of one negative before it is given up."""
CHUNK_POSITIVES = 1 << 18
"""Positives worked off at a time."""


class Negatives(NamedTuple):
    """Drawn negatives, those of one positive together.

    Attributes:
      positive: int64 ``[M]``, rising: which positive each negative belongs to.
      item: int32 ``[M]``.
      missing: negatives that were given up; ``M + missing`` is the number asked for.
    """

    positive: np.ndarray
    item: np.ndarray
    missing: int


def draw_negatives(
    sequence: np.ndarray,
    item: np.ndarray,
    *,
    event_item: np.ndarray,
    offsets: np.ndarray,
    popularity: np.ndarray,
    count: int,
    distribution: Distribution,
    allow_own: bool,
    seed: tuple[int, ...],
) -> Negatives:
    """Draws ``count`` negatives for every positive.

    Args:
      sequence: int32 ``[P]``, the user's sequence of each positive.
      item: int32 ``[P]``, the positive itself.
      event_item: int32 ``[E]``, every event of every user.
      offsets: int64 ``[S + 1]``, the sequences' events.
      popularity: int64 ``[N]``, training events of each item; item 0, the unknown one, is never
        drawn.
      count: negatives a positive.
      distribution: ``popularity`` draws an item in proportion to its training events, ``uniform``
        every known item alike.
      allow_own: whether other items of the same user may be drawn.
      seed: what the draws derive from.
    """
    weights = np.minimum(popularity, 1) if distribution == "uniform" else popularity.copy()
    weights[0] = 0
    bounds = np.cumsum(weights, dtype=np.int64)
    total = int(bounds[-1])
    owners, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for chunk, start in enumerate(range(0, len(item), CHUNK_POSITIVES)):
        part = slice(start, start + CHUNK_POSITIVES)
        positive = np.repeat(item[part], count)
        user, owner = np.unique(sequence[part], return_inverse=True)
        owner = np.repeat(owner, count)
        own = None if allow_own else _own_items(user, event_item, offsets, len(popularity))
        generator = np.random.default_rng((*seed, chunk))
        drawn = np.zeros(len(positive), np.int32)
        open_draws = np.arange(len(positive))
        for _ in range(DRAWS if total else 0):
            draws = generator.integers(total, size=len(open_draws))
            drawn[open_draws] = np.searchsorted(bounds, draws, side="right")
            taken = drawn[open_draws] == positive[open_draws]
            if own is not None:
                keys = owner[open_draws] * len(popularity) + drawn[open_draws]
                taken |= own[np.minimum(np.searchsorted(own, keys), len(own) - 1)] == keys
            open_draws = open_draws[taken]
            if not len(open_draws):
                break
        drawn[open_draws] = 0
        kept = np.flatnonzero(drawn)
        owners.append(start + kept // count)
        items.append(drawn[kept])
    kept_items = np.concatenate(items)
    return Negatives(np.concatenate(owners), kept_items, len(item) * count - len(kept_items))


def _own_items(
    user: np.ndarray, event_item: np.ndarray, offsets: np.ndarray, num_items: int
) -> np.ndarray:
    """Sorted keys ``position in user * num_items + item`` of the items these users chose."""
    lengths = offsets[user + 1] - offsets[user]
    ends = np.cumsum(lengths)
    events = np.arange(int(ends[-1])) + np.repeat(offsets[user] - (ends - lengths), lengths)
    keys = np.repeat(np.arange(len(user)), lengths) * num_items + event_item[events]
    keys.sort()
    return keys

"""The first stage of lists in stages: few of many items, by a rough estimate of their scores.

Dimensions: I items, row 0 the unknown one; U users; N items that are ranked for a user.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dien_jax.data.schema import UNKNOWN
from dien_jax.data.tables import DIRECTED
from dien_jax.inference.bucketed_programs import SCORED_ROWS, TOWER_ROWS
from dien_jax.metrics.lists import first_places

SHORTLIST, KEPT = TOWER_ROWS, SCORED_ROWS
"""Numbers of items that the first stage and the tower leave; see :func:`stage_sizes`."""
MANY_ITEMS = 20_000
"""Number of items above which the stages are larger."""
POPULARITY = (0, 0.7)
"""What the two orders of the first stage add, times the logarithm of an item's users."""
FACTORS, WEIGHTS_OF = "tables/factors", "params/tower/item_weights"


def stage_sizes(n: int, items: int) -> tuple[int, int]:
    """Return how many items the first stage and the tower leave, for a list of ``n``.

    >>> stage_sizes(10, 10**4), stage_sizes(10, 10**5), stage_sizes(100, 10**4)
    ((384, 128), (1536, 512), (1200, 800))
    """
    times = 4 if items > MANY_ITEMS else 1
    return max(times * SHORTLIST, 12 * n), max(times * KEPT, 8 * n)


class Shortlist:
    """The first stage: few of many items, by a rough estimate of the model's scores.

    It adds the tower's weights of an item's values; how many users chose it together with the
    history, and how strongly one event suggests it; how similar its vectors are to the history and
    to what follows it; and the share of the history that has its categories. Recent events and
    rare categories count more. What popularity adds differs between models: items are taken in turn
    from two orders.
    """

    def __init__(
        self, tables: Mapping[str, np.ndarray], item: str, features: Sequence[str]
    ) -> None:
        names = ("count", "offsets", "other", "together")
        counts = (tables[f"tables/statistics/{item}/{name}"] for name in names)
        count, self._offsets, self._other, self._together = counts
        self._root = np.sqrt(count + 1.0).astype(np.float32)
        self._popularity = np.log1p(count).astype(np.float32)
        self._weights = np.asarray(tables[f"{WEIGHTS_OF}/{item}"])[: len(count), 0].copy()
        self._categories = []
        for name in features:
            category = np.asarray(tables[f"tables/item/{name}"])
            self._weights += np.asarray(tables[f"{WEIGHTS_OF}/{name}"])[category, 0]
            events = np.bincount(category, count) + 1.0
            rarity = np.log(events.sum() / events) * (np.arange(len(events)) != UNKNOWN)
            self._categories.append((category, rarity / len(features)))
        self._row = tables.get(f"{FACTORS}/{item}/row")
        if self._row is not None:
            vectors = np.asarray(tables[f"{FACTORS}/{item}/vectors"][0], np.float32)
            chosen, before, following = map(_unit, np.split(vectors, DIRECTED, axis=1))
            self._ours = np.ascontiguousarray(np.concatenate([chosen, following], axis=1).T)
            self._theirs = np.stack([chosen, before], axis=1)

    def rows(
        self,
        estimates: np.ndarray,
        allowed: np.ndarray,
        most: int,
        limits: Sequence[tuple[np.ndarray, int]] = (),
    ) -> np.ndarray:
        """Return at most ``most`` rows to rank for a user, rising: int32 ``[N]``.

        ``estimates`` are those of a history; ``allowed``, bool ``[I]``, the items that may be
        listed; ``limits`` values of all, and how many of a value to return.
        """
        for values, limit in limits:
            allowed = allowed & _within(np.where(allowed, estimates, -np.inf), values, limit)
        scores = np.where(allowed, estimates, -np.inf)
        place = np.full(len(scores), most)  # the best in any order
        for multiple in POPULARITY:
            order = first_places(scores + multiple * self._popularity, most)
            place[order] = np.minimum(place[order], np.arange(len(order)))
        rows = np.flatnonzero(allowed & (place < most)).astype(np.int32)
        return np.sort(rows[first_places(-place[rows], most)])

    def estimates(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Return estimates but for popularity, float32 ``[U, I]``, of histories of U users.

        A history has the rows of its behaviours, oldest first. Four logs chose the factors.
        """
        scores, sums = np.repeat(self._weights[None], len(histories), axis=0), []
        items = len(self._root)
        for user, rows in enumerate(histories):
            recency = (1 / np.arange(len(rows), 0, -1.0)).astype(np.float32)
            together, lift = np.zeros((2, items), np.float32)
            for row, weight in zip(rows, recency, strict=True):
                pairs = slice(self._offsets[row], self._offsets[row + 1])
                others = self._other[pairs]  # each once
                strength = self._together[pairs] / self._root[row]
                together[others] += weight * strength
                lift[others] = np.maximum(lift[others], strength / self._root[row])
            scores[user] += 4 * np.sqrt(together / self._root)
            scores[user] += 0.15 * np.log1p(items * lift / self._root**2)
            for category, rarity in self._categories:
                share = np.bincount(category[rows], recency, len(rarity)) / max(recency.sum(), 1)
                scores[user] += (0.3 * share * rarity).astype(np.float32)[category]
            if self._row is not None:
                sums.append(_unit(np.tensordot(recency, self._theirs[self._row[rows]], 1)))
        if sums:
            scores += (np.stack(sums).reshape(len(sums), -1) @ self._ours)[:, self._row]
        return scores


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors ``[..., D]`` of length 1, or of 0."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-5)


def _within(scores: np.ndarray, values: np.ndarray, limit: int) -> np.ndarray:
    """Return which places have one of the ``limit`` highest scores of their value, or no value."""
    order = np.lexsort((-scores, values))
    nth = np.argsort(order) - np.searchsorted(values, values, sorter=order)
    return (nth < limit) | (values == UNKNOWN)

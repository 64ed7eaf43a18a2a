"""Metrics of lists over all items: the rank of a user's next item, and which items are listed.

Dimensions: E targets, each the next item of a user; L lists.
"""

from typing import Any

import numpy as np

from dien_jax.metrics.intervals import mean_over_users

CUT = 10  # length of a list


def hit_rate(ranks: np.ndarray, k: int = CUT) -> np.ndarray:
    """Return 1 for each target among the first k of its list, else 0: float64 ``[E]``.

    The mean is HR@k, the same as recall@k, as every list has one target. ``ranks`` ``[E]`` begin at
    1; an item that cannot be listed has infinity.

    >>> hit_rate(np.array([1, 10, 11, np.inf])).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    return (np.asarray(ranks, np.float64) <= k).astype(np.float64)


def ndcg(ranks: np.ndarray, k: int = CUT) -> np.ndarray:
    """Return 1 / log2(1 + rank) of each target among the first k, else 0: float64 ``[E]``.

    The mean is NDCG@k with one relevant item. Source: Järvelin and Kekäläinen, ACM TOIS 2002.

    >>> ndcg(np.array([1, 3, 11, np.inf])).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    return hit_rate(ranks, k) / np.log2(1 + np.asarray(ranks, np.float64))


def reciprocal_rank(ranks: np.ndarray) -> np.ndarray:
    """Return 1 / rank of each target, float64 ``[E]``; the mean is MRR.

    >>> reciprocal_rank(np.array([1, 4, np.inf])).tolist()
    [1.0, 0.25, 0.0]
    """
    return 1 / np.asarray(ranks, np.float64)


def list_metrics(
    ranks: np.ndarray, users: np.ndarray, lists: list[np.ndarray], popularity: np.ndarray
) -> dict[str, Any]:
    """Return the metrics of lists by name.

    Args:
      ranks: ``[E]``, rank of each target from 1; infinity for one that cannot be listed.
      users: integers ``[E]``, the user of each target.
      lists: L arrays of items, the first ``CUT`` of each list.
      popularity: ``[I]``, training events of each item.

    Returns:
      ``hr_10``, ``ndcg_10`` and ``mrr`` (None without targets), and the ends of their 95% intervals
      over users, such as ``hr_10_interval`` (None with a single user); ``coverage``, the share of
      items with a training event that are on a list; ``mean_popularity``, the mean number of
      training events over all entries of lists; ``targets``, the number of targets.

    >>> ranks, lists = np.array([1, np.inf]), [np.array([1]), np.array([2])]
    >>> metrics = list_metrics(ranks, np.array([0, 1]), lists, np.array([0, 6, 2, 1]))
    >>> metrics["hr_10"], round(metrics["coverage"], 2), metrics["mean_popularity"]
    (0.5, 0.67, 4.0)
    """
    terms = {"hr_10": hit_rate(ranks), "ndcg_10": ndcg(ranks), "mrr": reciprocal_rank(ranks)}
    values: dict[str, Any] = {}
    for name, gains in terms.items():
        values[name] = float(gains.mean()) if len(gains) else None
        interval = mean_over_users(gains, users)
        values[f"{name}_interval"] = None if interval is None else [interval.low, interval.high]
    listed = np.concatenate([np.zeros(0, np.int64), *lists])
    known = int(np.count_nonzero(popularity))
    values["coverage"] = len(np.unique(listed)) / known if known else None
    values["mean_popularity"] = float(popularity[listed].mean()) if len(listed) else None
    return values | {"targets": len(ranks)}


def first_places(scores: np.ndarray, n: int) -> np.ndarray:
    """Return the places of the n highest scores, the highest first; equal ones by place.

    >>> first_places(np.array([0.5, 0.9, 0.5, 0.1]), 2).tolist()
    [1, 0]
    """
    places = np.arange(len(scores))
    if n < len(scores):
        places = np.flatnonzero(scores >= np.partition(scores, -n)[-n])
    return places[np.argsort(-scores[places], kind="stable")][:n]

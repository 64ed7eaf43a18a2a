"""Diagnostics of scored examples: calibration, AUC by part, and the most wrong examples.

Dimensions: n examples.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dien_jax.metrics.intervals import delong
from dien_jax.metrics.scores import auc, example_losses

BINS = 10


class CalibrationBin(NamedTuple):
    """Examples of similar score.

    Attributes:
      low, high: bounds of the scores.
      examples: their number; the means are None if it is 0.
      score: mean score.
      clicks: share of clicks.
    """

    low: float
    high: float
    examples: int
    score: float | None
    clicks: float | None


class Calibration(NamedTuple):
    """Reliability of scores as probabilities: a share p of examples with score p should be clicks.

    Attributes:
      bins: of equal width in score, from 0 to 1.
      error: expected calibration error: mean of |score - share of clicks| over bins, weighted by
        their examples.
      error_equal_counts: the same with bins of equal counts, which resolve scores that lie close
        together.
    """

    bins: list[CalibrationBin]
    error: float
    error_equal_counts: float


class PartAuc(NamedTuple):
    """AUC of one part of the examples.

    Attributes:
      name: the part.
      examples: its number of examples.
      clicks: its number of clicks.
      auc: None unless both labels occur.
      standard_error: DeLong's; None without two examples of either label.
    """

    name: str
    examples: int
    clicks: int
    auc: float | None
    standard_error: float | None


class Picks(NamedTuple):
    """Examples to look at, as lists of their indices.

    Attributes:
      false_alarms: non-clicks, highest scores first.
      misses: clicks, lowest scores first.
      hits: clicks, highest scores first.
      rejections: non-clicks, lowest scores first.
      typical: by distance of the loss from the median loss.
    """

    false_alarms: list[int]
    misses: list[int]
    hits: list[int]
    rejections: list[int]
    typical: list[int]


def calibration(labels: np.ndarray, scores: np.ndarray, bins: int = BINS) -> Calibration:
    """Return the reliability of scores as probabilities.

    Args:
      labels: ``[n]``, 0 or 1; n at least 1.
      scores: ``[n]``, probabilities of a click.
      bins: number of bins.

    Source: Guo et al., ICML 2017 (arXiv:1706.04599).

    >>> result = calibration(np.array([0, 1, 1, 1]), np.array([0.5, 0.5, 1.0, 1.0]))
    >>> result.error
    0.0
    """
    scores = np.asarray(scores, np.float64)
    edges = np.linspace(0, 1, bins + 1).tolist()
    wide = np.clip(np.ceil(scores * bins).astype(int) - 1, 0, bins - 1)
    parts = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = wide == number
        count = int(inside.sum())
        means = (
            (float(scores[inside].mean()), float(labels[inside].mean())) if count else (None,) * 2
        )
        parts.append(CalibrationBin(low, high, count, *means))
    even = np.empty(len(scores), int)
    even[np.argsort(scores, kind="stable")] = np.arange(len(scores)) * bins // len(scores)
    return Calibration(parts, _gap(labels, scores, wide), _gap(labels, scores, even))


def _gap(labels: np.ndarray, scores: np.ndarray, parts: np.ndarray) -> float:
    """Return the sum over parts of |sum of scores - clicks|, divided by n."""
    return float(np.abs(np.bincount(parts, scores - labels)).sum() / len(scores))


def auc_by_size(
    labels: np.ndarray, scores: np.ndarray, sizes: np.ndarray, factor: int = 2
) -> list[PartAuc]:
    """Return the AUC of examples by a count, in parts of growing size: 0, 1, 2-3, 4-7 and so on.

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``.
      sizes: integers ``[n]``, 0 or more.
      factor: ratio of consecutive bounds; 4 gives 0, 1-3, 4-15 and so on.

    >>> sizes = np.array([1, 1, 2, 3])
    >>> parts = auc_by_size(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.8, 0.4]), sizes)
    >>> [(part.name, part.auc) for part in parts]
    [('1', 1.0), ('2-3', 0.0)]
    """
    bounds = [1]
    while bounds[-1] <= sizes.max(initial=0):
        bounds.append(bounds[-1] * factor)
    places = np.searchsorted(bounds, sizes, side="right")  # 0 for size 0, 1 from size 1
    parts = []
    for place in np.unique(places).tolist():
        inside = places == place
        low, high = (0, 0) if place == 0 else (bounds[place - 1], bounds[place] - 1)
        name = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        part_labels, part_scores = labels[inside], scores[inside]
        count, clicks = len(part_labels), int(part_labels.sum())
        # Against a constant, whose AUC is always 0.5, the error is that of the AUC.
        error = delong(part_labels, part_scores, np.zeros(count, np.float32))
        standard_error = None if error is None else error.standard_error
        parts.append(PartAuc(name, count, clicks, auc(part_labels, part_scores), standard_error))
    return parts


def pick(labels: np.ndarray, scores: np.ndarray, count: int) -> Picks:
    """Pick the examples that the model gets most wrong and most right, and typical ones.

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``, probabilities of a click.
      count: the number of each kind, if there are as many.
    """
    losses = example_losses(labels, scores)
    rising = np.argsort(scores, kind="stable")
    falling = np.argsort(-scores, kind="stable")
    is_click = np.asarray(labels) == 1
    distances = np.abs(losses - np.median(losses)) if len(losses) else losses
    middle = np.argsort(distances, kind="stable")

    def first(order: np.ndarray, inside: np.ndarray) -> list[int]:
        return order[inside[order]][:count].tolist()

    return Picks(
        false_alarms=first(falling, ~is_click),
        misses=first(rising, is_click),
        hits=first(falling, is_click),
        rejections=first(rising, ~is_click),
        typical=middle[:count].tolist(),
    )


def largest_losses(labels: np.ndarray, scores: np.ndarray, count: int) -> list[int]:
    """Return the indices of the examples that add most to the log loss, the largest first."""
    return np.argsort(-example_losses(labels, scores), kind="stable")[:count].tolist()


def history_lengths(history_end: np.ndarray, starts: np.ndarray, most: int) -> np.ndarray:
    """Return the number of behaviours that the model sees of each example, integers ``[n]``."""
    return np.minimum(history_end - starts, most)


def describe_parts(parts: Sequence[PartAuc]) -> str:
    """Return the AUCs of parts in words, the alternative text of a plot."""
    return "; ".join(
        f"{part.name}: " + ("undefined" if part.auc is None else f"{part.auc:.3f}")
        for part in parts
    )

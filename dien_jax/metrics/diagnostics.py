"""Where a model's scores are right and where they are wrong: numbers, in numpy.

Calibration, AUC over parts of the examples, and the examples that are most wrong, or most right.

Dimensions: n examples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dien_jax.metrics.intervals import delong
from dien_jax.metrics.scores import auc, example_losses

BINS = 10


class CalibrationBin(NamedTuple):
    """Examples of about one score.

    Attributes:
      low: no score is below it.
      high: no score is above it.
      examples: how many; the means are None without any.
      score: mean score.
      clicks: share of clicks.
    """

    low: float
    high: float
    examples: int
    score: float | None
    clicks: float | None


class Calibration(NamedTuple):
    """Whether of examples that score p a share p is clicked.

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
      name: which part.
      examples: how many.
      clicks: how many of them are clicks.
      auc: None unless both labels occur.
      standard_error: DeLong's; None without two of either label.
    """

    name: str
    examples: int
    clicks: int
    auc: float | None
    standard_error: float | None


class Picks(NamedTuple):
    """Examples to look at, each a list of their numbers.

    Attributes:
      false_alarms: not clicked, the highest scores first.
      misses: clicked, the lowest scores first.
      hits: clicked, the highest scores first.
      rejections: not clicked, the lowest scores first.
      typical: of a loss nearest the median, the nearest first.
    """

    false_alarms: list[int]
    misses: list[int]
    hits: list[int]
    rejections: list[int]
    typical: list[int]


def calibration(labels: np.ndarray, scores: np.ndarray, bins: int = BINS) -> Calibration:
    """The reliability of scores as probabilities.

    Args:
      labels: ``[n]``, 0 or 1; n at least 1.
      scores: ``[n]``, probabilities of a click.
      bins: how many.

    Source: Guo et al., ICML 2017 (arXiv:1706.04599).
    """
    scores = np.asarray(scores, np.float64)
    edges = np.linspace(0, 1, bins + 1)
    wide = np.clip(np.ceil(scores * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for number in range(bins):
        inside = wide == number
        count = int(inside.sum())
        means = (
            (float(scores[inside].mean()), float(labels[inside].mean())) if count else (None,) * 2
        )
        found.append(CalibrationBin(float(edges[number]), float(edges[number + 1]), count, *means))
    even = np.empty(len(scores), int)
    even[np.argsort(scores, kind="stable")] = np.arange(len(scores)) * bins // len(scores)
    return Calibration(found, _gap(labels, scores, wide), _gap(labels, scores, even))


def _gap(labels: np.ndarray, scores: np.ndarray, parts: np.ndarray) -> float:
    """Sum over parts of |sum of scores - clicks|, by n."""
    return float(np.abs(np.bincount(parts, scores - labels)).sum() / len(scores))


def auc_by_size(
    labels: np.ndarray, scores: np.ndarray, sizes: np.ndarray, factor: int = 2
) -> list[PartAuc]:
    """AUC of examples by a count, in parts whose bounds double: 0, 1, 2-3, 4-7 and so on.

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``.
      sizes: integers ``[n]``, 0 or more.
      factor: from bound to bound; 4 gives 0, 1-3, 4-15 and so on.
    """
    bounds = [1]
    while bounds[-1] <= sizes.max(initial=0):
        bounds.append(bounds[-1] * factor)
    places = np.searchsorted(bounds, sizes, side="right")  # 0 of 0, 1 from 1 on
    found = []
    for place in np.unique(places).tolist():
        inside = places == place
        low, high = (0, 0) if place == 0 else (bounds[place - 1], bounds[place] - 1)
        name = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        part, of_part = labels[inside], scores[inside]
        # Against a constant, whose AUC is 0.5 whatever the examples, the error is that of the AUC.
        error = delong(part, of_part, np.zeros(len(part), np.float32))
        found.append(
            PartAuc(
                name,
                len(part),
                int(part.sum()),
                auc(part, of_part),
                None if error is None else error.standard_error,
            )
        )
    return found


def pick(labels: np.ndarray, scores: np.ndarray, count: int) -> Picks:
    """Examples that the model gets most wrong and most right, and typical ones.

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``, probabilities of a click.
      count: of each kind, where there are as many.
    """
    losses = example_losses(labels, scores)
    rising = np.argsort(scores, kind="stable")
    falling = np.argsort(-scores, kind="stable")
    is_click = np.asarray(labels) == 1
    middle = np.argsort(
        np.abs(losses - np.median(losses)) if len(losses) else losses, kind="stable"
    )

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
    """Numbers of the examples that add most to the log loss, the most first."""
    return np.argsort(-example_losses(labels, scores), kind="stable")[:count].tolist()


def history_lengths(history_end: np.ndarray, starts: np.ndarray, most: int) -> np.ndarray:
    """Behaviours that the model sees of each example, integers ``[n]``."""
    return np.minimum(history_end - starts, most)


def describe_parts(parts: Sequence[PartAuc]) -> str:
    """The AUCs of parts in words, for who cannot see the picture."""
    return "; ".join(
        f"{part.name}: " + ("undefined" if part.auc is None else f"{part.auc:.3f}")
        for part in parts
    )

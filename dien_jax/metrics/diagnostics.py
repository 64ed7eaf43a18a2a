"""Diagnostics of scored examples: calibration, AUC by part, and the most wrong examples."""

import itertools
from typing import NamedTuple

import numpy as np

from dien_jax.metrics.intervals import delong
from dien_jax.metrics.scores import auc, check_probabilities, checked, example_losses


class CalibrationBin(NamedTuple):
    """Bounds of scores, number of examples, and their mean score and share of clicks, or None."""

    low: float
    high: float
    examples: int
    score: float | None
    clicks: float | None


class PartAuc(NamedTuple):
    """A part of the examples, its counts, its AUC and DeLong's standard error.

    The AUC is None unless both labels occur, the error unless each label occurs twice.
    """

    name: str
    examples: int
    clicks: int
    auc: float | None
    standard_error: float | None


def calibration(labels: np.ndarray, scores: np.ndarray, bins: int = 10) -> list[CalibrationBin]:
    """Return a reliability diagram of scores as probabilities: bins of equal width from 0 to 1.

    A share p of the examples with score p should be clicks. The bins of
    :func:`~dien_jax.metrics.calibration_error` have equal counts, which resolve similar scores.

    Source: Guo et al., ICML 2017 (arXiv:1706.04599).

    >>> bins = calibration(np.array([0, 1, 1, 1]), np.array([0.5, 0.5, 1.0, 1.0]), 2)
    >>> [(part.score, part.clicks) for part in bins]
    [(0.5, 0.5), (1.0, 1.0)]
    """
    labels, scores = checked(labels, scores)
    check_probabilities(scores)
    scores = scores.astype(np.float64)
    edges = np.linspace(0, 1, bins + 1).tolist()
    wide = np.clip(np.ceil(scores * bins).astype(int) - 1, 0, bins - 1)
    parts = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = wide == number
        means = (float(a[inside].mean()) if inside.any() else None for a in (scores, labels))
        parts.append(CalibrationBin(low, high, int(inside.sum()), *means))
    return parts


def auc_by_size(
    labels: np.ndarray, scores: np.ndarray, sizes: np.ndarray, factor: int = 2
) -> list[PartAuc]:
    """Return the AUC of examples grouped by size: 0, 1, 2-3, 4-7 and so on.

    ``sizes`` are integers ``[n]``, 0 or more. ``factor`` is the ratio of consecutive bounds: 4
    gives 0, 1-3, 4-15 and so on.

    >>> sizes = np.array([1, 1, 2, 3])
    >>> parts = auc_by_size(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.8, 0.4]), sizes)
    >>> [(part.name, part.auc) for part in parts]
    [('1', 1.0), ('2-3', 0.0)]
    """
    if factor < 2:
        raise ValueError(f"factor must be at least 2, got {factor}")
    bounds = [1]
    while bounds[-1] <= sizes.max(initial=0):
        bounds.append(bounds[-1] * factor)
    places = np.searchsorted(bounds, sizes, side="right")  # 0 for size 0, 1 from size 1
    parts = []
    for place in np.unique(places).tolist():
        inside = places == place
        low, high = (0, 0) if place == 0 else (bounds[place - 1], bounds[place] - 1)
        name = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        part = labels[inside], scores[inside]
        # The AUC of a constant is always 0.5, so the error of the difference is that of the AUC.
        error = delong(*part, np.zeros(len(part[0]), np.float32))
        counts = len(part[0]), int(part[0].sum())
        parts.append(PartAuc(name, *counts, auc(*part), error and error.standard_error))
    return parts


def pick(labels: np.ndarray, scores: np.ndarray, count: int) -> dict[str, list[int]]:
    """Pick at most ``count`` of the most wrong, the most right and the most typical examples.

    Of each kind return indices, the most extreme scores first; typical ones have median losses.
    """
    losses = example_losses(labels, scores)
    is_click = np.asarray(labels) == 1
    rising, falling = (np.argsort(order, kind="stable") for order in (scores, -scores))
    distances = np.abs(losses - np.median(losses)) if len(losses) else losses

    def first(order: np.ndarray, inside: np.ndarray) -> list[int]:
        return order[inside[order]][:count].tolist()

    return {
        "false alarms": first(falling, ~is_click),
        "misses": first(rising, is_click),
        "hits": first(falling, is_click),
        "rejections": first(rising, ~is_click),
        "typical": np.argsort(distances, kind="stable")[:count].tolist(),
    }

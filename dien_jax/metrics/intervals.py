"""Whether a difference between two models is more than chance: paired comparisons of scores.

Both score vectors are of the same examples, in the same order, labelled as in
:mod:`dien_jax.metrics.scores`, and every difference is ``scores`` minus ``baseline``. The intervals
answer two questions. :func:`delong` takes examples as independent draws; :func:`bootstrap` takes
users as independent, which is what holds in a click log, where one user's examples resemble each
other. Neither says anything about another training seed: :func:`paired_seeds` does.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit  # with JAX anyway

from dien_jax.metrics.scores import auc, checked, example_losses, gauc, logloss, ranked_pairs

CONFIDENCE = 0.95
RESAMPLES = 1000

_NORMAL_QUANTILE = 1.959963984540054
"""Of (1 + CONFIDENCE) / 2."""


class Difference(NamedTuple):
    """A difference and how far chance alone might have moved it.

    Attributes:
      value: the difference on all examples, or the mean over seeds.
      standard_error: of that.
      low: lower end of its 95% interval.
      high: upper end.
      p_value: two-sided, of the hypothesis that there is no difference; None where the method
        gives none.
    """

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float | None = None


def delong(labels: np.ndarray, scores: np.ndarray, baseline: np.ndarray) -> Difference | None:
    """Difference of two correlated AUCs, by the theory of U-statistics.

        V(i) = P(s_i > s-) + P(s_i = s-) / 2      for each click i, over the others
        W(j) = P(s+ > s_j) + P(s+ = s_j) / 2      for each other j, over the clicks
        AUC = mean V = mean W
        variance = var(V - V') / clicks + var(W - W') / others

    V' and W' are the baseline's and var divides by one less than the count, so the last line is
    var(AUC) + var(AUC') - 2 cov(AUC, AUC') with the (co)variances of DeLong, DeLong and
    Clarke-Pearson (Biometrics 44, 1988). V and W come from ranks, ties sharing theirs, in
    O(n log n) as in Sun and Xu (IEEE Signal Processing Letters 21, 2014). The interval and the
    p-value are the normal distribution's. Where both models rank all pairs right or wrong the
    variance is 0, and the normal approximation says nothing.

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``, higher for a likelier click.
      baseline: ``[n]``, the other model's; or ``[K, n]``, of a model that draws its scores, whose
        mean AUC over the K draws is meant: an example's V and W are means over them.

    Returns:
      The difference; None without two clicks and two others.

    Raises:
      ValueError: if shapes differ or a label is neither 0 nor 1; UserError: if a score is NaN.
    """
    labels, scores = checked(labels, scores)
    draws = [checked(labels, draw)[1] for draw in np.atleast_2d(baseline)]
    clicks = int(labels.sum())
    others = labels.size - clicks
    if min(clicks, others) < 2:
        return None
    areas = [area for draw in draws if (area := auc(labels, draw)) is not None]
    value = (auc(labels, scores) or 0.0) - math.fsum(areas) / len(areas)
    of_draws = zip(*(_placements(labels, draw) for draw in draws), strict=True)
    of_clicks, of_others = (
        one - np.mean(of_each, axis=0)
        for one, of_each in zip(_placements(labels, scores), of_draws, strict=True)
    )
    variance = of_clicks.var(ddof=1) / clicks + of_others.var(ddof=1) / others
    error = math.sqrt(variance)
    margin = _NORMAL_QUANTILE * error
    p_value = 1.0 if value == 0 else 0.0
    if error:
        p_value = math.erfc(abs(value) / error / math.sqrt(2))
    return Difference(value, error, value - margin, value + margin, p_value)


def bootstrap(
    labels: np.ndarray,
    scores: np.ndarray,
    baseline: np.ndarray,
    groups: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference | None]:
    """Differences of AUC, GAUC and log loss, with users as what chance draws.

    Each resample draws as many users as there are, with replacement, each with all of its
    examples, and takes both models' metrics on them (Field and Welsh, JRSS B 69, 2007). The
    interval lies between percentiles of the differences, whose deviation is the standard error.

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``, probabilities of a click.
      baseline: ``[n]``, the other model's.
      groups: ``[n]``, any integers, the user of each example.
      resamples: how many.
      seed: of the draws: equal ones give equal intervals.

    Returns:
      Differences of ``auc``, ``gauc`` and ``logloss`` (without a p-value). None where a metric is
      undefined on all examples, or on more than half of the resamples; other resamples without
      it are left out. None too with one user only, of whom nothing is known but that one.

    Raises:
      ValueError: if shapes differ, a label is neither 0 nor 1, a score is outside [0, 1] or there
        is not one resample; UserError: if a score is NaN.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    values = {
        "auc": _difference(auc(labels, scores), auc(labels, baseline)),
        "gauc": _difference(
            gauc(labels, scores, groups).value, gauc(labels, baseline, groups).value
        ),
        "logloss": _difference(logloss(labels, scores), logloss(labels, baseline)),
    }
    clicked, scores = checked(labels, scores)
    baseline = np.asarray(baseline)
    names, user = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return dict.fromkeys(values)
    first, second = _Resampled(clicked, scores, user), _Resampled(clicked, baseline, user)
    losses = example_losses(clicked, scores) - example_losses(clicked, baseline)
    sums = np.bincount(user, losses)
    counts = np.bincount(user)
    areas = first.user_areas - second.user_areas
    ranked = np.where(first.user_has_both, counts, 0)
    random = np.random.default_rng(seed)
    drawn = {name: np.full(resamples, np.nan) for name in values}
    for number in range(resamples):
        times = np.bincount(random.integers(len(names), size=len(names)), minlength=len(names))
        drawn["logloss"][number] = times @ sums / (times @ counts)
        if (weight := times @ ranked) > 0:
            drawn["gauc"][number] = (times * ranked) @ areas / weight
        if (ours := first.auc(times)) is not None and (theirs := second.auc(times)) is not None:
            drawn["auc"][number] = ours - theirs
    return {name: _percentiles(value, drawn[name]) for name, value in values.items()}


def paired_seeds(values: Sequence[float], baseline: Sequence[float]) -> Difference | None:
    """Mean difference of a metric over training seeds, with Student's t interval.

    Args:
      values: the metric by seed.
      baseline: the other model's, by the same seeds on the same data.

    Returns:
      The difference; None with fewer than two seeds.

    Raises:
      ValueError: if the lengths differ or a value is not finite.
    """
    ours, theirs = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise ValueError(
            f"values and baseline must be [seeds] of one length, got {ours.shape} and "
            f"{theirs.shape}"
        )
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError(f"values must be finite, got {ours.tolist()} and {theirs.tolist()}")
    seeds = len(ours)
    if seeds < 2:
        return None
    differences = ours - theirs
    value = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(seeds)
    margin = float(stdtrit(seeds - 1, (1 + CONFIDENCE) / 2)) * error
    p_value = 1.0 if value == 0 else 0.0
    if error:
        p_value = 2 * float(stdtr(seeds - 1, -abs(value) / error))
    return Difference(value, error, value - margin, value + margin, p_value)


class _Resampled:
    """AUCs of one score vector: of each user, and of all examples of users drawn so often.

    Attributes:
      user_areas: ``[users]``, the AUC of each user; 0 where that is undefined.
      user_has_both: ``[users]``, whether it is defined.
    """

    def __init__(self, clicked: np.ndarray, scores: np.ndarray, user: np.ndarray) -> None:
        doubled_wins, clicks, others = ranked_pairs(
            clicked, scores, user, np.lexsort((scores, user))
        )
        self.user_has_both = (clicks > 0) & (others > 0)
        self.user_areas = doubled_wins / np.maximum(2.0 * clicks * others, 1)
        order = np.argsort(scores)
        ordered = scores[order]
        self._ties = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self._clicked, self._user = clicked[order], user[order]

    def auc(self, times: np.ndarray) -> float | None:
        """The area where each user counts as often as ``times`` says: integers ``[users]``."""
        weights = times[self._user]
        clicks = np.add.reduceat(np.where(self._clicked, weights, 0), self._ties)
        others = np.add.reduceat(np.where(self._clicked, 0, weights), self._ties)
        pairs = int(clicks.sum()) * int(others.sum())
        if not pairs:
            return None
        below = np.cumsum(others) - others
        return int(clicks @ (2 * below + others)) / (2 * pairs)


def _placements(clicked: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V of each click and W of each other, as :func:`delong` has them."""
    clicks, others = np.sort(scores[clicked]), np.sort(scores[~clicked])
    below = np.searchsorted(others, scores[clicked], "left")
    below = below + np.searchsorted(others, scores[clicked], "right")
    above = np.searchsorted(clicks, scores[~clicked], "left")
    above = above + np.searchsorted(clicks, scores[~clicked], "right")
    return below / (2.0 * others.size), 1 - above / (2.0 * clicks.size)


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _percentiles(value: float | None, drawn: np.ndarray) -> Difference | None:
    found = drawn[~np.isnan(drawn)]
    if value is None or len(found) < max(2, len(drawn) / 2):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Difference(value, float(found.std(ddof=1)), float(low), float(high))

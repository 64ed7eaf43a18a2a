"""Intervals of the difference between two models: paired comparisons of scores.

Both score vectors are for the same examples, in the same order, with arrays and errors as in
:mod:`dien_jax.metrics`. Every difference is ``scores`` minus ``baseline``. :func:`delong` assumes
that examples are independent. :func:`bootstrap` assumes that users are independent, which is right
for click logs, where the examples of a user are correlated. Neither covers the variation between
training seeds: :func:`paired_seeds` does.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dien_jax.metrics.scores import METRICS, Metric, auc, checked

CONFIDENCE = 0.95
RESAMPLES = 1000

_NORMAL_QUANTILE = 1.959963984540054  # the quantile of (1 + CONFIDENCE) / 2
_OfResample = Callable[[np.ndarray], float | None]


class Difference(NamedTuple):
    """A difference and its uncertainty.

    Attributes:
      value: the difference on all examples, or the mean over seeds.
      standard_error, low, high: its standard error, and the ends of its 95% interval.
      p_value: two-sided, of the hypothesis of no difference; None if the method has none.
    """

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float | None = None


def delong(labels: np.ndarray, scores: np.ndarray, baseline: np.ndarray) -> Difference | None:
    """Return the difference of two correlated AUCs, by the theory of U-statistics.

        V(i) = P(s_i > s-) + P(s_i = s-) / 2      for each click i, over the non-clicks
        W(j) = P(s+ > s_j) + P(s+ = s_j) / 2      for each non-click j, over the clicks
        AUC = mean V = mean W
        variance = var(V - V') / clicks + var(W - W') / non-clicks

    V' and W' are the baseline's and var divides by one less than the count, so the last line is
    var(AUC) + var(AUC') - 2 cov(AUC, AUC') with the (co)variances of DeLong, DeLong and
    Clarke-Pearson (Biometrics 44, 1988). V and W come from ranks, averaged over ties, in
    O(n log n) as in Sun and Xu (IEEE Signal Processing Letters 21, 2014). The interval and the
    p-value are those of the normal distribution. If both models rank all pairs right, or all
    wrong, the variance is 0 and the normal approximation does not hold.

    None without two clicks and two non-clicks.

    >>> labels = np.array([1, 1, 0, 0])
    >>> scores, baseline = np.array([0.9, 0.6, 0.3, 0.2]), np.array([0.9, 0.2, 0.3, 0.1])
    >>> delong(labels, scores, baseline).value
    0.25
    """
    (labels, scores), (_, baseline) = checked(labels, scores), checked(labels, baseline)
    clicks, others = int(labels.sum()), int((~labels).sum())
    if min(clicks, others) < 2:
        return None
    value = (auc(labels, scores) or 0.0) - (auc(labels, baseline) or 0.0)
    sides = _placements(labels, scores), _placements(labels, baseline)
    clicks_part, others_part = (ours - theirs for ours, theirs in zip(*sides, strict=True))
    error = math.sqrt(clicks_part.var(ddof=1) / clicks + others_part.var(ddof=1) / others)
    return _with_interval(value, error, _NORMAL_QUANTILE, lambda z: math.erfc(z / math.sqrt(2)))


def auc_interval(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float] | None:
    """Return the 95% interval of an AUC, within [0, 1], by the variance of :func:`delong`.

    None without two clicks and two non-clicks.

    >>> low, high = auc_interval(np.array([1, 1, 0, 0]), np.array([0.9, 0.3, 0.6, 0.2]))
    >>> low < 0.75 < high
    True
    """
    of_chance = delong(labels, scores, np.zeros(len(scores)))  # an AUC of 1/2, without variance
    if of_chance is None:
        return None
    return max(0.0, 0.5 + of_chance.low), min(1.0, 0.5 + of_chance.high)


def bootstrap(
    labels: np.ndarray,
    scores: np.ndarray,
    baseline: np.ndarray,
    groups: np.ndarray,
    *,
    known: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference | None]:
    """Return the differences of all metrics of ``METRICS``, with intervals over resampled users.

    Each resample draws as many users as there are, with replacement, each with all of its
    examples, and evaluates both models on them (Field and Welsh, JRSS B 69, 2007). The interval
    is between percentiles of the differences; their standard deviation is the standard error.
    ``known`` is bool ``[n]``: whether the candidate is known from training; None if all are.

    Returns:
      Differences by the metrics' names, without a p-value. A difference is None if the metric is
      undefined on all examples or on more than half of the resamples, or if there is only one
      user. Resamples on which it is undefined are ignored.

    >>> labels, users = np.array([1, 0, 1, 0]), np.array([1, 1, 2, 2])
    >>> scores, baseline = np.array([0.9, 0.2, 0.8, 0.4]), np.array([0.5, 0.2, 0.5, 0.6])
    >>> bootstrap(labels, scores, baseline, users, resamples=20)["auc"].value
    0.5
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    (clicked, scores), baseline = checked(labels, scores), np.asarray(baseline)
    values = [
        _difference(*(metric(clicked, array, groups, known) for array in (scores, baseline)))
        for metric in METRICS.values()
    ]
    names, user = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return dict.fromkeys(METRICS)
    differences = [
        _resampled_difference(metric, *metric.counted(known, clicked, scores, baseline, user))
        for metric in METRICS.values()
    ]
    columns = _drawn(len(names), resamples, seed, differences)
    return dict(zip(METRICS, map(_percentiles, values, columns), strict=True))


def mean_over_users(
    values: np.ndarray, groups: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference | None:
    """Return the mean of values ``[n]``, with an interval over users as in :func:`bootstrap`.

    ``groups`` ``[n]`` is the user of each value. None with fewer than two users.

    >>> interval = mean_over_users(np.array([1.0, 0.0, 1.0]), np.array([1, 2, 2]))
    >>> interval.low <= interval.value <= interval.high
    True
    """
    names, user = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    sums, counts = np.bincount(user, values), np.bincount(user)
    mean: _OfResample = lambda times: float(times @ sums) / float(times @ counts)  # noqa: E731
    [drawn] = _drawn(len(names), resamples, seed, [mean])
    return _percentiles(float(np.mean(values)), drawn)


def paired_seeds(values: Sequence[float], baseline: Sequence[float]) -> Difference | None:
    """Return the mean difference of a metric over training seeds, with Student's t interval.

    Both models need finite values for the same seeds on the same data. None with fewer than two.

    >>> round(paired_seeds([0.75, 0.77], [0.70, 0.74]).value, 4)
    0.04
    """
    ours, theirs = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape:
        shapes = f"{ours.shape} and {theirs.shape}"
        raise ValueError(f"values and baseline must be [seeds] of one length, got {shapes}")
    if not np.isfinite([ours, theirs]).all():
        raise ValueError(f"values must be finite, got {ours.tolist()} and {theirs.tolist()}")
    if (seeds := len(ours)) < 2:
        return None
    from scipy.special import stdtr, stdtrit  # 0.1 s; a dependency of JAX

    mean, error = (ours - theirs).mean(), (ours - theirs).std(ddof=1) / math.sqrt(seeds)
    quantile = float(stdtrit(seeds - 1, (1 + CONFIDENCE) / 2))
    p_value = lambda t: 2 * float(stdtr(seeds - 1, -t))  # noqa: E731
    return _with_interval(float(mean), float(error), quantile, p_value)


def _drawn(users: int, resamples: int, seed: int, of: Sequence[_OfResample]) -> np.ndarray:
    """Return functions of how often each user is drawn, one row each; NaN where undefined."""
    random, drawn = np.random.default_rng(seed), []
    for _ in range(resamples):
        times = np.bincount(random.integers(users, size=users), minlength=users)
        drawn.append([function(times) for function in of])
    return np.array(drawn, np.float64).T  # None becomes NaN


def _with_interval(value: float, error: float, quantile: float, p_value: Callable) -> Difference:
    p = 1.0 if value == 0 else p_value(abs(value) / error) if error else 0.0
    return Difference(value, error, value - quantile * error, value + quantile * error, p)


def _resampled_difference(
    metric: Metric, clicked: np.ndarray, scores: np.ndarray, baseline: np.ndarray, user: np.ndarray
) -> _OfResample:
    """Return the difference of a metric as a function of how often each user is drawn."""
    if metric.interval == "delong":
        ours, theirs = _weighted_auc(clicked, scores, user), _weighted_auc(clicked, baseline, user)
        return lambda times: _difference(ours(times), theirs(times))
    if metric.user_terms is not None:
        sums, weights = metric.user_terms(clicked, scores, user)
        sums = sums - metric.user_terms(clicked, baseline, user)[0]
        return lambda times: times @ sums / weight if (weight := times @ weights) > 0 else None

    def evaluated(times: np.ndarray) -> float | None:
        rows = np.repeat(np.arange(len(user)), times[user])
        labels, users = clicked[rows], user[rows]
        return _difference(*(metric(labels, s[rows], users) for s in (scores, baseline)))

    return evaluated


def _weighted_auc(clicked: np.ndarray, scores: np.ndarray, user: np.ndarray) -> _OfResample:
    """Return the AUC as a function of how often each user counts: integers ``[users]``."""
    order = np.argsort(scores)
    ordered, is_click, user = scores[order], clicked[order], user[order]
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    ties = np.flatnonzero(is_first)

    def weighted(times: np.ndarray) -> float | None:
        weights = times[user]
        clicks = np.add.reduceat(np.where(is_click, weights, 0), ties)
        others = np.add.reduceat(np.where(is_click, 0, weights), ties)
        pairs = int(clicks.sum()) * int(others.sum())
        if not pairs:
            return None
        below = np.cumsum(others) - others
        return int(clicks @ (2 * below + others)) / (2 * pairs)

    return weighted


def _placements(clicked: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return V of each click and W of each non-click, see :func:`delong`."""

    def share_below(own: np.ndarray, other: np.ndarray) -> np.ndarray:
        other = np.sort(other)
        below = np.searchsorted(other, own, "left") + np.searchsorted(other, own, "right")
        return below / (2.0 * other.size)

    clicks, others = scores[clicked], scores[~clicked]
    return share_below(clicks, others), 1 - share_below(others, clicks)


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _percentiles(value: float | None, drawn: np.ndarray) -> Difference | None:
    defined = drawn[~np.isnan(drawn)]
    if value is None or len(defined) < max(2, len(drawn) / 2):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Difference(value, float(defined.std(ddof=1)), float(low), float(high))

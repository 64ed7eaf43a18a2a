"""AUC, GAUC, log loss and calibration error of scored examples, and their table.

Counts are integers and sums float64, so millions of examples lose no precision. The arrays are
described in :mod:`dien_jax.metrics`.

To add a metric, write its function and add one entry to ``METRICS``: evaluations, TensorBoard,
tables, reports and comparisons loop over that table. AUC chooses checkpoints.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from dien_jax.errors import UserError

LOGLOSS_EPSILON = float(np.finfo(np.float32).eps)  # minimum distance of p from 0 and 1

CALIBRATION_BINS = 15  # bins of equal counts in the calibration error

_ByUser = tuple[np.ndarray, np.ndarray]


class Gauc(NamedTuple):
    """AUC within each user, averaged over users.

    Attributes:
      value: the mean, weighted by each user's number of examples; None without such users.
      users, left_out: numbers of users with both labels, which count, and with only one label.
    """

    value: float | None
    users: int
    left_out: int


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the area under the ROC curve: P(s+ > s-) + P(s+ = s-) / 2.

    Here s+ is the score of a random click and s- that of a random non-click, so equal scores count
    half and a constant score gives 0.5. Exact, by sorting, in O(n log n). None unless both labels
    occur.

    >>> auc(np.array([1, 0, 1, 0]), np.array([0.9, 0.2, 0.4, 0.4]))
    0.875
    """
    one_group = np.zeros(np.size(labels), np.int8)
    areas, examples = _user_aucs(labels, scores, one_group, np.argsort(scores))
    return float(areas[0]) if examples.any() else None


def gauc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Gauc:
    """Return the AUC within each group (a user), averaged by the groups' example counts.

    Equal integers in ``groups`` ``[n]`` are one group. Groups with one label only have no AUC; they
    are left out and counted. See "Deep Interest Network for Click-Through Rate Prediction" (Zhou et
    al., KDD 2018), section 6.

    >>> users = np.array([1, 1, 2, 2, 3])
    >>> gauc(np.array([1, 0, 0, 1, 1]), np.array([0.9, 0.2, 0.6, 0.4, 0.5]), users)
    Gauc(value=0.5, users=2, left_out=1)
    """
    areas, examples = _user_aucs(labels, scores, groups)
    defined = examples > 0
    users, weights = int(defined.sum()), examples[defined].astype(np.float64)
    value = float(areas[defined] @ weights / weights.sum()) if users else None
    return Gauc(value, users, defined.size - users)


def logloss(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the mean of -log(p) over clicks and -log(1 - p) over the others, in nats.

    To avoid log(0), p is clipped to [epsilon, 1 - epsilon] with ``LOGLOSS_EPSILON``: one example
    adds at most 15.95. None without examples.

    >>> round(logloss(np.array([1, 0]), np.array([0.9, 0.2])), 4)
    0.1643
    """
    losses = example_losses(labels, scores)
    return float(losses.mean()) if losses.size else None


def normalised_entropy(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the log loss divided by that of a constant score, the share of clicks.

    Below 1, scores are better than the constant. None unless both labels occur.

    Source: He et al., ADKDD 2014 ("Practical Lessons from Predicting Clicks on Ads"), section 3.

    >>> normalised_entropy(np.array([1, 0, 0, 0]), np.full(4, 0.25))
    1.0
    """
    losses, share = example_losses(labels, scores), np.mean(labels) if np.size(labels) else 0.0
    if not 0 < share < 1:
        return None
    return float(losses.mean() / -(share * np.log(share) + (1 - share) * np.log(1 - share)))


def calibration_error(
    labels: np.ndarray, scores: np.ndarray, bins: int = CALIBRATION_BINS
) -> float | None:
    r"""Return the expected calibration error: the mean of \|score - share of clicks\| over bins.

    Bins have equal numbers of examples in the order of scores, and are weighted by them; if there
    are fewer examples than ``bins``, each has its own bin. Equal scores share their clicks evenly,
    so the order of examples does not matter. None without examples.

    Source: Naeini et al., AAAI 2015; Nixon et al., CVPR workshops 2019 (arXiv:1904.01685), for
    equal counts.

    >>> round(calibration_error(np.array([0, 1, 1, 1]), np.full(4, 0.5)), 2)
    0.25
    """
    labels, scores = checked(labels, scores)
    check_probabilities(scores)
    if not scores.size:
        return None
    order = np.argsort(scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    ties = np.cumsum(np.concatenate([[0], np.diff(ordered) != 0])).astype(int)
    clicks = (np.bincount(ties, labels[order]) / np.bincount(ties))[ties]
    bin_of = np.arange(scores.size) * bins // scores.size
    return float(np.abs(np.bincount(bin_of, ordered - clicks)).sum() / scores.size)


def example_losses(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the term of each example in :func:`logloss`, in nats: float64 ``[n]``."""
    labels, scores = checked(labels, scores)
    check_probabilities(scores)
    probability = np.clip(scores.astype(np.float64), LOGLOSS_EPSILON, 1 - LOGLOSS_EPSILON)
    return -np.log(np.where(labels, probability, 1 - probability))


def check_probabilities(scores: np.ndarray) -> None:
    if np.size(scores) and ((low := np.min(scores)) < 0 or np.max(scores) > 1):
        raise ValueError(f"scores must be probabilities, got values from {low} to {np.max(scores)}")


def _user_aucs(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, order: np.ndarray | None = None
) -> _ByUser:
    """Return AUC and number of examples of each group, in order; 0 where the AUC is undefined.

    ``order`` sorts by group, then by score. Pairs of a click and a non-click are counted in int64:
    two for each pair that the click wins, one for each tie.
    """
    labels, scores = checked(labels, scores)
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups must have shape {labels.shape}, got {groups.shape}")
    if not labels.size:
        return np.zeros(0), np.zeros(0, np.int64)
    order = np.lexsort((scores, groups)) if order is None else order
    labels, scores, groups = labels[order], scores[order], groups[order]
    new_group = np.concatenate([[True], groups[1:] != groups[:-1]])
    new_tie = new_group | np.concatenate([[True], scores[1:] != scores[:-1]])
    ties = np.flatnonzero(new_tie)  # where each run of equal scores within a group starts
    tie_clicks = np.add.reduceat(labels.astype(np.int64), ties)
    tie_others = np.diff(ties, append=labels.size) - tie_clicks
    first_tie = np.flatnonzero(new_group[ties])  # the first of those runs in each group
    clicks = np.add.reduceat(tie_clicks, first_tie)
    others = np.add.reduceat(tie_others, first_tie)
    below = np.cumsum(tie_others) - tie_others
    below -= np.repeat(below[first_tie], np.diff(first_tie, append=ties.size))
    doubled_wins = np.add.reduceat(tie_clicks * (2 * below + tie_others), first_tie)
    pairs = clicks * others
    return doubled_wins / np.maximum(2.0 * pairs, 1), np.where(pairs > 0, clicks + others, 0)


def _gauc_terms(labels: np.ndarray, scores: np.ndarray, user: np.ndarray) -> _ByUser:
    areas, weights = _user_aucs(labels, scores, user)
    return weights * areas, weights


def _logloss_terms(labels: np.ndarray, scores: np.ndarray, user: np.ndarray) -> _ByUser:
    return np.bincount(user, example_losses(labels, scores)), np.bincount(user)


@dataclass(frozen=True)
class Metric:
    """One metric of the table ``METRICS``.

    Attributes:
      name: its key in ``result.json``, ``metrics.jsonl`` and TensorBoard tags.
      label: its name in tables and plots.
      function: ``(labels, scores, groups)``, each ``[n]``, to the metric; None where undefined.
      higher_is_better: the direction that is better.
      known_only: whether only examples with a candidate known from training count.
      interval: of a difference between two models: ``"users"`` resamples users; ``"delong"``, for
        AUCs only, adds DeLong's interval.
      user_terms: ``(labels, scores, user)`` to numerators and denominators ``[users]``; the metric
        is the ratio of their sums over users. ``user`` numbers users from 0. It makes resampling
        fast; without it the metric is evaluated on each resample.
    """

    name: str
    label: str
    function: Callable[[np.ndarray, np.ndarray, np.ndarray], float | None]
    higher_is_better: bool = True
    known_only: bool = False
    interval: Literal["delong", "users"] = "users"
    user_terms: Callable[[np.ndarray, np.ndarray, np.ndarray], _ByUser] | None = None

    def __call__(
        self,
        labels: np.ndarray,
        scores: np.ndarray,
        groups: np.ndarray,
        known: np.ndarray | None = None,
    ) -> float | None:
        """Return the metric of scored examples; None where it is undefined.

        ``known`` is bool ``[n]``: whether the candidate is known from training; None if all are.
        """
        return self.function(*self.counted(known, labels, scores, groups))

    def counted(self, known: np.ndarray | None, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the entries of arrays ``[n]`` that the metric counts."""
        if known is None or not self.known_only:
            return arrays
        return tuple(np.asarray(array)[known] for array in arrays)

    def text(self, metrics: Mapping[str, Any], absent: str = "") -> str:
        """Return the metric's cell in a table, from metrics by name."""
        value = metrics.get(self.name, absent)
        return "none" if value is None else value if value is absent else f"{value:.4f}"


def _of_scores(function: Callable[[np.ndarray, np.ndarray], float | None]) -> Callable:
    """Add an argument ``groups``, which is ignored, to a function of labels and scores."""
    return lambda labels, scores, groups: function(labels, scores)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("auc", "AUC", _of_scores(auc), interval="delong"),
        Metric("auc_known", "AUC known", _of_scores(auc), known_only=True, interval="delong"),
        Metric("gauc", "GAUC", lambda *arrays: gauc(*arrays).value, user_terms=_gauc_terms),
        Metric("logloss", "log loss", _of_scores(logloss), False, user_terms=_logloss_terms),
        Metric("normalised_entropy", "normalised entropy", _of_scores(normalised_entropy), False),
        Metric("calibration_error", "calibration error", _of_scores(calibration_error), False),
    )
}
"""The metrics that are reported, by name, in the order of tables."""

SELECTION = ("auc", "logloss")  # choose the best checkpoint: the first that is defined


def selection_score(metrics: Mapping[str, Any]) -> float | None:
    """Return the first metric of ``SELECTION`` that is defined, negated where lower is better."""
    for name in SELECTION:
        if (value := metrics.get(name)) is not None:
            return value if METRICS[name].higher_is_better else -value
    return None


def evaluate_scores(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, known: np.ndarray | None = None
) -> dict[str, Any]:
    """Return every metric of one split, named as in ``result.json`` and ``metrics.jsonl``.

    ``known`` is bool ``[n]``: whether the candidate is known from training; None if all are.

    Returns:
      The metrics of ``METRICS`` (None where undefined), ``examples`` (n), ``gauc_users`` and
      ``gauc_left_out`` (users with both labels, and with one).

    >>> labels, scores = np.array([1, 0, 1]), np.array([0.9, 0.2, 0.1])
    >>> metrics = evaluate_scores(labels, scores, np.array([7, 7, 8]))
    >>> metrics["auc"], metrics["gauc"], metrics["gauc_left_out"]
    (0.5, 1.0, 1)
    """
    values = {name: metric(labels, scores, groups, known) for name, metric in METRICS.items()}
    _, users, left_out = gauc(labels, scores, groups)
    return {**values, "examples": len(labels), "gauc_users": users, "gauc_left_out": left_out}


def checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check labels and scores; return labels as bool and scores unchanged."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 1 or labels.shape != scores.shape:
        shapes = f"{labels.shape} and {scores.shape}"
        raise ValueError(f"labels and scores must be [n] of one length, got {shapes}")
    clicked = labels == 1
    if not np.all(clicked | (labels == 0)):
        raise ValueError(f"labels must be 0 or 1, got {np.unique(labels)[:8].tolist()}")
    if (missing := np.isnan(scores)).any():
        first = f"the first that of example {int(missing.argmax())}"
        problem = f"{int(missing.sum())} of {scores.size} scores are not a number, {first}"
        raise UserError(f"{problem}: the model's parameters are not finite")
    return clicked, scores

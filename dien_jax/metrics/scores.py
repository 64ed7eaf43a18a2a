"""AUC, GAUC, log loss and accuracy of scored examples, exact and in numpy.

Labels are 0 or 1 (1 is a click) and scores any numbers that rank the examples, higher for a
likelier click; log loss and accuracy need probabilities. All arrays are one-dimensional and of
one length. Counts are integers and sums float64, so nothing is lost over millions of examples.
A metric that its examples do not define is None, never 0.5 and never NaN.
"""

from typing import NamedTuple

import numpy as np

from dien_jax.errors import UserError

LOGLOSS_EPSILON = float(np.finfo(np.float32).eps)
"""Probabilities are kept this far from 0 and 1 in the log loss: float32 resolves no more."""


class Gauc(NamedTuple):
    """AUC within each user, averaged over users.

    Attributes:
      value: the mean, each user weighing as many as their examples; None without such users.
      users: how many users have both labels and are averaged over.
      left_out: how many users have one label only.
    """

    value: float | None
    users: int
    left_out: int


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve: P(s+ > s-) + P(s+ = s-) / 2.

    Here s+ is the score of a random click and s- that of a random example that is none, so equal
    scores count half and a constant score gives 0.5. Exact, by sorting, in O(n log n).

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``.

    Returns:
      The area in [0, 1]; None unless both labels occur.

    Raises:
      ValueError: if shapes differ or a label is neither 0 nor 1; UserError: if a score is NaN.
    """
    labels, scores = checked(labels, scores)
    groups = np.zeros(labels.size, np.int8)
    doubled_wins, clicks, others = ranked_pairs(labels, scores, groups, np.argsort(scores))
    if not clicks.size or not clicks[0] or not others[0]:
        return None
    return int(doubled_wins[0]) / (2 * int(clicks[0]) * int(others[0]))


def gauc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Gauc:
    """AUC within each group (a user), averaged with the groups' example counts as weights.

    Groups with one label only have no AUC; they are left out and counted. See "Deep Interest
    Network for Click-Through Rate Prediction" (Zhou et al., KDD 2018), section 6.

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``.
      groups: ``[n]``, any integers; equal ones are one group.

    Raises:
      ValueError: if shapes differ or a label is neither 0 nor 1; UserError: if a score is NaN.
    """
    labels, scores = checked(labels, scores)
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups must have shape {labels.shape}, got {groups.shape}")
    order = np.lexsort((scores, groups))
    doubled_wins, clicks, others = ranked_pairs(labels, scores, groups, order)
    both = (clicks > 0) & (others > 0)
    users = int(both.sum())
    if not users:
        return Gauc(None, 0, both.size)
    doubled_wins, clicks, others = doubled_wins[both], clicks[both], others[both]
    areas = doubled_wins / (2.0 * clicks * others)
    weights = (clicks + others).astype(np.float64)
    return Gauc(float(areas @ weights / weights.sum()), users, both.size - users)


def logloss(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Mean of -log(p) over clicks and -log(1 - p) over the others.

    Only against log(0), p is kept in [epsilon, 1 - epsilon] with ``LOGLOSS_EPSILON``: one example
    adds at most 15.95.

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``, probabilities of a click.

    Returns:
      The mean in nats; None without examples.

    Raises:
      ValueError: if shapes differ, a label is neither 0 nor 1 or a score is outside [0, 1];
        UserError: if a score is NaN.
    """
    losses = example_losses(labels, scores)
    return float(losses.mean()) if losses.size else None


def example_losses(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """What each example adds to the sum in :func:`logloss`, in nats: float64 ``[n]``.

    Raises:
      ValueError, UserError: as :func:`logloss`.
    """
    labels, scores = checked(labels, scores)
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        raise ValueError(
            f"scores must be probabilities, got values from {scores.min()} to {scores.max()}"
        )
    probability = np.clip(scores.astype(np.float64), LOGLOSS_EPSILON, 1 - LOGLOSS_EPSILON)
    return -np.log(np.where(labels, probability, 1 - probability))


def accuracy(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Share of examples whose score is above one half exactly if they are clicks.

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``, probabilities of a click.

    Returns:
      The share in [0, 1]; None without examples.

    Raises:
      ValueError: if shapes differ or a label is neither 0 nor 1; UserError: if a score is NaN.
    """
    labels, scores = checked(labels, scores)
    return float(((scores > 0.5) == labels).mean()) if labels.size else None


def evaluate_scores(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray
) -> dict[str, float | int | None]:
    """Every metric of one split, named as ``result.json`` and ``metrics.jsonl`` name them.

    Args:
      labels: ``[n]``, 0 or 1.
      scores: ``[n]``, probabilities of a click.
      groups: ``[n]``, integers, the user of each example.

    Returns:
      ``auc``, ``gauc``, ``logloss`` and ``accuracy`` (None where undefined), ``examples`` (n),
      ``gauc_users`` and ``gauc_left_out`` (users with both labels, and with one).

    Raises:
      ValueError, UserError: as :func:`auc`, :func:`gauc` and :func:`logloss`.
    """
    grouped = gauc(labels, scores, groups)
    return {
        "auc": auc(labels, scores),
        "gauc": grouped.value,
        "logloss": logloss(labels, scores),
        "accuracy": accuracy(labels, scores),
        "examples": len(labels),
        "gauc_users": grouped.users,
        "gauc_left_out": grouped.left_out,
    }


def checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores as they are, both checked.

    Raises:
      ValueError: if shapes differ or a label is neither 0 nor 1; UserError: if a score is NaN.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"labels and scores must be [n] of one length, got {labels.shape} and {scores.shape}"
        )
    clicked = labels == 1
    if not np.all(clicked | (labels == 0)):
        raise ValueError(f"labels must be 0 or 1, got {np.unique(labels)[:8].tolist()}")
    missing = np.isnan(scores)
    if missing.any():
        raise UserError(
            f"{int(missing.sum())} of {scores.size} scores are not a number, the first that of "
            f"example {int(missing.argmax())}: the model's parameters are not finite"
        )
    return clicked, scores


def ranked_pairs(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranked pairs of every group, in order of the groups.

    Args:
      labels: bool ``[n]``.
      scores: ``[n]``.
      groups: ``[n]``.
      order: ``[n]``, sorts by group, then by score.

    Returns:
      int64 ``[G]`` each: twice the (click, other) pairs that the click wins plus those that tie,
      the clicks and the others.
    """
    if not order.size:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
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
    return doubled_wins, clicks, others
